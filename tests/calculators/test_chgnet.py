from __future__ import annotations

import subprocess
import sys

import pytest
from pymatgen.core import Lattice, Structure

from voxtal.calculators.base import RelaxSettings
from voxtal.calculators.chgnet import CHGNetCalculator
from voxtal.calculators.elements import element_structures, formation_energy_per_atom


@pytest.fixture(scope="module")
def calculator() -> CHGNetCalculator:
    return CHGNetCalculator()


def test_cohf_b2_is_stable_at_its_lattice_constant(calculator):
    """The surrogate would be wired up wrongly: units, stress sign, or the elements' reference energies."""
    b2 = Structure(Lattice.cubic(3.4), ["Co", "Hf"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    relaxed = calculator.relax(b2, RelaxSettings(60, 0.03))
    assert relaxed.status == "converged"
    assert 3.1 < relaxed.structure.lattice.a < 3.2
    settings = RelaxSettings(60, 0.03)
    references = {
        symbol: min(calculator.relax(s, settings).energy_per_atom for s in element_structures(symbol)[:1])
        for symbol in ("Co", "Hf")
    }
    energy = formation_energy_per_atom({"Co": 1, "Hf": 1}, relaxed.energy_per_atom, references)
    assert -0.6 < energy < -0.2


def test_an_atom_without_neighbours_fails(calculator, capfd):
    """CHGNet's energy of an isolated atom is nonsense and would win the hull; its warnings fill logs."""
    lonely = Structure(Lattice.cubic(15), ["Co"], [[0, 0, 0]])
    result = calculator.relax(lonely, RelaxSettings(2, 0.1))
    assert result.status == "failed"
    assert "isolated atom" in result.reason
    assert capfd.readouterr() == ("", "")


def test_the_method_is_known_without_torch():
    """`voxtal status` and every parent process would pay seconds for importing torch."""
    code = (
        "import sys; from voxtal.calculators.base import CalculatorSpec\n"
        "from voxtal.calculators.registry import get_calculator\n"
        "print(get_calculator(CalculatorSpec('chgnet')).method.fingerprint); assert 'torch' not in sys.modules"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("chgnet-0.3.0-")
