from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes
from pymatgen.core import Lattice, Structure

from voxtal.calculators.base import RelaxSettings
from voxtal.calculators.emt import EMTCalculator

SETTINGS = RelaxSettings(max_steps=100, fmax_ev_per_angstrom=0.01)


def cu3au(edge: float, shift: float = 0.0) -> Structure:
    positions = [[0, 0, 0], [0.5 + shift, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Structure(Lattice.cubic(edge), ["Au", "Cu", "Cu", "Cu"], positions)


@pytest.mark.parametrize("edge", [3.4, 3.75, 4.2])
def test_cu3au_finds_its_lattice_constant_from_wrong_volumes(edge):
    """Structures at estimated volumes would not reach their minimum."""
    result = EMTCalculator().relax(cu3au(edge, shift=0.02), SETTINGS)
    assert result.status == "converged"
    assert np.cbrt(result.structure.volume) == pytest.approx(3.70, abs=0.03)
    assert result.energy_per_atom < result.energy_per_atom_before
    assert 0 < result.steps < 40


def test_the_given_structure_is_not_changed():
    """The unrelaxed geometry could not be compared with the relaxed one."""
    structure = cu3au(4.0)
    EMTCalculator().relax(structure, SETTINGS)
    assert structure == cu3au(4.0)


def test_no_steps_gives_the_energy_as_it_is():
    """Single-point labels would be those of another geometry."""
    result = EMTCalculator().relax(cu3au(4.0), RelaxSettings(0, 0.01))
    assert (result.status, result.steps) == ("unconverged", 0)
    assert result.energy_per_atom == result.energy_per_atom_before
    assert result.structure.volume == pytest.approx(64.0)


def test_a_fixed_cell_stays():
    """`relax_cell=False` would move the cell."""
    result = EMTCalculator().relax(cu3au(3.8, 0.03), RelaxSettings(50, 0.01, relax_cell=False))
    assert result.status == "converged"
    assert result.structure.volume == pytest.approx(3.8**3)


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (cu3au(0.9), "closer than 0.5 A"),
        (Structure(Lattice.cubic(4), ["Cu", "Cu"], [[0, 0, 0], [0.01, 0, 0]]), "closer than 0.5 A"),
        (Structure(Lattice.cubic(3), ["Hf", "Cu"], [[0, 0, 0], [0.5] * 3]), "no parameters for Hf"),
        (Structure(Lattice.cubic(4), ["Cu", "Cu"], [[0, 0, 0], [float("nan"), 0, 0]]), "not finite"),
        (Structure(Lattice(np.zeros((3, 3))), ["Cu"], [[0, 0, 0]]), "volume below"),
    ],
)
def test_impossible_structures_fail_with_a_reason(structure, reason):
    """One bad structure would stop a batch, or be labelled with nonsense."""
    result = EMTCalculator().relax(structure, SETTINGS)
    assert result.status == "failed"
    assert reason in result.reason
    assert result.structure is None


class Repulsive(Calculator):
    """A potential without a minimum: the cell expands for ever."""

    implemented_properties = ["energy", "forces", "stress"]

    def __init__(self, energy: float = 0.0) -> None:
        super().__init__()
        self.energy = energy

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        stress = np.array([-5.0, -5.0, -5.0, 0, 0, 0])
        self.results = {"energy": self.energy, "forces": np.zeros((len(atoms), 3)), "stress": stress}


def test_an_exploding_cell_and_a_nan_energy_fail():
    """A runaway relaxation would use up the step limit, or NaN would reach the hull."""
    from voxtal.calculators.ase_relax import relax_with_ase

    exploded = relax_with_ase(Repulsive(), cu3au(3.7), SETTINGS)
    assert (exploded.status, exploded.reason) == ("failed", "volume changed more than 5 times")
    broken = relax_with_ase(Repulsive(float("nan")), cu3au(3.7), SETTINGS)
    assert (broken.status, broken.reason) == ("failed", "energy or forces not finite")
