"""Jobs: structures to relax, run by whichever backend through the ledger, so that none is calculated twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from voxtal.calculators.base import CalculatorSpec, RelaxSettings
from voxtal.calculators.registry import get_calculator
from voxtal.errors import UserError
from voxtal.ledger import Calculation, Ledger
from voxtal.owners import ENGINE
from voxtal.runs import safe_name
from voxtal.structures.text import structure_to_text
from voxtal.workflows.plain import settings_to_text, spec_to_text

Row = dict[str, Any]
Advance = Callable[[int, str], None]
Finished = Callable[[str, Row], None]
"""Called with the key and the ledger's row of a calculation that ended."""


@dataclass(frozen=True)
class Job:
    """A structure (pymatgen) to relax, and what for: element, training, withheld or candidate."""

    id: str
    structure: Any
    purpose: str


class Backend(Protocol):
    """A way to run calculations."""

    def run(
        self, calculations: Sequence[Calculation], ledger: Ledger, finished: Finished, enough: Callable[[], bool]
    ) -> None:
        """Bring ``calculations``, largest first, to an end in ``ledger`` and tell ``finished`` of each.

        Returns when all have ended or ``enough()`` is true. Ended by an exception, it leaves none claimed that it
        does not go on with at the next call.
        """
        ...


def run_jobs(
    jobs: Sequence[Job],
    calculator: CalculatorSpec,
    settings: RelaxSettings,
    ledger_path: Path,
    backend: Backend,
    *,
    round: int = 0,
    folder: Path | None = None,
    close_at: float = 1.0,
    retry: bool = False,
    on_finished: Callable[[Row], None] | None = None,
    advance: Advance | None = None,
) -> list[Row]:
    """Relax every job that the ledger does not know yet.

    Parameters
    ----------
    jobs : sequence of Job
        What to run. Equal structures are run once.
    calculator : CalculatorSpec
        What makes the labels.
    settings : RelaxSettings
        Of every job.
    ledger_path : Path
        The run's ledger.
    backend : Backend
        How they are run.
    round : int
        Recorded with new rows.
    folder : Path, optional
        Holds the folders of the calculations, for a calculator that keeps files; beside the ledger if not given.
    close_at : float
        Share of the jobs that have to end; the others are left for later.
    retry : bool
        Whether those that the ledger knows as failed are run again.
    on_finished : callable
        Called with each finished row, known ones too, before the next is waited for.
    advance : callable
        Told ``(1, "id status")`` for each finished job.

    Returns
    -------
    list of dict
        The ledger's row of each job that has ended, in the order of ``jobs``, under the job's own id.

    Raises
    ------
    UserError
        Unknown calculator, one that cannot work with these elements, or the ledger is none.
    BrokenCalculator
        Workers cannot start, or the calculator raises on loading.
    """
    calculations = calculations_of(jobs, calculator, settings, round, folder or calculations_folder(ledger_path))
    jobs_of_key: dict[str, list[Job]] = {}
    for job, calculation in zip(jobs, calculations, strict=True):
        jobs_of_key.setdefault(calculation.key, []).append(job)
    rows: dict[str, Row] = {}

    def finished(key: str, row: Row) -> None:
        rows[key] = row
        for job in jobs_of_key[key]:
            if on_finished:
                on_finished(row | {"id": job.id, "purpose": job.purpose})
            if advance:
                advance(1, f"{job.id} {row['status']}")

    with Ledger(ledger_path) as ledger:
        if retry:
            ledger.forget(jobs_of_key)
        unknown: dict[str, Calculation] = {}
        for calculation in calculations:
            if calculation.key in rows or calculation.key in unknown:
                continue
            row = ledger.result(calculation.key)
            if row is None:
                unknown[calculation.key] = calculation
            else:
                finished(calculation.key, row)
        to_close = math.ceil(close_at * len(jobs_of_key))
        if unknown and len(rows) < to_close:
            by_size = sorted(unknown.values(), key=lambda c: len(jobs_of_key[c.key][0].structure), reverse=True)
            backend.run(by_size, ledger, finished, lambda: len(rows) >= to_close)
    return [
        rows[calculation.key] | {"id": job.id, "purpose": job.purpose}
        for job, calculation in zip(jobs, calculations, strict=True)
        if calculation.key in rows
    ]


def refuse_engines(calculations: Sequence[Calculation], ledger: Ledger) -> None:
    """Raise UserError where a workflow engine has some of them, for a backend that would wait for ever."""
    elsewhere = ledger.owned(f"{ENGINE}:").keys() & {calculation.key for calculation in calculations}
    if elsewhere:
        raise UserError(
            f"{len(elsewhere)} of these calculations are on the LaunchPad. Take them in with relax.backend = "
            '"fireworks", or delete their workflows and run this again with --retry.'
        )


def calculations_folder(ledger_path: Path) -> Path:
    """Where calculations keep files that belong to no candidate."""
    return ledger_path.parent / "relax"


def calculations_of(
    jobs: Sequence[Job], calculator: CalculatorSpec, settings: RelaxSettings, round: int, folder: Path
) -> list[Calculation]:
    """What the ledger is told of ``jobs``; a calculator that keeps files gets a folder for each."""
    chosen = get_calculator(calculator)
    method, settings_text, spec_text = chosen.method.fingerprint, settings_to_text(settings), spec_to_text(calculator)
    return [
        Calculation(
            id=job.id,
            purpose=job.purpose,
            round=round,
            method=method,
            settings=settings_text,
            initial=structure_to_text(job.structure),
            calculator=spec_text,
            folder=str((folder / safe_name(job.id)).absolute()) if chosen.keeps_files else "",
        )
        for job in jobs
    ]
