"""What encoding and decoding keep of real structures, and how what they lose is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher

from voxtal.config import Config, build_config
from voxtal.data.layouts import layout_of
from voxtal.errors import UserError
from voxtal.parallel.communicator import SerialCommunicator
from voxtal.representations.voxels import decode_structure, dense
from voxtal.screening.roundtrip import ROWS_AT_ONCE, RoundTrip, compare_block, round_trips, summary
from voxtal.structures.structure_set import StructureSet


@pytest.fixture(scope="module")
def default() -> Config:
    return build_config({})


def written(folder: Path, structures: StructureSet) -> Path:
    structures.write(folder / "structures.h5")
    return folder / "structures.h5"


def test_default_voxels_give_real_structures_back(real_set: StructureSet, default: Config, tmp_path: Path) -> None:
    """The promise of the representation: all of them, sites within 0.01 A and edges within 0.1%."""
    path = written(tmp_path, real_set)
    figures = round_trips(path, default.voxels, SerialCommunicator())
    assert figures["n"] == figures["n_strict"] == figures["n_cdvae"] == len(real_set)
    assert figures["reproduction_ratio_strict"] == figures["reproduction_ratio_cdvae"] == 1
    assert 0 < figures["site_rms_angstrom_median"] <= figures["site_rms_angstrom_max"] < 0.01
    assert 0 < figures["cell_relative_error"] <= figures["cell_relative_error_max"] < 1e-3
    assert figures["failures"] == figures["failing_ids"] == {}


def test_published_placement_loses_what_reaches_out_of_the_box(real_set: StructureSet, tmp_path: Path) -> None:
    """Published and default would look the same if the comparison were of the placed structure with itself."""
    voxels = build_config({"preset": "paper"}).voxels
    sample = real_set.subset(np.arange(0, len(real_set), 2))
    figures = round_trips(written(tmp_path, sample), voxels, SerialCommunicator())
    lost = [own_id for ids in figures["failing_ids"].values() for own_id in ids]
    assert 0 < len(lost) == figures["n"] - figures["n_strict"] < 0.1 * len(sample)
    assert figures["failures"] == {cause: len(ids) for cause, ids in figures["failing_ids"].items()}
    rows = {str(own_id): i for i, own_id in enumerate(sample.ids)}
    theirs = StructureMatcher()
    for own_id in lost:
        original, decoded = sample.structure(rows[own_id]), decoded_structure(sample, rows[own_id], voxels)
        assert not theirs.fit(original, decoded)


def test_reproduced_ones_are_equal_to_the_structures_as_given(real_set: StructureSet, default: Config) -> None:
    """The shortcut compares with the structure as it was placed: a placement that changed the crystal would pass."""
    sample = real_set.subset(np.arange(0, len(real_set), 3))
    theirs = StructureMatcher()
    for row, trip in enumerate(compare_block(sample, default.voxels)):
        decoded = decoded_structure(sample, row, default.voxels)
        assert (trip.failure == "") == theirs.fit(sample.structure(row), decoded), sample.ids[row]


def decoded_structure(structures: StructureSet, row: int, voxels: Any) -> Any:
    """What the shard of this one structure decodes to."""
    from pymatgen.core import Lattice, Structure

    arrays = layout_of(voxels).encode(structures.subset([row]), voxels).arrays

    def image(kind: str, k: int, size: int) -> np.ndarray:
        part = slice(*arrays[f"{kind}/offsets"][k : k + 2])
        return dense(arrays[f"{kind}/index"][part], arrays[f"{kind}/values"][part].astype(np.float32), size)

    images = {int(z): image("sites", k, voxels.sites_grid) for k, z in enumerate(arrays["image_numbers"])}
    numbers, frac_coords, cell = decode_structure(images, image("lattice", 0, voxels.lattice_grid), voxels)
    return Structure(Lattice(cell), numbers.tolist(), frac_coords)


def test_density_maps_of_cubic_structures(real_set: StructureSet, default: Config) -> None:
    """The other representation goes through the same comparison, with its own stored precision."""
    cubic = [
        i
        for i in range(len(real_set))
        if np.allclose(real_set.cells[i], real_set.cells[i][0, 0] * np.eye(3), atol=0.01)
    ]
    trips = compare_block(real_set.subset(cubic[:12]), default.density)
    assert np.mean([trip.failure == "" for trip in trips]) > 0.8
    assert max(trip.site_rms for trip in trips if not trip.failure) < 0.01


def bad_rows(copper_gold: list[Any]) -> StructureSet:
    """Two good structures between one without atoms, one with NaN, one that overlaps and one that is too large."""
    from pymatgen.core import Lattice, Structure

    cube = Lattice.cubic(3)
    rows = [
        copper_gold[-1],
        Structure(cube, [], []),
        Structure(cube, ["Cu"], [[np.nan, 0, 0]]),
        Structure(cube, ["Cu", "Cu"], [[0, 0, 0], [0.01, 0, 0]]),
        Structure(Lattice.cubic(40), ["Cu", "Au"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        copper_gold[-2],
    ]
    return StructureSet.from_structures(rows, ["good", "empty", "nan", "close", "large", "fine"])


@pytest.mark.parametrize("representation", ["voxels", "density"])
def test_bad_rows_are_counted_with_their_reason(
    copper_gold: list[Any], default: Config, tmp_path: Path, representation: str
) -> None:
    """A row left out of the denominator would flatter the ratio; one that stops the command would hide the others."""
    path = written(tmp_path, bad_rows(copper_gold))
    figures = round_trips(path, getattr(default, representation), SerialCommunicator())
    assert figures["n"] == 6
    assert figures["n_strict"] + sum(figures["failures"].values()) == 6
    assert figures["reproduction_ratio_strict"] == figures["n_strict"] / 6
    by_id = {own_id: cause for cause, ids in figures["failing_ids"].items() for own_id in ids}
    assert by_id["empty"] == "not encoded: no atoms"
    assert by_id["nan"] == "not encoded: not finite"
    assert by_id["close"] == "not encoded: atoms closer than 0.5 A"
    assert {"good", "fine"}.isdisjoint(by_id)


def test_figures_by_hand() -> None:
    """Sites are averaged by squares over all sites, cells by structures; failures take no part."""
    trips = [
        RoundTrip("", True, 1, 0.3, 0.001),
        RoundTrip("", True, 3, 0.1, 0.003),
        *[RoundTrip("no match", k == 0, 9, np.nan, np.nan) for k in range(25)],
        RoundTrip("not encoded: no atoms", False, 0, np.nan, np.nan),
    ]
    figures = summary(trips, [f"s{i}" for i in range(28)])
    assert (figures["n"], figures["n_strict"], figures["n_cdvae"]) == (28, 2, 3)
    assert figures["reproduction_ratio_strict"] == 2 / 28
    assert figures["site_rms_angstrom"] == pytest.approx(np.sqrt((0.3**2 + 3 * 0.1**2) / 4))
    assert figures["site_rms_angstrom_median"] == pytest.approx(0.2)
    assert figures["site_rms_angstrom_max"] == 0.3
    assert figures["cell_relative_error"] == pytest.approx(0.002)
    assert figures["cell_relative_error_max"] == 0.003
    assert figures["failures"] == {"no match": 25, "not encoded: no atoms": 1}
    assert figures["failing_ids"] == {
        "no match": [f"s{i}" for i in range(2, 22)],
        "not encoded: no atoms": ["s27"],
    }


def test_nothing_reproduced_has_no_errors() -> None:
    """An error of 0 would be the best there is."""
    figures = summary([RoundTrip("no match", False, 1, np.nan, np.nan)], ["a"])
    assert figures["reproduction_ratio_strict"] == 0
    assert figures["site_rms_angstrom"] is figures["cell_relative_error_max"] is None


def test_progress_counts_all_rows(copper_gold: list[Any], default: Config, tmp_path: Path) -> None:
    """A bar that does not end is taken for a command that hangs."""
    from contextlib import contextmanager

    steps: list[int] = []

    @contextmanager
    def counting(_what: str, total: int) -> Any:
        steps.append(-total)
        yield steps.append

    several = StructureSet.from_structures(2 * copper_gold, [str(i) for i in range(2 * len(copper_gold))])
    assert len(several) > ROWS_AT_ONCE
    round_trips(written(tmp_path, several), default.voxels, SerialCommunicator(), counting)
    assert sum(steps) == 0


def test_empty_set_is_refused(real_set: StructureSet, default: Config, tmp_path: Path) -> None:
    """A ratio over nothing is none."""
    path = written(tmp_path, real_set.subset([]))
    with pytest.raises(UserError, match="holds no structures"):
        round_trips(path, default.voxels, SerialCommunicator())
