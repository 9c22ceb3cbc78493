"""Calculations over worker processes of this machine, through the ledger.

One process per worker, one thread each; work is handed out one by one, biggest first. The parent alone
writes the ledger: a worker may die at any instant and costs the calculation that it was at, nothing else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from voxtal.calculators.base import RelaxSettings
from voxtal.calculators.registry import get_calculator
from voxtal.ledger import BEAT_SECONDS, Calculation, Ledger
from voxtal.workflows.plain import settings_to_text, structure_to_text
from voxtal.workflows.worker import BROKEN, READY, RESULT, work

POLL_SECONDS = 2.0
"""How often work that another process has claimed is looked at again."""

MAX_STILLBORN = 3
"""Workers that may die one after the other before they are ready, until the machine is taken to be unfit."""

Advance = Callable[[int, str], None]
Row = dict[str, Any]
Result = tuple[Calculation, Mapping[str, Any]]
"""A calculation that ended, and the keyword arguments of ``Ledger.finish``."""


@dataclass(frozen=True)
class Job:
    """A structure (pymatgen) to relax, and what for: element, training, withheld or candidate."""

    id: str
    structure: Any
    purpose: str


class BrokenCalculator(Exception):
    """The calculator does not run at all on this machine; the message holds the worker's last words."""


def run_jobs(
    jobs: Sequence[Job],
    calculator: str,
    settings: RelaxSettings,
    ledger_path: Path,
    *,
    workers: int = 0,
    round: int = 0,
    wait_for_others: bool = True,
    on_finished: Callable[[Row], None] | None = None,
    advance: Advance | None = None,
) -> list[Row]:
    """Relax every job that the ledger does not know yet.

    Parameters
    ----------
    jobs : sequence of Job
        What to run. Equal structures are run once.
    calculator : str
        Name in the registry.
    settings : RelaxSettings
        Of every job.
    ledger_path : Path
        The run's ledger.
    workers : int
        Processes; 0 is one per core that this process may use.
    round : int
        Recorded with new rows.
    wait_for_others : bool
        Whether to wait for the jobs that other processes are at, and to take them over where such a process dies.
    on_finished : callable
        Called with each finished row, known ones too, before the next is waited for.
    advance : callable
        Told ``(1, "id status")`` for each finished job.

    Returns
    -------
    list of dict
        The ledger's row of each job, in the order of ``jobs``, under the job's own id; without ``wait_for_others``
        those that other processes are still at are left out.

    Raises
    ------
    UserError
        Unknown calculator, or the ledger is none.
    BrokenCalculator
        Workers cannot start, or the calculator raises on loading.
    """
    method = get_calculator(calculator).method.fingerprint
    text = settings_to_text(settings)
    calculations = [
        Calculation(job.id, job.purpose, round, method, text, structure_to_text(job.structure)) for job in jobs
    ]
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
        unknown: dict[str, Calculation] = {}
        for calculation in calculations:
            row = ledger.result(calculation.key)
            if row is None:
                unknown[calculation.key] = calculation
            elif calculation.key not in rows:
                finished(calculation.key, row)
        by_size = sorted(unknown.values(), key=lambda c: len(jobs_of_key[c.key][0].structure), reverse=True)
        if by_size:
            pool = _Pool(calculator, settings, min(workers or available_cores(), len(by_size)))
            try:
                _run(by_size, ledger, pool, finished, wait_for_others)
            finally:
                pool.kill()
                ledger.release()
    return [
        rows[calculation.key] | {"id": job.id, "purpose": job.purpose}
        for job, calculation in zip(jobs, calculations, strict=True)
        if calculation.key in rows
    ]


def available_cores() -> int:
    """Cores that this process may use, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(
    calculations: Sequence[Calculation],
    ledger: Ledger,
    pool: _Pool,
    finished: Callable[[str, Row], None],
    wait_for_others: bool,
) -> None:
    """Hand out, collect, record; one transaction a turn, for a disk may take 20 ms to be sure of it."""
    queue, elsewhere = deque(calculations), list[Calculation]()
    results: list[Result] = []
    beaten = polled = time.monotonic()
    while True:
        pool.start_missing(len(queue))
        settled = [calculation for calculation, _ in results]
        given: list[tuple[_Worker, Calculation]] = []
        idle = pool.idle() if queue else []
        if results or idle:
            with ledger.batch():
                for calculation, result in results:
                    ledger.finish(calculation.key, **result)
                for worker in idle:
                    claimed = _claim_next(queue, ledger, settled, elsewhere)
                    if claimed is not None:
                        given.append((worker, claimed))
        for worker, calculation in given:
            worker.give(calculation)
        for calculation in settled:
            row = ledger.result(calculation.key)
            assert row is not None
            finished(calculation.key, row)
        if not (queue or pool.busy() or (elsewhere and wait_for_others)):
            return
        results = pool.results(timeout=POLL_SECONDS)
        now = time.monotonic()
        if now - beaten >= BEAT_SECONDS:
            beaten = now
            ledger.beat()
        if elsewhere and now - polled >= POLL_SECONDS:
            polled = now
            queue.extend(elsewhere)
            elsewhere.clear()


def _claim_next(
    queue: deque[Calculation], ledger: Ledger, settled: list[Calculation], elsewhere: list[Calculation]
) -> Calculation | None:
    """The next calculation that is ours; those that others have done or are at are set aside."""
    while queue:
        calculation = queue.popleft()
        answer = ledger.claim(calculation)
        if answer == "ours":
            return calculation
        (settled if answer == "finished" else elsewhere).append(calculation)
    return None


class _Worker:
    """The parent's end of one worker process."""

    def __init__(self, calculator: str, settings: RelaxSettings) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection: Connection
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=work, args=(theirs, calculator, settings), daemon=True)
        self.ready = False
        self.calculation: Calculation | None = None
        with _one_thread_each():
            self.process.start()
        theirs.close()

    def give(self, calculation: Calculation) -> None:
        self.calculation = calculation
        with contextlib.suppress(OSError):  # it has just died, which results() will find
            self.connection.send(calculation.initial)

    def death(self) -> str:
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"worker process killed by {signal.Signals(-code).name}"
        return f"worker process ended with code {code}"


class _Pool:
    """Up to ``size`` workers; dead ones are replaced while there is work."""

    def __init__(self, calculator: str, settings: RelaxSettings, size: int) -> None:
        self.calculator, self.settings, self.size = calculator, settings, size
        self.workers: list[_Worker] = []
        self.stillborn = 0

    def start_missing(self, waiting: int) -> None:
        wanted = min(self.size, waiting + len(self.busy()))
        while len(self.workers) < wanted:
            self.workers.append(_Worker(self.calculator, self.settings))

    def idle(self) -> list[_Worker]:
        return [w for w in self.workers if w.ready and w.calculation is None and w.process.is_alive()]

    def busy(self) -> list[_Worker]:
        return [w for w in self.workers if w.calculation is not None]

    def results(self, timeout: float) -> list[Result]:
        """Wait for any worker to say something or die; the calculations that ended by it."""
        ended: list[Result] = []
        ready = wait([w.connection for w in self.workers] + [w.process.sentinel for w in self.workers], timeout)
        for worker in list(self.workers):
            if worker.connection not in ready and worker.process.sentinel not in ready:
                continue
            kind, value = self._listen(worker)
            if kind == READY:
                worker.ready, self.stillborn = True, 0
                continue
            calculation, worker.calculation = worker.calculation, None
            if kind != RESULT:
                self.workers.remove(worker)
            self.stillborn += not worker.ready
            if kind == BROKEN or self.stillborn >= MAX_STILLBORN:
                raise BrokenCalculator(f"The calculator {self.calculator} does not run here: {value}")
            if calculation is not None:
                failure = {"status": "failed", "reason": value}
                ended.append((calculation, value if kind == RESULT else failure))
        return ended

    def _listen(self, worker: _Worker) -> tuple[str, Any]:
        try:
            if worker.connection.poll():
                message: tuple[str, Any] = worker.connection.recv()
                return message
        except (EOFError, OSError):
            pass
        worker.process.join(timeout=5.0)
        return "dead", worker.death()

    def kill(self) -> None:
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            worker.connection.close()


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let a process started here use one thread: as many workers as cores would otherwise fight over them."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
