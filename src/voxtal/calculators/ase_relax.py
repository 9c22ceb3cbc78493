"""One relaxation driver for every ASE calculator."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from voxtal.calculators.base import CalculationResult, RelaxSettings
from voxtal.structures.validity import why_invalid

VOLUME_CHANGE_LIMIT = 5.0
"""A cell that grows or shrinks by more than this factor has exploded or collapsed."""

# Initial curvature (eV/A^2) and weight of the strain per sqrt(atoms), which suit metals: a dozen steps get ten
# times closer to the minimum than with ASE's values (benchmarks/optimizers.py).
CURVATURE = 20.0
STRAIN_WEIGHT = 0.5


class _Unphysical(Exception):
    """The structure left the range in which the calculator means anything."""


def relax_with_ase(calculator: Any, structure: Any, settings: RelaxSettings) -> CalculationResult:
    """Relax ``structure`` with an ASE calculator.

    Parameters
    ----------
    calculator
        ASE calculator with energies, forces and stress.
    structure : Structure
        Ordered pymatgen structure; not changed.
    settings : RelaxSettings
        Converged means: no force above ``fmax`` (eV/A) and, where the cell relaxes, no element of the
        virial per atom above it (eV).

    Returns
    -------
    CalculationResult
        Failed, with the reason, where atoms come closer than 0.5 A, the volume changes more than fivefold,
        an energy or force is not finite, or the calculator raises.
    """
    from pymatgen.io.ase import AseAtomsAdaptor

    started = time.perf_counter()
    try:
        atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
        _check(atoms)
        atoms.calc = calculator
        energy_before = atoms.get_potential_energy() / len(atoms)
        converged, steps = _optimize(atoms, settings)
        return CalculationResult(
            status="converged" if converged else "unconverged",
            reason="" if converged else f"not converged in {settings.max_steps} steps",
            structure=AseAtomsAdaptor.get_structure(atoms),
            energy_per_atom=float(atoms.get_potential_energy() / len(atoms)),
            energy_per_atom_before=float(energy_before),
            steps=steps,
            wall_seconds=time.perf_counter() - started,
        )
    except _Unphysical as problem:
        reason = str(problem)
    except Exception as error:  # whatever a calculator raises costs this structure only
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return CalculationResult("failed", reason, wall_seconds=time.perf_counter() - started)


def _optimize(atoms: Any, settings: RelaxSettings) -> tuple[bool, int]:
    """Move ``atoms`` downhill; whether they converged, and the steps taken."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    volume_before = atoms.get_volume()
    weight = STRAIN_WEIGHT * math.sqrt(len(atoms))
    target: Any = FrechetCellFilter(atoms, exp_cell_factor=weight) if settings.relax_cell else atoms
    optimizer = BFGS(target, logfile=None, alpha=CURVATURE)
    steps = 0
    while not (converged := _largest_gradient(atoms, settings.relax_cell) <= settings.fmax_ev_per_angstrom):
        if steps == settings.max_steps:
            break
        optimizer.step()
        steps += 1
        _check(atoms, volume_before)
    return converged, steps


def _largest_gradient(atoms: Any, relax_cell: bool) -> float:
    """Largest force (eV/A) and, with ``relax_cell``, largest element of the virial per atom (eV)."""
    gradients = [np.linalg.norm(atoms.get_forces(), axis=1).max()]
    if relax_cell:
        gradients.append(np.abs(atoms.get_stress()).max() * atoms.get_volume() / len(atoms))
    if not np.isfinite([*gradients, atoms.get_potential_energy()]).all():
        raise _Unphysical("energy or forces not finite")
    return float(max(gradients))


def _check(atoms: Any, volume_before: float | None = None) -> None:
    problem = why_invalid(atoms.numbers, atoms.get_scaled_positions(wrap=False), atoms.cell.array)
    if problem:
        raise _Unphysical(problem)
    change = atoms.get_volume() / volume_before if volume_before else 1.0
    if not 1 / VOLUME_CHANGE_LIMIT <= change <= VOLUME_CHANGE_LIMIT:
        raise _Unphysical(f"volume changed more than {VOLUME_CHANGE_LIMIT:g} times")
