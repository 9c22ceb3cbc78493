"""The papers' selection."""

from __future__ import annotations

import csv
import gzip
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from voxtal.structures.cif import parse_cif
from voxtal.structures.filters import Arrays, Selection, primitive_cell, surely_primitive, why_dropped, wrap

CUBE = np.eye(3)


@pytest.mark.parametrize(
    ("numbers", "edge", "selection", "reason"),
    [
        ([27] * 20, 10.0, Selection(), None),
        ([27] * 21, 10.0, Selection(), "more than 20 atoms"),
        ([27], 10.001, Selection(), "lattice constant above 10 A"),
        ([27] * 50, 30.0, Selection(max_atoms=None, max_length=None), None),
        ([27, 54], 5.0, Selection(), None),
        ([27, 54], 5.0, Selection(exclude_noble_gases=True), "noble gas"),
    ],
)
def test_limits(numbers: list[int], edge: float, selection: Selection, reason: str | None) -> None:
    """Limits are inclusive and each can be switched off."""
    verdict = why_dropped(np.array(numbers), CUBE * edge, selection)
    assert (verdict and verdict[0]) == reason


def test_primitive_cell_of_a_conventional_one() -> None:
    """A conventional cell must not fail the 20-atom limit for its choice of cell."""
    laves = Structure.from_spacegroup("Fd-3m", Lattice.cubic(6.9), ["Hf", "Co"], [[0] * 3, [0.625] * 3])
    numbers, frac_coords, cell = primitive_cell(np.array(laves.atomic_numbers), laves.frac_coords, laves.lattice.matrix)
    assert sorted(numbers.tolist()) == [27] * 4 + [72] * 2
    assert Structure(Lattice(cell), numbers.tolist(), frac_coords).matches(laves, scale=False)


def test_overlapping_atoms_fall_back_to_the_given_cell() -> None:
    """spglib gives up on coincident atoms; the row must survive until validity judges it."""
    given = (np.array([27, 27]), np.zeros((2, 3)), CUBE * 3)
    assert all(np.array_equal(a, b) for a, b in zip(primitive_cell(*given), given, strict=True))


def test_surely_primitive_is_never_wrong(shared_data: Path) -> None:
    """Where it says so, spglib is not asked: a cell that could have shrunk below the limit would be lost."""
    with gzip.open(shared_data / "mpts_52.csv.gz", "rt", newline="") as handle:
        crystals = [parse_cif(row["cif"]) for row in islice(csv.DictReader(handle), 0, None, 60)]
    kept = np.array([len(primitive_cell(*crystal)[0]) == len(crystal[0]) for crystal in crystals])
    sure = np.array([surely_primitive(*crystal) for crystal in crystals])
    assert not (sure & ~kept).any()
    assert sure.sum() > 0.9 * kept.sum()
    for multiples in ((1, 1, 2), (1, 3, 1)):
        assert not any(surely_primitive(*_repeated(crystal, multiples)) for crystal in crystals[:20])


def _repeated(crystal: Arrays, multiples: tuple[int, int, int]) -> Arrays:
    numbers, frac_coords, cell = crystal
    structure = Structure(Lattice(cell), numbers.tolist(), frac_coords) * multiples
    return np.array(structure.atomic_numbers), structure.frac_coords, structure.lattice.matrix


def test_wrap_stays_below_one() -> None:
    """A tiny negative coordinate rounds to 1.0 in a naive modulo, out of [0, 1)."""
    wrapped = wrap(np.array([[-1e-18, 1.0, -0.25], [2.5, 0.0, 0.999]]))
    assert ((wrapped >= 0) & (wrapped < 1)).all()
