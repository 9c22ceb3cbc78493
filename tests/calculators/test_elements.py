from __future__ import annotations

import pytest

from voxtal.calculators.base import RelaxSettings
from voxtal.calculators.elements import element_structures, formation_energy_per_atom
from voxtal.calculators.emt import EMTCalculator
from voxtal.structures.phases import with_spacegroup
from voxtal.structures.validity import why_invalid


def spacegroups(symbol: str) -> set[int]:
    return {with_spacegroup(s, 0.1) for s in element_structures(symbol)}


@pytest.mark.parametrize(
    ("symbol", "ground_state"),
    [("Co", 194), ("Hf", 194), ("Fe", 229), ("Al", 225), ("Si", 227), ("Mn", 217), ("Ga", 64), ("Br", 64)],
)
def test_the_experimental_ground_state_is_among_the_candidates(symbol, ground_state):
    """Every formation energy with this element would be too low."""
    assert ground_state in spacegroups(symbol)


@pytest.mark.parametrize(
    ("symbol", "spacegroup", "atoms"),
    [
        ("C", 194, 4),
        ("Co", 194, 2),
        ("Fe", 229, 1),
        ("Hf", 194, 2),
        ("Mn", 217, 29),
        ("Si", 227, 2),
        ("Se", 152, 3),
        ("U", 63, 2),
    ],
)
def test_the_first_candidate_is_the_ground_state(symbol, spacegroup, atoms):
    """DFT relaxes the first alone: its formation energies would be against a phase that the element does not have."""
    first = element_structures(symbol)[0]
    assert (with_spacegroup(first, 0.1), len(first)) == (spacegroup, atoms)


@pytest.mark.parametrize("symbol", ["H", "He", "N", "O", "F", "Cl", "B", "P", "Se", "Te", "Pm", "U", "Pu", "Lr"])
def test_awkward_elements_have_valid_candidates(symbol):
    """A system with this element could not be labelled."""
    structures = element_structures(symbol)
    assert structures
    for structure in structures:
        assert {site.specie.symbol for site in structure} == {symbol}
        assert why_invalid(structure.atomic_numbers, structure.frac_coords, structure.lattice.matrix) is None


def test_close_packed_copper_is_below_bcc():
    """The candidates would not differ, and the reference not be the lowest (EMT has hcp 1 meV below fcc)."""
    settings = RelaxSettings(100, 0.01)
    energies = {
        with_spacegroup(r.structure, 0.1): r.energy_per_atom
        for r in (EMTCalculator().relax(s, settings) for s in element_structures("Cu"))
    }
    assert energies.keys() == {225, 229, 194}
    assert energies[229] - energies[225] == pytest.approx(0.033, abs=0.01)
    assert energies[194] == pytest.approx(energies[225], abs=0.005)


def test_formation_energy_of_a_mixture_of_elements_is_zero():
    """The energy scale of hulls would be shifted."""
    references = {"Co": -7.0, "Hf": -10.0}
    assert formation_energy_per_atom({"Co": 4, "Hf": 2}, -8.0, references) == pytest.approx(0.0)
    assert formation_energy_per_atom({"Co": 0.5, "Hf": 0.5}, -9.0, references) == pytest.approx(-0.5)
