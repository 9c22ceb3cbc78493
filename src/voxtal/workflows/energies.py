"""Energies of attempts, relaxed, and above the hull of the known phases of their systems, all by one calculator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from voxtal.calculators.base import CalculatorSpec, RelaxSettings
from voxtal.calculators.registry import configured, get_calculator
from voxtal.runs import Run
from voxtal.screening.hull import HullEntry, build_hull, new_phases, signed_heights
from voxtal.structures.displacement import rms_displacement
from voxtal.structures.matching import STRICT, Matcher, find_known
from voxtal.structures.phases import system_name
from voxtal.structures.structure_set import E_ABOVE_HULL, FORMATION_ENERGY, STATUS, StructureSet
from voxtal.workflows.backends import backend_of
from voxtal.workflows.labels import set_entries
from voxtal.workflows.relaxation import FORMATION_ENERGY_BEFORE, Progress, relax_set

KNOWN_WINDOW_EV_PER_ATOM = 0.1
"""Known phases that lie further above the hull by their own labels are not labelled again: they cannot be on it."""

SAME_ENERGY_EV_PER_ATOM = 0.005
"""Energies of the same crystal, relaxed from two sides, differ by less."""


@dataclass(frozen=True)
class Energies:
    """What became of the attempts that were relaxed.

    Attributes
    ----------
    labels
        Id of an attempt to its columns of ``voxtal.screening.attempts.LABELS``; without those that failed.
    entries
        The attempts (role ``candidate``, ids ``generated ID``) and the known phases of their systems.
    new
        Systems with a new phase (:func:`voxtal.screening.hull.new_phases`), that of the one deepest below the known
        hull first.
    method
        Fingerprint of the calculator.
    """

    labels: dict[str, dict[str, Any]]
    entries: list[HullEntry]
    new: list[str]
    method: str

    def hull(self, system: str) -> dict[str, Any]:
        """The hull of a system, such as ``Co-Hf``, as of :func:`voxtal.screening.hull.build_hull`."""
        inside = [entry for entry in self.entries if entry.elements <= set(system.split("-"))]
        return build_hull(inside, system, self.method)


def energies_above_known(
    attempts: StructureSet, known: StructureSet, run: Run, progress: Progress, systems: Sequence[str] = ()
) -> Energies:
    """Relax attempts, and the known phases that they compete with; whatever ``run``'s ledger knows is not run again.

    Both are relaxed with the same settings: a hull of known phases that stopped sooner would lie too high.

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
    systems : sequence of str
        More systems, such as ``Co-Hf``, whose known phases are wanted.
    """
    calculator = configured(run.config.relax)
    method = get_calculator(calculator).method.fingerprint
    asked = [frozenset(atomic_numbers[symbol] for symbol in system.split("-")) for system in systems]
    competing = known.subset(competing_phases([*_systems(attempts), *asked], known))
    relaxed = _relax(attempts, calculator, run, "candidate", progress)
    relaxed_known = _relax(competing, calculator, run, "training", progress)
    before = relaxed.properties[FORMATION_ENERGY_BEFORE]
    same = _relaxed_into(relaxed, relaxed_known)
    candidates = [
        replace(entry, id=f"generated {entry.id}", formation_energy_before=float(before[k]), same_as=same[k])
        for k, entry in enumerate(set_entries(relaxed, "candidate", method))
    ]
    entries = [*candidates, *set_entries(relaxed_known, "given", method)]
    above_known, above = signed_heights(entries)
    new = new_phases(entries, above_known, above)
    competitors = _competitors(relaxed, relaxed_known, known.subset(np.flatnonzero(_far_above(known))))
    place = {str(id): i for i, id in enumerate(attempts.ids)}
    labels = {
        str(id): {
            "relaxation": str(relaxed.provenance[STATUS][k]),
            "formation_energy_before_ev_per_atom": float(before[k]),
            "formation_energy_ev_per_atom": float(relaxed.properties[FORMATION_ENERGY][k]),
            "e_above_hull_ev_per_atom": float(above_known[k]),
            "n_competing": competitors[k][0],
            "subsystems_without_known": " ".join(competitors[k][1]),
            "relaxed_into": same[k],
            "new_phase": bool(new[k]),
            "rmsd_angstrom": _moved(attempts.arrays(place[str(id)]), relaxed.arrays(k)),
        }
        for k, id in enumerate(relaxed.ids)
    }
    deepest_first = [i for i in np.argsort(above_known, kind="stable") if new[i]]
    return Energies(
        labels, entries, list(dict.fromkeys(system_name(entries[i].elements) for i in deepest_first)), method
    )


def all_phases(known: StructureSet, more: Mapping[str, StructureSet]) -> StructureSet:
    """Known structures and those of further files (name to set), each once.

    One whose id is taken is the same structure if it has the same atoms; otherwise its file's name goes before its id.
    """
    held = {str(id): sorted(known.arrays(i)[0].tolist()) for i, id in enumerate(known.ids)}
    sets = [known]
    for name, found in more.items():
        atoms = [sorted(found.arrays(i)[0].tolist()) for i in range(len(found))]
        kept = [i for i, id in enumerate(found.ids) if held.get(str(id)) != atoms[i]]
        ids = [f"{name} {found.ids[i]}" if str(found.ids[i]) in held else str(found.ids[i]) for i in kept]
        sets.append(replace(found.subset(kept), ids=np.array(ids, dtype=np.str_)))
        held |= {id: atoms[i] for id, i in zip(ids, kept, strict=True)}
    return StructureSet.concatenate(sets) if more else known


def competing_phases(systems: Iterable[frozenset[int]], known: StructureSet) -> np.ndarray:
    """Rows of the known structures that lie in one of the systems (atomic numbers), or in a subsystem of it.

    What lies more than :data:`KNOWN_WINDOW_EV_PER_ATOM` above the hull, where ``known`` tells, is left out.
    """
    wanted = {part for system in set(systems) for part in _subsystems(system, smallest=1)}
    inside = np.array([system in wanted for system in _systems(known)], dtype=bool)
    return np.flatnonzero(inside & ~_far_above(known))


def _relaxed_into(relaxed: StructureSet, known: StructureSet) -> list[str]:
    """Id of the known phase that each structure has become: equal by the strict matcher and in energy, else empty.

    The matcher alone takes B2 and L1_0 for the same, wherever one of them lies.
    """
    energies, known_energies = (labelled.properties[FORMATION_ENERGY] for labelled in (relaxed, known))
    out = []
    for k, energy in enumerate(energies):
        near = known.subset(np.flatnonzero(np.abs(known_energies - energy) <= SAME_ENERGY_EV_PER_ATOM))
        (match,) = find_known(relaxed.subset([k]), near, Matcher(STRICT))
        out.append("" if match is None else str(near.ids[match]))
    return out


def _far_above(known: StructureSet) -> np.ndarray:
    """Which structures (n,) cannot be on a hull, by their own labels."""
    return known.properties.get(E_ABOVE_HULL, np.full(len(known), np.nan)) > KNOWN_WINDOW_EV_PER_ATOM


def _competitors(attempts: StructureSet, labelled: StructureSet, far: StructureSet) -> list[tuple[int, list[str]]]:
    """Of each attempt: the number of labelled compounds in its system and subsystems, and which of these have none.

    Those of ``far`` lie too high to be labelled, but where there is one, compounds have been looked for.
    """
    counts = Counter(_systems(labelled))
    explored = {*counts, *_systems(far)}
    return [
        (sum(counts[part] for part in parts), [_name(part) for part in parts if part not in explored])
        for parts in ([*_subsystems(system, smallest=2)] for system in _systems(attempts))
    ]


def _name(system: frozenset[int]) -> str:
    return system_name(chemical_symbols[z] for z in system)


def _systems(structures: StructureSet) -> list[frozenset[int]]:
    return [frozenset(structures.numbers[a:b].tolist()) for a, b in pairwise(structures.offsets)]


def _subsystems(system: frozenset[int], smallest: int) -> Iterable[frozenset[int]]:
    """The systems of ``smallest`` and more elements within a system, itself too."""
    sizes = range(smallest, len(system) + 1)
    return (frozenset(part) for size in sizes for part in combinations(sorted(system), size))


def _relax(
    structures: StructureSet, calculator: CalculatorSpec, run: Run, purpose: str, progress: Progress
) -> StructureSet:
    """Relaxed and labelled; without the labels that the structures came with."""
    bare = replace(structures, properties={}, provenance={})
    relax = run.config.relax
    settings = RelaxSettings(relax.candidate_max_steps, relax.fmax_ev_per_angstrom)
    return relax_set(bare, calculator, settings, run.ledger, purpose, backend=backend_of(run), progress=progress)


def _moved(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    """RMS displacement, angstrom; NaN where a code has put the atoms into another order."""
    if not np.array_equal(before[0], after[0]):
        return float("nan")
    return rms_displacement(before[1], before[2], after[1], after[2])
