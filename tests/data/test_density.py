"""Data sets of density maps: what is read back is what was encoded, turned on loading."""

from __future__ import annotations

import numpy as np
import pytest

from voxtal.config import build_config
from voxtal.data.batches import coordinates
from voxtal.data.dataset import DensityDataset, VoxelDataset
from voxtal.data.voxelize import voxelize
from voxtal.errors import UserError
from voxtal.parallel.communicator import SerialCommunicator
from voxtal.representations.density import DensityGrid, coordinate_grid, encode_density
from voxtal.representations.rotations import ROTATIONS
from voxtal.structures.structure_set import StructureSet

SETTINGS = build_config({"density": {"grid": 12, "structures_per_shard": 8}}).density


@pytest.fixture
def folder(structure_file, tmp_path):
    """Forty structures as density maps, in six shards."""
    voxelize(structure_file, tmp_path / "density", SETTINGS, SerialCommunicator())
    return tmp_path / "density"


def test_maps_read_back_as_encoded(structure_file, folder):
    """Training would see other maps than were encoded, or those of another structure."""
    structures, dataset, grid = (
        StructureSet.read(structure_file),
        DensityDataset(folder, SETTINGS),
        DensityGrid.of(SETTINGS),
    )
    assert dataset.n_structures == 40 + 1  # a cell too long for lattice voxels is no trouble here
    order = np.random.default_rng(0).permutation(dataset.n_structures)
    batch = dataset.maps(order)
    grids = coordinates(batch, "cpu").numpy()
    for k, i in enumerate(order):
        expected = encode_density(*structures.arrays(dataset.rows[i]), grid)
        assert np.abs(batch.density[k] - expected.density).max() <= 0.51 * expected.density.max() / 65535
        assert np.array_equal(batch.species[k], expected.species)
        assert np.abs(grids[k] - coordinate_grid(expected.cell, grid)).max() < 1e-5


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_maps_are_turned_on_loading(folder, rotation):
    """Density, species and coordinates would be turned differently: another crystal than the label's."""
    dataset = DensityDataset(folder)
    plain, turned = dataset.maps([3]), dataset.maps([3], [rotation])
    assert np.array_equal(turned.density, rotation(plain.density))
    assert np.array_equal(turned.species, rotation(plain.species))
    assert np.allclose(coordinates(turned, "cpu"), rotation(coordinates(plain, "cpu").numpy()), atol=1e-6)


def test_bad_rows_are_recorded(folder):
    """A structure would be lost without a word."""
    bad = {row: reason for row, _, reason in DensityDataset(folder).bad}
    assert bad == {5: "atoms closer than 0.5 A", 11: "not finite", 20: "no atoms"}


def test_the_other_representation_is_refused(structure_file, folder, tmp_path):
    """Density maps would be read as sites voxels."""
    with pytest.raises(UserError, match="voxtal-density-1"):
        VoxelDataset(folder)
    with pytest.raises(UserError, match="its format is voxtal-density-shard-1 there"):
        voxelize(structure_file, folder, build_config({}).voxels, SerialCommunicator())


def test_species_counts(folder):
    """Class weights would be those of other voxels."""
    dataset = DensityDataset(folder)
    rows = [30, 2, 17]
    expected = np.bincount(dataset.maps(rows).species.ravel(), minlength=119)
    assert np.array_equal(dataset.species_counts(rows), expected)
    assert expected[27] + expected[72] > 0


def test_missing_maps_name_the_command(tmp_path):
    """The other representation's voxels may be there: which command makes these?"""
    with pytest.raises(UserError, match=r"No density maps in .* run voxelize --representation density"):
        DensityDataset(tmp_path)
