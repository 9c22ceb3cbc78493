"""A structure set to shards and an index, and back, on one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from voxtal.config import build_config
from voxtal.data.dataset import DensityDataset, VoxelDataset
from voxtal.data.voxelize import voxelize
from voxtal.errors import UserError
from voxtal.parallel.communicator import SerialCommunicator
from voxtal.representations.voxels import encode_structure
from voxtal.runs import exclusive
from voxtal.structures.structure_set import StructureSet

SETTINGS = build_config({"voxels": {"structures_per_shard": 8}}).voxels
BAD = {5: "atoms closer than 0.5 A", 11: "not finite", 20: "no atoms", 43: "lattice voxel"}


@pytest.fixture
def folder(structure_file, tmp_path) -> Path:
    """Finished voxels of the structure set."""
    run(structure_file, tmp_path / "voxels")
    return tmp_path / "voxels"


def run(structures, folder, settings=SETTINGS, **options):
    return voxelize(structures, folder, settings, SerialCommunicator(), **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}


def rewrite(path, **changes):
    """Write the set again with some of its arrays changed."""
    old = StructureSet.read(path)
    columns = {name: getattr(old, name) for name in old.__dataclass_fields__}
    StructureSet(**(columns | changes)).write(path)


def test_voxels_read_back_as_encoded(structure_file, folder):
    """Training would see voxels of another structure, or of another element."""
    structures, dataset = StructureSet.read(structure_file), VoxelDataset(folder)
    assert dataset.settings == SETTINGS
    for i in np.random.default_rng(0).permutation(dataset.n_structures):
        row = dataset.rows[i]
        expected = encode_structure(*structures.arrays(row), SETTINGS)
        images = np.flatnonzero(dataset.image_structure == i)
        assert dataset.ids[i] == structures.ids[row]
        assert (dataset.image_structure[images] == i).all()
        assert np.array_equal(dataset.image_numbers[images], expected.elements)
        sites, lattice = dataset.sites_sparse(images), dataset.lattice_sparse([i])
        assert np.array_equal(sites.flat_index, expected.sites_index)
        assert np.array_equal(sites.batch_index, np.repeat(range(len(images)), np.diff(expected.sites_offsets)))
        assert np.allclose(sites.values, expected.sites_values, rtol=1e-3)
        assert np.array_equal(lattice.flat_index, expected.lattice_index)
        assert np.allclose(lattice.values, expected.lattice_values, rtol=1e-3)
        assert sites.shape == (len(images), 32, 32, 32)


def test_batches_keep_the_order_asked_for(folder):
    """Shuffled training batches would come in the order of the file."""
    dataset = VoxelDataset(folder)
    rows = np.random.default_rng(1).permutation(dataset.n_images)
    batch = dataset.sites_sparse(rows)
    for position, row in enumerate(rows):
        single, here = dataset.sites_sparse([row]), batch.batch_index == position
        assert np.array_equal(batch.flat_index[here], single.flat_index)
        assert np.array_equal(batch.values[here], single.values)
    assert len(dataset.sites_sparse([]).values) == 0


def test_bad_rows_are_recorded_and_counts_add_up(structure_file, tmp_path):
    """A bad structure would stop the run, or vanish without a word."""
    counts = run(structure_file, tmp_path / "voxels")
    dataset = VoxelDataset(tmp_path / "voxels")
    assert {row for row, _, _ in dataset.bad} == set(BAD)
    assert all(BAD[row] in reason and name.startswith(f"s-{row}-") for row, name, reason in dataset.bad)
    assert counts.structures + sum(counts.bad.values()) == counts.rows == 44
    assert counts.structures == dataset.n_structures == 40
    assert counts.images == dataset.n_images


KINDS = {
    "no atoms": ([], np.empty((0, 3)), 4 * np.eye(3), True),
    "not finite": ([8], [[np.inf, 0, 0]], 4 * np.eye(3), True),
    "not finite, in its cell": ([8], [[0, 0, 0]], np.full((3, 3), np.nan), True),
    "volume below 0.1 A^3": ([8], [[0, 0, 0]], np.diag([4, 4, 1e-3]), True),
    "atoms closer than 0.5 A": ([8, 8], [[0, 0, 0], [0.999, 0, 0]], 4 * np.eye(3), True),
    "unknown element|element without a radius": ([0], [[0, 0, 0]], 4 * np.eye(3), True),
    "unknown element|element without a radius, too": ([119], [[0, 0, 0]], 4 * np.eye(3), True),
    "cell too large for the lattice voxel": ([8], [[0, 0, 0]], np.diag([4, 4, 90]), False),
    "does not fit the box of the sites voxels": (
        [8] * 9,
        np.outer(np.arange(9) / 9, [0, 0, 1]),
        np.diag([4, 4, 40]),
        False,
    ),
}
"""Reason -> a structure, and whether density maps cannot show it either."""


@pytest.mark.parametrize("density", [False, True])
def test_every_kind_of_bad_row_has_its_reason(tmp_path, density):
    """A bad structure of a kind that nobody thought of would end the run of 256 ranks."""
    good = ([26, 8], [[0, 0, 0], [0.5, 0.5, 0.5]], 4 * np.eye(3), False)
    rows = [good, *KINDS.values(), good]
    counts = [len(numbers) for numbers, *_ in rows]
    StructureSet(
        ids=np.array([f"s-{i}" for i in range(len(rows))]),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        numbers=np.concatenate([np.asarray(numbers, np.uint8) for numbers, *_ in rows]),
        frac_coords=np.concatenate([np.asarray(frac, float).reshape(-1, 3) for _, frac, *_ in rows]),
        cells=np.array([cell for _, _, cell, _ in rows], dtype=float),
    ).write(tmp_path / "structures.h5")
    config = build_config({"density": {"grid": 8}})
    found = voxelize(
        tmp_path / "structures.h5",
        tmp_path / "made",
        config.density if density else config.voxels,
        SerialCommunicator(),
    )
    dataset = (DensityDataset if density else VoxelDataset)(tmp_path / "made")
    expected = {
        k: reason.split(",")[0].split("|")[-1 if density else 0]
        for k, (reason, (*_, everywhere)) in enumerate(KINDS.items(), start=1)
        if everywhere or not density
    }
    assert {row: reason for row, _, reason in dataset.bad} == expected
    assert found.structures + sum(found.bad.values()) == found.rows == len(rows)


def test_a_set_of_bad_rows_only_makes_an_empty_data_set(structure_file, tmp_path):
    """Empty arrays have no place in the file; opening must not fail on them."""
    bad = StructureSet.read(structure_file).subset([5, 11])
    bad.write(tmp_path / "bad.h5")
    run(tmp_path / "bad.h5", tmp_path / "voxels")
    dataset = VoxelDataset(tmp_path / "voxels")
    assert (dataset.n_structures, dataset.n_images, len(dataset.bad)) == (0, 0, 2)


def test_a_second_run_makes_nothing_and_the_first_is_reproducible(structure_file, folder, tmp_path):
    """Finished shards would be made again, or differ from run to run."""
    before = contents(folder)
    assert run(structure_file, folder).rows_made == 0
    assert contents(folder) == before
    run(structure_file, tmp_path / "again")
    assert contents(tmp_path / "again") == before


@pytest.mark.parametrize("harm", ["missing", "short", "flipped", "not HDF5"])
def test_damaged_shards_are_made_again(structure_file, folder, harm):
    """A shard cut short or altered on disk would be taken for whole."""
    before, path = contents(folder), folder / "shard-00002.h5"
    if harm == "missing":
        path.unlink()
    elif harm == "short":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "flipped":
        with h5py.File(path, "r+") as file:
            file["sites/values"][7] = 0.123
    else:
        path.write_bytes(b"nonsense")
    (folder / ".shard-00003.h5.123.tmp").write_bytes(b"half")
    assert run(structure_file, folder).rows_made == 8
    assert contents(folder) == before
    assert not list(folder.glob(".*.tmp"))


def test_other_settings_are_refused_by_name_and_forced(structure_file, folder):
    """Voxels of two settings would mix in one folder."""
    other = SETTINGS.model_copy(update={"sites_sigma_angstrom": 0.4})
    with pytest.raises(UserError, match=r"voxels.sites_sigma_angstrom is 0.5 there and 0.4 now.*--force"):
        run(structure_file, folder, other)
    assert VoxelDataset(folder).settings == SETTINGS
    run(structure_file, folder, other, force=True)
    assert VoxelDataset(folder).settings == other
    with pytest.raises(UserError, match=r"voxels.sites_sigma_angstrom is 0.4 there and 0.5 now"):
        VoxelDataset(folder, SETTINGS)


def test_other_structures_are_refused_and_forced(structure_file, folder):
    """The voxels of an older structure set would be trained on with the labels of a newer one."""
    cells = StructureSet.read(structure_file).cells.copy()
    cells[17] *= 1.01
    rewrite(structure_file, cells=cells)
    with pytest.raises(UserError, match=r"shard-00002.h5: its structures are others"):
        run(structure_file, folder)
    counts = run(structure_file, folder, force=True)
    assert counts.rows_made == 8


def test_fewer_structures_leave_no_shards_behind(structure_file, folder):
    """Readers by file name would find structures that are gone."""
    StructureSet.read(structure_file).subset(range(16)).write(structure_file)
    with pytest.raises(UserError, match="fewer structures"):
        run(structure_file, folder)
    run(structure_file, folder, force=True)
    assert len(list(folder.glob("shard-*.h5"))) == 2
    assert VoxelDataset(folder).n_structures == 14


def test_new_labels_do_not_touch_voxels(structure_file, folder):
    """Relabelling a set would redo, or refuse, voxels that do not depend on labels."""
    old = StructureSet.read(structure_file)
    rewrite(structure_file, properties={"formation_energy": old.properties["formation_energy"] + 1})
    assert run(structure_file, folder).rows_made == 0


def test_unfinished_or_damaged_data_sets_are_refused(folder):
    """A missing shard under an index reads as zeros where nobody checks."""
    path = folder / "shard-00001.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=f"has {len(whole) - 1} bytes instead of {len(whole)}"):
        VoxelDataset(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"shard-00001.h5 is missing"):
        VoxelDataset(folder)
    with h5py.File(folder / "index.h5", "r+") as file:
        file.attrs["schema"] = "voxtal-voxels-0"
    with pytest.raises(UserError, match="voxtal-voxels-0"):
        VoxelDataset(folder)
    (folder / "index.h5").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        VoxelDataset(folder)
    (folder / "index.h5").unlink()
    with pytest.raises(UserError, match="run voxelize"):
        VoxelDataset(folder)


def test_a_folder_in_use_is_refused(structure_file, tmp_path):
    """Two runs would write the same shards at once."""
    with exclusive(tmp_path / "voxels", "another voxelize"), pytest.raises(UserError, match="another voxelize"):
        run(structure_file, tmp_path / "voxels")


def test_wrong_input_is_said(tmp_path):
    """A wrong path or file would end in a traceback."""
    with pytest.raises(UserError, match="No structure set"):
        run(tmp_path / "absent.h5", tmp_path / "voxels")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(UserError, match="cannot be read"):
        run(tmp_path / "text.h5", tmp_path / "voxels")
    StructureSet.from_structures([], []).write(tmp_path / "empty.h5")
    with pytest.raises(UserError, match="holds no structures"):
        run(tmp_path / "empty.h5", tmp_path / "voxels")
    assert not (tmp_path / "voxels").exists()


def test_voxelize_needs_no_torch(structure_file, tmp_path):
    """256 ranks would each take 170 MB more."""
    code = (
        "import sys; from voxtal.cli.voxelize import main; sys.argv[1:] = sys.argv[1:]\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'pymatgen', 'ase', 'scipy', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(structure_file), "-o", str(tmp_path / "voxels")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
