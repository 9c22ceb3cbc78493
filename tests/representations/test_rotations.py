"""The rotations of a cube on maps: a group, the published turns, and crystals that survive them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage

from voxtal.representations.density import DensityGrid, cell_from_coordinates, coordinate_grid, encode_density
from voxtal.representations.density_decoding import decode_density
from voxtal.representations.rotations import IDENTITY, PLANES, ROTATIONS, quarter_turn, random_rotations

GRID = DensityGrid(32, 0.25, "true")


def test_the_rotations_are_the_group_of_the_cube():
    """A reflection among them would turn crystals into their mirror images."""
    assert len(set(ROTATIONS)) == 24
    assert all(round(np.linalg.det(rotation.matrix)) == 1 for rotation in ROTATIONS)
    for one, two in itertools.product(ROTATIONS, repeat=2):
        assert one.then(two) in ROTATIONS
        assert np.array_equal(one.then(two).matrix, two.matrix @ one.matrix)
    assert all(rotation.then(rotation.inverse) == IDENTITY for rotation in ROTATIONS)


def test_products_turn_arrays_one_after_the_other():
    """Ten rotations a structure would be other rotations than those drawn; leading channels would move too."""
    array = np.random.default_rng(0).random((2, 5, 5, 5))
    for one, two in itertools.product(ROTATIONS, repeat=2):
        assert np.array_equal(one.then(two)(array), two(one(array)))


@pytest.mark.parametrize("plane", PLANES)
def test_quarter_turns_are_numpys_and_the_published_ones(plane):
    """The augmentation would not be the published one."""
    array = np.random.default_rng(1).random((5, 5, 5))
    for turns in range(4):
        assert np.array_equal(quarter_turn(plane, turns)(array), np.rot90(array, turns, plane))
    published = ndimage.rotate(array, 90, axes=plane, reshape=False, mode="nearest")
    assert np.allclose(quarter_turn(plane)(array), published, atol=1e-6)


def test_random_rotations_depend_on_seed_and_structure_alone():
    """Training could not be repeated, or all structures would turn alike."""
    assert random_rotations(3, 7) == random_rotations(3, 7)
    assert len(random_rotations(3, 7)) == 10
    assert random_rotations(3, 7) != random_rotations(3, 8)
    assert random_rotations(3, 7) != random_rotations(4, 7)
    reached = set(random_rotations(0, 0, 2000))
    assert len(reached) == 12
    assert IDENTITY not in reached


def test_torch_turns_alike():
    """Batches are turned on the device, by permute and flip."""
    import torch

    array = np.random.default_rng(2).random((2, 4, 5, 5, 5)).astype(np.float32)
    for rotation in ROTATIONS:
        axes, flips = [2 + axis for axis in rotation.axes], [2 + axis for axis in rotation.flips]
        turned = torch.from_numpy(array).permute(0, 1, *axes).flip(flips)
        assert np.array_equal(turned.numpy(), rotation(array))


def test_rotated_maps_decode_to_the_same_crystal(real_structures):
    """An augmented structure would be labelled with another crystal's energy. The distances of all atoms of the
    rotated result, with the cell read from the rotated coordinates, must be those of the original."""
    for k, (numbers, frac_coords, cell) in enumerate(real_structures[5:200:16]):
        maps = encode_density(numbers, frac_coords, cell, GRID)
        rotation = ROTATIONS[7 * k % 24]
        coordinates = rotation(coordinate_grid(maps.cell, GRID))
        turned_cell = cell_from_coordinates(coordinates, GRID)
        found = decode_density(rotation(maps.density), rotation(maps.species), turned_cell, GRID)
        assert found.certain
        assert np.linalg.det(found.cell) > 0
        original = decode_density(maps.density, maps.species, maps.cell, GRID)
        assert np.allclose(np.abs(rotation.matrix @ maps.cell), np.abs(turned_cell), atol=1e-4)
        assert np.allclose(fingerprint(original), fingerprint(found), atol=1e-3)


def fingerprint(decoded):
    """Sorted distances, angstrom, of all pairs with all images among the nearest cells, by elements."""
    offsets = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    steps = decoded.frac_coords[:, None] - decoded.frac_coords
    steps -= np.rint(np.round(steps, 5))
    distances = np.linalg.norm((steps[:, :, None] + offsets) @ decoded.cell, axis=-1)
    pairs = decoded.numbers[:, None].astype(float) * decoded.numbers * 1000
    return np.sort((pairs + np.sort(distances, axis=-1)[:, :, 0]).ravel())


def test_cyclic_rotations_turn_the_map_of_the_turned_crystal(real_structures):
    """The docstring promises it where no axis is flipped."""
    numbers, frac_coords, cell = real_structures[3]
    grid = DensityGrid(32, 0.25, "orthogonal")
    maps = encode_density(numbers, frac_coords, cell, grid)
    for rotation in ROTATIONS:
        if not rotation.flips:
            axes = list(rotation.axes)
            turned = encode_density(numbers, frac_coords[:, axes], cell[axes], grid)
            assert np.allclose(turned.density, rotation(maps.density), rtol=1e-5)
            assert np.array_equal(turned.species, rotation(maps.species))
