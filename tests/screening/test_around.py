"""Table 2 of ICSG3D on crystals made for it: who passes which step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from voxtal.generation.blocks import PREDICTED
from voxtal.screening.around import anonymous_formula, around_funnel
from voxtal.structures.structure_set import FORMATION_ENERGY, REASON, StructureSet

CORNERS = [[0, 0, 0], [0.5, 0.5, 0.5]]
FACES = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]


def b2(a: str, b: str, edge: float = 3.1) -> Structure:
    return Structure(Lattice.cubic(edge), [a, b], CORNERS)


def rock_salt(a: str, b: str) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.2), [a, b], CORNERS)


ATTEMPTS: list[tuple[Any, str, float]] = [
    (b2("Ag", "Cu"), "", -0.22),
    (b2("Ag", "Cu", 0.6), "atoms closer than 0.5 A", np.nan),
    (Structure(Lattice.cubic(3.8), ["Au", "Cu", "Cu", "Cu"], FACES), "", -0.2),  # another formula
    (b2("Au", "Cu", 3.2), "", -0.2),  # in the training set
    (b2("Ag", "Pd"), "", -0.27),  # too low
    (b2("Ag", "Pt"), "", -0.15),  # too high
    (b2("Ag", "Cu", 3.3), "", -0.23),  # equal to the first, and lower
    (rock_salt("Ag", "Cu"), "", -0.19),  # another crystal of the same composition
    (b2("Ni", "Pt"), "", -0.2),
    (b2("Ni", "Au"), "", np.nan),
]


@pytest.fixture
def base() -> StructureSet:
    return StructureSet.from_structures([b2("Au", "Cu")], ["base"], {FORMATION_ENERGY: [-0.2]})


@pytest.fixture
def candidates() -> StructureSet:
    return StructureSet.from_structures(
        [structure for structure, _, _ in ATTEMPTS],
        [f"c{i}" for i in range(len(ATTEMPTS))],
        {PREDICTED: [energy for *_, energy in ATTEMPTS]},
        {REASON: [reason for _, reason, _ in ATTEMPTS]},
    )


def test_steps_of_table_2(base: StructureSet, candidates: StructureSet, quiet: Any) -> None:
    """Each step has fewer than the one before, of the same attempts; of equal ones the lowest stays, the closest to the
    compound comes first."""
    found = around_funnel(candidates, base, base, quiet)
    assert [step["n"] for step in found["steps"]] == [10, 9, 8, 7, 4, 3]
    assert {step["of"] for step in found["steps"]} == {10}
    assert [step["published_percent"] for step in found["steps"]] == [100, 89, 35, 25, 6, 2]
    assert found["steps"][2]["step"] == "anonymous formula AB"
    assert found["passed"] == ["c8", "c7", "c6"]
    assert found["unique_compositions"] == 2
    assert found["target_formation_energy_ev_per_atom"] == -0.2


def test_nothing_is_near_an_unknown_energy(candidates: StructureSet, quiet: Any) -> None:
    """A compound of which no energy is known would pass everything, or nothing at all with an error."""
    base = StructureSet.from_structures([b2("Au", "Cu")], ["base"])
    found = around_funnel(candidates, base, base, quiet)
    assert [step["n"] for step in found["steps"]] == [10, 9, 8, 7, 0, 0]
    nothing = candidates.subset(np.flatnonzero(candidates.provenance[REASON] != ""))
    assert [step["n"] for step in around_funnel(nothing, base, base, quiet)["steps"]] == [1, 0, 0, 0, 0, 0]


def test_anonymous_formulas() -> None:
    """Rock salt in a cell of eight atoms is AB, and the order of elements does not matter."""
    one = StructureSet.from_structures(
        [rock_salt("Na", "Cl"), ATTEMPTS[2][0], Structure(Lattice.cubic(3), ["Po"], [[0, 0, 0]])], ["a", "b", "c"]
    )
    assert [anonymous_formula(one, i) for i in range(3)] == ["AB", "AB3", "A"]
