"""One row for every attempt, of whatever generator: is it a crystal, is it new, how low is its energy?"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.parallel.communicator import Communicator
from voxtal.parallel.tasks import results, shown
from voxtal.runs import atomic_path
from voxtal.screening.comparison import UNKNOWN, Progress, compare
from voxtal.screening.compositions import compositionally_valid
from voxtal.structures.phases import system_name
from voxtal.structures.structure_set import REASON, StructureSet
from voxtal.structures.validity import why_invalid

Row = dict[str, Any]

LABELS = (
    "relaxation",
    "formation_energy_before_ev_per_atom",
    "formation_energy_ev_per_atom",
    "e_above_hull_ev_per_atom",
    "n_competing",
    "subsystems_without_known",
    "relaxed_into",
    "new_phase",
    "rmsd_angstrom",
)
"""Columns of the attempts that were relaxed; ``relaxation`` is the calculation's status. Energies above hull are
against the known phases and negative below their hull; ``n_competing`` is the number of known compounds of the same
elements, or some of them: with none, the hull is that of the elements alone. ``subsystems_without_known`` names those
of its systems in which no compound is known. ``relaxed_into`` is the known phase that it became, ``new_phase`` whether
it is on the hull, below that of the known, and none of them."""

COLUMNS = (
    "id",
    "formula",
    "system",
    "n_atoms",
    "n_elements",
    "density_g_per_cm3",
    "valid",
    "reason",
    "compositionally_valid",
    "unique",
    "duplicate_of",
    "novel",
    "known_as",
    "sampled",
    *LABELS,
)
"""Of the table. ``unique`` and ``novel`` are None for an attempt that is not valid; ``novel`` of a duplicate is that of
the first one. ``sampled``: one of the random sample that was relaxed."""

_BLOCK = 256
_G_PER_CM3 = 1.66053906660
"""One atomic mass unit per cubic angstrom."""


def judge_attempts(
    attempts: StructureSet, known: StructureSet, progress: Progress, communicator: Communicator
) -> list[Row]:
    """One row of :data:`COLUMNS` for each attempt, without labels. Collective: every rank has the answer."""
    rows = _descriptions(attempts)
    blocks = [range(first, min(first + _BLOCK, len(attempts))) for first in range(0, len(attempts), _BLOCK)]
    with shown(progress, "check validity", len(blocks), communicator) as advance:
        judged = results(communicator, len(blocks), lambda b: [_why_invalid(attempts, i) for i in blocks[b]], advance)
        reasons = [reason for part in judged for reason in part]
    filled = [i for i, row in enumerate(rows) if row["n_atoms"]]
    neutral = compositionally_valid([rows[i]["formula"] for i in filled], communicator)
    for i, verdict in zip(filled, neutral, strict=True):
        rows[i]["compositionally_valid"] = verdict
    for row, reason in zip(rows, reasons, strict=True):
        row |= {"valid": not reason, "reason": reason}
    valid = np.flatnonzero([row["valid"] for row in rows])
    first, match = compare(attempts.subset(valid), known, progress, communicator)
    for position, i in enumerate(valid.tolist()):
        original, phase = int(first[position]), int(match[position])
        rows[i]["unique"] = original == position
        rows[i]["duplicate_of"] = "" if original == position else str(attempts.ids[valid[original]])
        rows[i]["novel"] = phase == UNKNOWN
        rows[i]["known_as"] = "" if phase == UNKNOWN else str(known.ids[phase])
    return rows


def new_ones(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Numbers of the rows that are valid, unique and novel."""
    return [i for i, row in enumerate(rows) if row["valid"] and row["unique"] and row["novel"]]


def sample(candidates: Sequence[int], n: int, seed: int) -> list[int]:
    """``n`` of ``candidates`` at random, rising; a larger ``n`` holds those of a smaller one."""
    order = np.random.default_rng(seed).permutation(len(candidates))[:n]
    return sorted(candidates[k] for k in order.tolist())


def write_attempts(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the table as CSV: 1 and 0 for yes and no, nothing where it is not known."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        writer.writerows([_cell(row[name]) for name in COLUMNS] for row in rows)


def densities(structures: StructureSet) -> np.ndarray:
    """Mass density (n,), g/cm^3; NaN for a structure without atoms or volume."""
    from ase.data import atomic_masses

    owners = np.repeat(np.arange(len(structures)), np.diff(structures.offsets))
    masses = np.bincount(owners, weights=atomic_masses[structures.numbers], minlength=len(structures))
    with np.errstate(all="ignore"):
        found = _G_PER_CM3 * masses / np.abs(np.linalg.det(structures.cells))
    return np.where(np.isfinite(found) & (masses > 0), found, np.nan)


def elements_of(structures: StructureSet) -> list[np.ndarray]:
    """Atomic numbers of the elements in each structure, rising."""
    return [np.unique(structures.numbers[a:b]) for a, b in pairwise(structures.offsets)]


def element_counts(structures: StructureSet) -> dict[str, int]:
    """Symbol -> number of structures that hold the element."""
    from ase.data import chemical_symbols

    held = elements_of(structures)
    numbers, counts = np.unique(np.concatenate(held) if held else np.empty(0, dtype=int), return_counts=True)
    return {chemical_symbols[z]: int(n) for z, n in zip(numbers, counts, strict=True)}


def _descriptions(attempts: StructureSet) -> list[Row]:
    rows = []
    for i, (density, elements) in enumerate(zip(densities(attempts), elements_of(attempts), strict=True)):
        numbers, _, _ = attempts.arrays(i)
        formula, system = _names(tuple(np.bincount(numbers)[elements].tolist()), tuple(elements.tolist()))
        rows.append(
            dict.fromkeys(COLUMNS)
            | {
                "id": str(attempts.ids[i]),
                "formula": formula,
                "system": system,
                "n_atoms": len(numbers),
                "n_elements": len(elements),
                "density_g_per_cm3": float(density),
                "sampled": False,
            }
        )
    return rows


@lru_cache(maxsize=100_000)
def _names(counts: tuple[int, ...], elements: tuple[int, ...]) -> tuple[str, str]:
    """Reduced formula and chemical system."""
    from ase.data import chemical_symbols
    from pymatgen.core import Composition

    symbols = [chemical_symbols[z] for z in elements]
    return Composition(dict(zip(symbols, counts, strict=True))).reduced_formula, system_name(symbols)


def _why_invalid(attempts: StructureSet, i: int) -> str:
    told = str(attempts.provenance[REASON][i]) if REASON in attempts.provenance else ""
    return told or why_invalid(*attempts.arrays(i)) or ""


def _cell(value: Any) -> Any:
    if value is None or value != value:
        return ""
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    return f"{value:.6g}" if isinstance(value, float) else value
