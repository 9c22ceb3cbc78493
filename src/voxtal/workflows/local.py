"""Calculations over worker processes of this machine, through the ledger.

Work is handed out one by one, biggest first. The parent alone writes the ledger: a worker may die at any instant and
costs the calculation that it was at, which is tried again, nothing else.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from voxtal.calculators.registry import get_calculator
from voxtal.ledger import Calculation, Ledger
from voxtal.owners import BEAT_SECONDS
from voxtal.structures.text import composition_of_text
from voxtal.workflows.jobs import Finished, Row, refuse_engines
from voxtal.workflows.plain import settings_from_text, spec_from_text
from voxtal.workflows.pool import Pool, Result, Worker, available_cores

POLL_SECONDS = 2.0
"""How often work that another process has claimed is looked at again."""

MAX_ATTEMPTS = 3
"""Of a calculation whose worker dies, or whose owner does."""


class Local:
    """Backend: worker processes of this machine.

    Parameters
    ----------
    workers : int
        Processes; 0 for as many as cores allow.
    cores : int
        Cores of each calculation.
    """

    def __init__(self, workers: int = 0, cores: int = 1) -> None:
        self.workers, self.cores = workers, cores

    def run(
        self, calculations: Sequence[Calculation], ledger: Ledger, finished: Finished, enough: Callable[[], bool]
    ) -> None:
        """Run them all; those that other processes are at are waited for, and taken over where such a one dies."""
        refuse_engines(calculations, ledger)
        queue = _Queue(calculations, wait_for_others=True)
        self._work(queue, calculations, ledger, finished, enough)

    def work(self, ledger_path: Path, finished: Finished) -> None:
        """Run what waits in a ledger, together with any number of other processes, until nothing waits any more."""
        with Ledger(ledger_path) as ledger:
            while ledger.revive() or ledger.waiting():
                groups: dict[tuple[str, str], list[Calculation]] = {}
                for calculation in ledger.waiting():
                    groups.setdefault((calculation.calculator, calculation.settings), []).append(calculation)
                for calculations in groups.values():
                    calculations.sort(key=lambda c: len(c.initial), reverse=True)
                    queue = _Queue(calculations, wait_for_others=False)
                    self._work(queue, calculations, ledger, finished, lambda: False)

    def _work(
        self,
        queue: _Queue,
        calculations: Sequence[Calculation],
        ledger: Ledger,
        finished: Finished,
        enough: Callable[[], bool],
    ) -> None:
        spec, settings = spec_from_text(calculations[0].calculator), settings_from_text(calculations[0].settings)
        get_calculator(spec).check(sorted({symbol for c in calculations for symbol in composition_of_text(c.initial)}))
        pool = Pool(spec, settings, self.workers or max(1, available_cores() // self.cores), self.cores)
        try:
            _run(queue, ledger, pool, finished, enough)
        finally:
            pool.kill()
            ledger.release()


class _Queue:
    """Calculations to claim, some of which other processes may be at or have done."""

    def __init__(self, calculations: Sequence[Calculation], wait_for_others: bool) -> None:
        self.left = deque(calculations)
        self.wait_for_others = wait_for_others
        self.elsewhere: list[Calculation] = []
        self.settled: list[str] = []
        """Keys of those that others have done."""

    def claim(self, ledger: Ledger) -> Calculation | None:
        """The next one that is ours."""
        while self.left:
            calculation = self.left.popleft()
            answer = ledger.claim(calculation)
            if answer == "ours":
                return calculation
            if self.wait_for_others and answer == "finished":
                self.settled.append(calculation.key)
            elif self.wait_for_others:
                self.elsewhere.append(calculation)
        return None

    def look_again(self) -> None:
        """Look at what others are at again."""
        self.left.extend(self.elsewhere)
        self.elsewhere.clear()


def _run(queue: _Queue, ledger: Ledger, pool: Pool, finished: Finished, enough: Callable[[], bool]) -> None:
    """Hand out, collect, record; one transaction a turn, for a disk may take 20 ms to be sure of it."""
    results: list[Result] = []
    beaten = polled = time.monotonic()
    while not enough():
        pool.start_missing(len(queue.left))
        idle = pool.idle() if queue.left else []
        ended: list[str] = []
        given: list[tuple[Worker, Calculation]] = []
        if results or idle:
            with ledger.batch():
                ended = [work.key for work, value in results if _record(work, value, ledger, queue)]
                for worker in idle:
                    claimed = queue.claim(ledger)
                    if claimed is None:
                        break
                    given.append((worker, claimed))
        for worker, calculation in given:
            worker.give(calculation)
        for key in [*ended, *queue.settled]:
            finished(key, _row(ledger, key))
        queue.settled.clear()
        if not (queue.left or pool.busy() or queue.elsewhere):
            return
        results = pool.results(timeout=POLL_SECONDS)
        now = time.monotonic()
        if now - beaten >= BEAT_SECONDS:
            beaten = now
            ledger.beat()
        if now - polled >= POLL_SECONDS:
            polled = now
            queue.look_again()


def _record(calculation: Calculation, value: Mapping[str, Any] | str, ledger: Ledger, queue: _Queue) -> bool:
    """Write what became of a calculation; False where it is to be run again because its worker died."""
    if not isinstance(value, str):
        ledger.finish(calculation.key, **value)
        return True
    if ledger.attempts(calculation.key) >= MAX_ATTEMPTS:
        ledger.finish(calculation.key, status="failed", reason=f"{value}, {MAX_ATTEMPTS} times")
        return True
    ledger.again(calculation.key)
    queue.left.append(calculation)
    return False


def _row(ledger: Ledger, key: str) -> Row:
    row = ledger.result(key)
    assert row is not None, f"{key} has ended"
    return row
