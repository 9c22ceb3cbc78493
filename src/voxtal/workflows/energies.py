"""Energies of attempts, relaxed, and above the hull of the known phases of their systems, all by one calculator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from voxtal.calculators.base import CalculatorSpec, RelaxSettings
from voxtal.calculators.registry import configured, get_calculator
from voxtal.runs import Run
from voxtal.screening.hull import HullEntry, build_hull, signed_heights
from voxtal.structures.displacement import rms_displacement
from voxtal.structures.structure_set import E_ABOVE_HULL, FORMATION_ENERGY, STATUS, StructureSet
from voxtal.workflows.backends import backend_of
from voxtal.workflows.labels import set_entries
from voxtal.workflows.relaxation import FORMATION_ENERGY_BEFORE, Progress, relax_set

KNOWN_WINDOW_EV_PER_ATOM = 0.1
"""Known phases that lie further above the hull by their own labels are not labelled again: they cannot be on it."""


@dataclass(frozen=True)
class Energies:
    """What became of the attempts that were relaxed.

    Attributes
    ----------
    labels
        Id of an attempt to its columns of ``voxtal.screening.attempts.LABELS``; without those that failed.
    entries
        The attempts (role ``candidate``) and the known phases of their systems.
    method
        Fingerprint of the calculator.
    """

    labels: dict[str, dict[str, Any]]
    entries: list[HullEntry]
    method: str

    def hull(self, system: str) -> dict[str, Any]:
        """The hull of a system, such as ``Co-Hf``, as of :func:`voxtal.screening.hull.build_hull`."""
        inside = [entry for entry in self.entries if entry.elements <= set(system.split("-"))]
        return build_hull(inside, system, self.method)

    def redefined(self) -> list[str]:
        """Systems in which an attempt lies below the hull of the known phases."""
        below, _ = signed_heights(self.entries)
        found = {
            "-".join(sorted(entry.elements))
            for entry, above in zip(self.entries, below, strict=True)
            if entry.role == "candidate" and above < 0
        }
        return sorted(found)


def energies_above_known(attempts: StructureSet, known: StructureSet, run: Run, progress: Progress) -> Energies:
    """Relax attempts, and the known phases that they compete with; whatever ``run``'s ledger knows is not run again.

    Parameters
    ----------
    attempts : StructureSet
        Valid structures with distinct ids.
    known : StructureSet
        Known structures; those within the attempts' systems are relaxed and labelled too. Their own labels are of
        another method and only tell which of them are far above the hull.
    run : Run
        Its configuration says how (calculator, steps, backend), and its ledger keeps the results.
    progress : callable
        Shows how far it is.
    """
    config = run.config.relax
    calculator = configured(config)
    method = get_calculator(calculator).method.fingerprint
    competing = known.subset(competing_phases(attempts, known))
    relaxed = _relax(attempts, calculator, config.candidate_max_steps, run, "candidate", progress)
    relaxed_known = _relax(competing, calculator, config.label_max_steps, run, "training", progress)
    candidates = set_entries(relaxed, "candidate", method)
    entries = [*candidates, *set_entries(relaxed_known, "given", method)]
    above, _ = signed_heights(entries)
    competitors = _competitors(relaxed, relaxed_known)
    place = {str(id): i for i, id in enumerate(attempts.ids)}
    labels = {
        str(id): {
            "relaxation": str(relaxed.provenance[STATUS][k]),
            "formation_energy_before_ev_per_atom": float(relaxed.properties[FORMATION_ENERGY_BEFORE][k]),
            "formation_energy_ev_per_atom": float(relaxed.properties[FORMATION_ENERGY][k]),
            "e_above_hull_ev_per_atom": float(above[k]),
            "n_competing": competitors[k],
            "rmsd_angstrom": _moved(attempts.arrays(place[str(id)]), relaxed.arrays(k)),
        }
        for k, id in enumerate(relaxed.ids)
    }
    told_apart = [replace(entry, id=f"generated {entry.id}") for entry in candidates]
    return Energies(labels, [*told_apart, *entries[len(candidates) :]], method)


def competing_phases(attempts: StructureSet, known: StructureSet) -> np.ndarray:
    """Rows of the known compounds that lie in a chemical system of the attempts, or in a subsystem of it.

    Pure elements are left out (every method has its own references), and so is what lies more than
    :data:`KNOWN_WINDOW_EV_PER_ATOM` above the hull where ``known`` tells.
    """
    wanted = {part for system in set(_systems(attempts)) for part in _subsystems(system)}
    above = known.properties.get(E_ABOVE_HULL, np.full(len(known), np.nan))
    near = ~(above > KNOWN_WINDOW_EV_PER_ATOM)
    return np.array([i for i, system in enumerate(_systems(known)) if system in wanted and near[i]], dtype=np.int64)


def _competitors(attempts: StructureSet, known: StructureSet) -> list[int]:
    """Number of known compounds in the system of each attempt and in its subsystems."""
    counts = Counter(_systems(known))
    return [sum(counts[part] for part in _subsystems(system)) for system in _systems(attempts)]


def _systems(structures: StructureSet) -> list[frozenset[int]]:
    return [frozenset(structures.numbers[a:b].tolist()) for a, b in pairwise(structures.offsets)]


def _subsystems(system: frozenset[int]) -> Iterable[frozenset[int]]:
    return (frozenset(part) for size in range(2, len(system) + 1) for part in combinations(sorted(system), size))


def _relax(
    structures: StructureSet, calculator: CalculatorSpec, steps: int, run: Run, purpose: str, progress: Progress
) -> StructureSet:
    """Relaxed and labelled; without the labels that the structures came with."""
    bare = replace(structures, properties={}, provenance={})
    settings = RelaxSettings(max_steps=steps, fmax_ev_per_angstrom=run.config.relax.fmax_ev_per_angstrom)
    return relax_set(bare, calculator, settings, run.ledger, purpose, backend=backend_of(run), progress=progress)


def _moved(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    """RMS displacement, angstrom; NaN where a code has put the atoms into another order."""
    if not np.array_equal(before[0], after[0]):
        return float("nan")
    return rms_displacement(before[1], before[2], after[1], after[2])
