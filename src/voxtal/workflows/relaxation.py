"""Relaxing and labelling a structure set: elements first, then the structures, then formation energies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.calculators.base import CalculatorSpec, RelaxSettings
from voxtal.calculators.elements import REFERENCE_SETTINGS, element_structures, formation_energy_per_atom
from voxtal.calculators.registry import get_calculator
from voxtal.errors import UserError
from voxtal.ledger import Ledger
from voxtal.runs import read_json, safe_name, write_json
from voxtal.structures.structure_set import (
    E_ABOVE_HULL,
    ENERGY_PER_ATOM,
    FORMATION_ENERGY,
    METHOD,
    STATUS,
    StructureSet,
)
from voxtal.structures.text import composition_of_text, structure_from_text
from voxtal.workflows.jobs import Advance, Backend, Job, Row, calculations_folder, calculations_of, run_jobs
from voxtal.workflows.labels import symbols_of
from voxtal.workflows.local import Local

FORMATION_ENERGY_BEFORE = "formation_energy_before"
"""Property: formation energy of the geometry as given, unrelaxed, eV/atom."""

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""What is done and how many, to a context that is told of each one done (``voxtal.cli.common.progress``)."""


def relax_set(
    structures: StructureSet,
    calculator: CalculatorSpec,
    settings: RelaxSettings,
    ledger_path: Path,
    purpose: str,
    *,
    round: int = 0,
    backend: Backend | None = None,
    folder: Path | None = None,
    close_at: float = 1.0,
    retry: bool = False,
    on_finished: Callable[[Row], None] | None = None,
    progress: Progress | None = None,
) -> StructureSet:
    """Relax and label a set; what the ledger knows is taken from there.

    Parameters
    ----------
    structures : StructureSet
        What to relax.
    calculator : CalculatorSpec
        What makes the labels.
    settings : RelaxSettings
        Of the structures; elements are relaxed with settings of their own.
    ledger_path : Path
        The run's ledger; every calculation is a row of it.
    purpose : str
        ``training``, ``withheld`` or ``candidate``.
    round : int
        Recorded with new rows.
    backend : Backend, optional
        How they are run; by worker processes of this machine, one a core, if not given.
    folder : Path, optional
        Gets ``ID/{initial.cif,relaxed.cif,result.json}`` for each structure.
    close_at : float
        Share of the structures that have to end; the others are left for later.
    retry : bool
        Whether what has failed, elements too, is run again.
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
    symbols = symbols_of(structures)
    references = element_references(
        symbols, calculator, ledger_path, round=round, backend=backend, retry=retry, progress=progress
    )
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
            backend or Local(),
            round=round,
            folder=folder,
            close_at=close_at,
            retry=retry,
            on_finished=finished,
            advance=advance,
        )
    return _labelled(structures, rows, references, method)


def enqueue(
    structures: StructureSet,
    calculator: CalculatorSpec,
    settings: RelaxSettings,
    ledger_path: Path,
    purpose: str,
    *,
    round: int = 0,
    folder: Path | None = None,
) -> None:
    """Let a set, and its elements, wait in the ledger for whichever process takes them.

    Parameters
    ----------
    structures, calculator, settings, ledger_path, purpose, round, folder
        As of :func:`relax_set`, which collects the results.
    """
    elements = _element_jobs(symbols_of(structures), calculator)
    parts = ((elements, REFERENCE_SETTINGS, None), (_jobs(structures, purpose), settings, folder))
    with Ledger(ledger_path) as ledger:
        for jobs, chosen, own in parts:
            ledger.enqueue(calculations_of(jobs, calculator, chosen, round, own or calculations_folder(ledger_path)))


def element_references(
    symbols: Iterable[str],
    calculator: CalculatorSpec,
    ledger_path: Path,
    *,
    round: int = 0,
    backend: Backend | None = None,
    retry: bool = False,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Lowest energy per atom of each element by this calculator, eV/atom; without those where all failed."""
    jobs = _element_jobs(symbols, calculator)
    with _shown(progress, "relax elements", len(jobs)) as advance:
        rows = run_jobs(
            jobs,
            calculator,
            REFERENCE_SETTINGS,
            ledger_path,
            backend or Local(),
            round=round,
            retry=retry,
            advance=advance,
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
    """Formation energy of a ledger row, relaxed and as given, eV/atom; NaN where it is unknown."""
    composition = composition_of_text(row["initial"])
    if row["status"] == "failed" or not composition.keys() <= references.keys():
        return np.nan, np.nan
    relaxed, before = (
        np.nan if row[name] is None else formation_energy_per_atom(composition, row[name], references)
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
    """Write ``initial.cif``, ``relaxed.cif`` and ``result.json`` (last: a folder that has it is whole).

    A folder that tells of this very attempt is left as it is.
    """
    written = read_json(folder / "result.json") if (folder / "result.json").is_file() else {}
    if all(written.get(name) == row[name] for name in ("status", "attempts", "wall_seconds")):
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
        "attempts": row["attempts"],
        "folder": row["folder"],
    }
    write_json(folder / "result.json", result)


def _jobs(structures: StructureSet, purpose: str) -> list[Job]:
    return [Job(str(structures.ids[i]), structures.structure(i), purpose) for i in range(len(structures))]


def _element_jobs(symbols: Iterable[str], calculator: CalculatorSpec) -> list[Job]:
    most = get_calculator(calculator).element_candidates
    return [
        Job(f"element-{symbol}-{k}", structure, "element")
        for symbol in symbols
        for k, structure in enumerate(element_structures(symbol)[:most])
    ]


def _labelled(structures: StructureSet, rows: list[Row], references: Mapping[str, float], method: str) -> StructureSet:
    row_of_id = {row["id"]: row for row in rows}
    ended = [i for i, id_ in enumerate(structures.ids) if str(id_) in row_of_id]
    rows = [row_of_id[str(structures.ids[i])] for i in ended]
    energies = np.array([formation_energies(row, references) for row in rows]).reshape(-1, 2)
    kept = np.flatnonzero(np.isfinite(energies[:, 0]))
    given = structures.subset(np.asarray(ended, dtype=np.int64)[kept])
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


def _shown(progress: Progress | None, what: str, total: int) -> AbstractContextManager[Advance]:
    if progress is None or total == 0:
        return nullcontext(lambda n, text: None)
    return progress(what, total)
