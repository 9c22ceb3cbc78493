"""How far different optimizers get within a few force calls, on hypothetical structures with CHGNet.

    python benchmarks/optimizers.py [SYSTEM] [--structures 28] [--calls 12]

Every optimizer starts from the same structures at elemental volumes and moves atoms and cell. The figure is
the distance of its energy from the lowest that any of them found, in meV/atom.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS
from pymatgen.io.ase import AseAtomsAdaptor

from voxtal.calculators.ase_relax import CURVATURE, STRAIN_WEIGHT
from voxtal.calculators.chgnet import CHGNetCalculator
from voxtal.cli.common import print_table, progress
from voxtal.structures.prototypes import hypothetical_structures

OPTIMIZERS: dict[str, tuple[Callable[[int], float], Callable[[Any], Any]]] = {
    "voxtal: BFGS, softer start, light strain": (
        lambda n: STRAIN_WEIGHT * math.sqrt(n),
        lambda target: BFGS(target, logfile=None, alpha=CURVATURE),
    ),
    "ASE's BFGS": (float, lambda target: BFGS(target, logfile=None)),
    "ASE's LBFGS": (float, lambda target: LBFGS(target, logfile=None)),
    "ASE's FIRE": (float, lambda target: FIRE(target, logfile=None)),
}
"""Name -> weight of the strain for n atoms, and the optimizer of a filtered structure."""


def energy_after(calculator: Any, structure: Any, name: str, calls: int) -> float:
    """Energy per atom, eV, after ``calls`` optimizer steps."""
    weight, make = OPTIMIZERS[name]
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    atoms.calc = calculator
    make(FrechetCellFilter(atoms, exp_cell_factor=weight(len(atoms)))).run(fmax=1e-3, steps=calls)
    return atoms.get_potential_energy() / len(atoms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", nargs="?", default="Co-Hf")
    parser.add_argument("--structures", type=int, default=28)
    parser.add_argument("--calls", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    calculator = CHGNetCalculator().ase_calculator
    everything = hypothetical_structures(arguments.system, 20, 10.0).structures
    chosen = np.linspace(0, len(everything) - 1, arguments.structures).astype(int)
    energies = np.empty((len(OPTIMIZERS), len(chosen)))
    with progress("relax", energies.size) as advance:
        for column, row in enumerate(chosen):
            for k, name in enumerate(OPTIMIZERS):
                energies[k, column] = energy_after(calculator, everything.structure(int(row)), name, arguments.calls)
                advance(1, name)
    above = 1000 * (energies - energies.min(axis=0))
    print_table(
        f"meV/atom above the lowest found, after {arguments.calls} steps, {len(chosen)} {arguments.system} structures",
        ("optimizer", "median", "90%"),
        [(name, *np.percentile(above[k], [50, 90]).round(1)) for k, name in enumerate(OPTIMIZERS)],
    )


if __name__ == "__main__":
    main()
