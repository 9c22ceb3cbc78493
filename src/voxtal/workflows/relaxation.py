"""Relaxing and labelling a structure set: elements first, then the structures, then formation energies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.calculators.base import RelaxSettings
from voxtal.calculators.elements import REFERENCE_SETTINGS, element_structures, formation_energy_per_atom
from voxtal.calculators.registry import get_calculator
from voxtal.errors import UserError
from voxtal.runs import write_json
from voxtal.structures.structure_set import E_ABOVE_HULL, FORMATION_ENERGY, METHOD, StructureSet
from voxtal.workflows.local import Advance, Job, Row, run_jobs
from voxtal.workflows.plain import composition_of_text, structure_from_text

FORMATION_ENERGY_BEFORE = "formation_energy_before"
"""Property: formation energy of the geometry as given, unrelaxed, eV/atom."""
ENERGY_PER_ATOM = "energy_per_atom"
"""Property: energy of the relaxed structure by its method, eV/atom."""
STATUS = "status"
"""Provenance: ``converged`` or ``unconverged``."""

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""What is done and how many, to a context that is told of each one done (``voxtal.cli.common.progress``)."""


def relax_set(
    structures: StructureSet,
    calculator: str,
    settings: RelaxSettings,
    ledger_path: Path,
    purpose: str,
    *,
    round: int = 0,
    workers: int = 0,
    folder: Path | None = None,
    on_finished: Callable[[Row], None] | None = None,
    progress: Progress | None = None,
) -> StructureSet:
    """Relax and label a set; what the ledger knows is taken from there.

    Parameters
    ----------
    structures : StructureSet
        What to relax.
    calculator : str
        Name in the registry.
    settings : RelaxSettings
        Of the structures; elements are relaxed with settings of their own.
    ledger_path : Path
        The run's ledger; every calculation is a row of it.
    purpose : str
        ``training``, ``withheld`` or ``candidate``.
    round : int
        Recorded with new rows.
    workers : int
        Processes; 0 is one per core.
    folder : Path, optional
        Gets ``ID/{initial.cif,relaxed.cif,result.json}`` for each structure.
    on_finished : callable, optional
        Called with the ledger's row of each structure, failed ones too.
    progress : callable, optional
        Shows how far it is.

    Returns
    -------
    StructureSet
        Relaxed structures under their ids, without the failed ones, with the properties ``formation_energy``,
        ``formation_energy_before`` and ``energy_per_atom`` (eV/atom), the provenance ``method`` and ``status``.

    Raises
    ------
    UserError
        The set carries labels of another method, or the calculator is unknown.
    """
    method = get_calculator(calculator).method.fingerprint
    refuse_other_methods(structures, method)
    symbols = _symbols(structures)
    references = element_references(symbols, calculator, ledger_path, round=round, workers=workers, progress=progress)
    jobs = _jobs(structures, purpose)

    def finished(row: Row) -> None:
        if folder is not None:
            write_calculation(folder / safe_name(row["id"]), row, references)
        if on_finished is not None:
            on_finished(row)

    with _shown(progress, "relax", len(jobs)) as advance:
        rows = run_jobs(
            jobs,
            calculator,
            settings,
            ledger_path,
            workers=workers,
            round=round,
            on_finished=finished,
            advance=advance,
        )
    return _labelled(structures, rows, references, method)


def relax_share(
    structures: StructureSet,
    calculator: str,
    settings: RelaxSettings,
    ledger_path: Path,
    purpose: str,
    *,
    round: int = 0,
    workers: int = 0,
    progress: Progress | None = None,
) -> list[Row]:
    """Relax those of a set, and of its elements, that no other process is at; :func:`relax_set` collects them later.

    Any number of processes may call it at once, on any nodes; each returns when nothing is left to claim.

    Parameters
    ----------
    structures, calculator, settings, ledger_path, purpose, round, workers, progress
        As of :func:`relax_set`.

    Returns
    -------
    list of dict
        The ledger's row of each structure that is finished, whoever relaxed it.
    """
    parts = ((_element_jobs(_symbols(structures)), REFERENCE_SETTINGS), (_jobs(structures, purpose), settings))
    rows: list[Row] = []
    for jobs, chosen in parts:
        with _shown(progress, f"relax {jobs[0].purpose}s" if jobs else "relax", len(jobs)) as advance:
            rows = run_jobs(
                jobs,
                calculator,
                chosen,
                ledger_path,
                workers=workers,
                round=round,
                wait_for_others=False,
                advance=advance,
            )
    return rows


def element_references(
    symbols: Iterable[str],
    calculator: str,
    ledger_path: Path,
    *,
    round: int = 0,
    workers: int = 0,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Lowest energy per atom of each element by this calculator, eV/atom; without those where all failed."""
    jobs = _element_jobs(symbols)
    with _shown(progress, "relax elements", len(jobs)) as advance:
        rows = run_jobs(
            jobs, calculator, REFERENCE_SETTINGS, ledger_path, workers=workers, round=round, advance=advance
        )
    return reference_energies(rows)


def reference_energies(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Lowest energy per atom of each element among the ledger's rows of one method, eV/atom."""
    lowest: dict[str, float] = {}
    for row in rows:
        if row["purpose"] == "element" and row["status"] != "failed":
            (symbol,) = composition_of_text(row["initial"])
            lowest[symbol] = min(row["energy_per_atom"], lowest.get(symbol, np.inf))
    return lowest


def formation_energies(row: Mapping[str, Any], references: Mapping[str, float]) -> tuple[float, float]:
    """Formation energy of a ledger row, relaxed and as given, eV/atom; NaN where it failed or lacks references."""
    composition = composition_of_text(row["initial"])
    if row["status"] == "failed" or not composition.keys() <= references.keys():
        return np.nan, np.nan
    relaxed, before = (
        formation_energy_per_atom(composition, row[name], references)
        for name in ("energy_per_atom", "energy_per_atom_before")
    )
    return relaxed, before


def refuse_other_methods(structures: StructureSet, method: str) -> None:
    """Raise UserError where the set carries labels that ``method`` did not make."""
    others = sorted(set(structures.provenance.get(METHOD, ())) - {"", method})
    if others:
        raise UserError(
            f"The structures carry labels of {', '.join(others)}, and this calculator is {method}: formation "
            "energies of different methods must not be mixed. Start from the unlabelled structures, or "
            "choose the calculator that made the labels."
        )


def write_calculation(folder: Path, row: Row, references: Mapping[str, float]) -> None:
    """Write ``initial.cif``, ``relaxed.cif`` and ``result.json`` (last: a folder that has it is whole)."""
    if (folder / "result.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    initial = structure_from_text(row["initial"])
    (folder / "initial.cif").write_text(initial.to(fmt="cif"))
    if row["relaxed"]:
        (folder / "relaxed.cif").write_text(structure_from_text(row["relaxed"]).to(fmt="cif"))
    relaxed, before = formation_energies(row, references)
    result = {
        "id": row["id"],
        "status": row["status"],
        "reason": row["reason"],
        "formula": initial.composition.reduced_formula,
        "method": row["method"],
        "energy_per_atom": row["energy_per_atom"],
        "formation_energy": relaxed,
        "formation_energy_before": before,
        "steps": row["steps"],
        "wall_seconds": row["wall_seconds"],
    }
    write_json(folder / "result.json", result)


def safe_name(id: str) -> str:
    """``id`` as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", id)


def _jobs(structures: StructureSet, purpose: str) -> list[Job]:
    return [Job(str(structures.ids[i]), structures.structure(i), purpose) for i in range(len(structures))]


def _element_jobs(symbols: Iterable[str]) -> list[Job]:
    return [
        Job(f"element-{symbol}-{k}", structure, "element")
        for symbol in symbols
        for k, structure in enumerate(element_structures(symbol))
    ]


def _labelled(structures: StructureSet, rows: list[Row], references: Mapping[str, float], method: str) -> StructureSet:
    energies = np.array([formation_energies(row, references) for row in rows]).reshape(-1, 2)
    kept = np.flatnonzero(np.isfinite(energies[:, 0]))
    given = structures.subset(kept)
    kept_rows = [rows[i] for i in kept]
    relaxed = StructureSet.from_structures(
        [structure_from_text(row["relaxed"]) for row in kept_rows], ids=list(given.ids)
    )
    return relaxed.with_columns(
        properties={name: column for name, column in given.properties.items() if name != E_ABOVE_HULL}
        | {
            FORMATION_ENERGY: energies[kept, 0],
            FORMATION_ENERGY_BEFORE: energies[kept, 1],
            ENERGY_PER_ATOM: np.array([row["energy_per_atom"] for row in kept_rows]),
        },
        provenance=given.provenance
        | {
            METHOD: np.array([method] * len(kept), dtype=np.str_),
            STATUS: np.array([row["status"] for row in kept_rows], dtype=np.str_),
        },
    )


def _symbols(structures: StructureSet) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[z] for z in np.unique(structures.numbers)]


def _shown(progress: Progress | None, what: str, total: int) -> AbstractContextManager[Advance]:
    if progress is None or total == 0:
        return nullcontext(lambda n, text: None)
    return progress(what, total)
