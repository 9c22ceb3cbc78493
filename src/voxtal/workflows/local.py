"""Calculations over worker processes of this machine, through the ledger.

Work is handed out one by one, biggest first. The parent alone writes the ledger: a worker may die at any instant and
costs the calculation that it was at, which is tried again, nothing else.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from voxtal.calculators.registry import get_calculator
from voxtal.ledger import Calculation, Ledger
from voxtal.owners import BEAT_SECONDS
from voxtal.structures.text import composition_of_text
from voxtal.workflows.jobs import Finished, Row, refuse_engines
from voxtal.workflows.plain import settings_from_text, spec_from_text
from voxtal.workflows.pool import Pool, Result, available_cores

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
        _check(calculations)
        self._work(_Own(calculations), calculations[0], ledger, finished, enough)

    def work(self, ledger_path: Path, finished: Finished) -> None:
        """Run what waits in a ledger, together with any number of other processes, until nothing waits any more."""
        with Ledger(ledger_path) as ledger:
            while ledger.revive() or ledger.waiting():
                for calculator, settings in ledger.waiting():
                    queue = _Waiting(calculator, settings)
                    first = queue.claim(ledger)
                    if first is not None:
                        _check([first])
                        queue.claimed.append(first)
                        self._work(queue, first, ledger, finished, lambda: False)

    def _work(
        self, queue: _Queue, first: Calculation, ledger: Ledger, finished: Finished, enough: Callable[[], bool]
    ) -> None:
        size = self.workers or max(1, available_cores() // self.cores)
        pool = Pool(spec_from_text(first.calculator), settings_from_text(first.settings), size, self.cores)
        try:
            _run(queue, ledger, pool, finished, enough)
        finally:
            pool.kill()
            ledger.release()


def _check(calculations: Sequence[Calculation]) -> None:
    """Refuse what the calculator cannot work with here, before anything is begun."""
    calculator = get_calculator(spec_from_text(calculations[0].calculator))
    calculator.check(sorted({symbol for c in calculations for symbol in composition_of_text(c.initial)}))


class _Queue(Protocol):
    """Where the next calculation comes from."""

    settled: list[str]
    """Keys of those found to have ended elsewhere."""

    def claim(self, ledger: Ledger) -> Calculation | None:
        """The next one, claimed."""

    def again(self, calculation: Calculation) -> None:
        """Take one back that is claimed and has to be run again."""

    def left(self) -> int:
        """About how many may still be claimed now."""

    def waits(self) -> bool:
        """Whether more may come later."""

    def look_again(self) -> None:
        """Look at what others are at again."""


class _Own:
    """A list of calculations, some of which other processes may be at."""

    def __init__(self, calculations: Sequence[Calculation]) -> None:
        self.queue, self.elsewhere = deque(calculations), list[Calculation]()
        self.settled: list[str] = []

    def claim(self, ledger: Ledger) -> Calculation | None:
        while self.queue:
            calculation = self.queue.popleft()
            answer = ledger.claim(calculation)
            if answer == "ours":
                return calculation
            if answer == "finished":
                self.settled.append(calculation.key)
            else:
                self.elsewhere.append(calculation)
        return None

    def again(self, calculation: Calculation) -> None:
        self.queue.append(calculation)

    def left(self) -> int:
        return len(self.queue)

    def waits(self) -> bool:
        return bool(self.elsewhere)

    def look_again(self) -> None:
        self.queue.extend(self.elsewhere)
        self.elsewhere.clear()


class _Waiting:
    """What waits in the ledger, of one calculator and its settings."""

    def __init__(self, calculator: str, settings: str) -> None:
        self.calculator, self.settings = calculator, settings
        self.claimed: list[Calculation] = []
        self.settled: list[str] = []
        self.empty = False

    def claim(self, ledger: Ledger) -> Calculation | None:
        if self.claimed:
            return self.claimed.pop()
        found = ledger.claim_waiting(self.calculator, self.settings)
        self.empty = found is None
        return found

    def again(self, calculation: Calculation) -> None:
        self.claimed.append(calculation)

    def left(self) -> int:
        return len(self.claimed) if self.empty else sys.maxsize  # how many only a claim can tell

    def waits(self) -> bool:
        return False

    def look_again(self) -> None:
        pass


def _run(queue: _Queue, ledger: Ledger, pool: Pool, finished: Finished, enough: Callable[[], bool]) -> None:
    """Hand out, collect, record; one transaction a turn, for a disk may take 20 ms to be sure of it."""
    results: list[Result] = []
    beaten = polled = time.monotonic()
    while not enough():
        pool.start_missing(queue.left())
        idle = pool.idle() if queue.left() else []
        ended: list[str] = []
        given: list[tuple[Any, Calculation]] = []
        if results or idle:
            with ledger.batch():
                ended = [
                    calculation.key for calculation, value in results if _record(calculation, value, ledger, queue)
                ]
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
        if not (queue.left() or pool.busy() or queue.waits()):
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
    queue.again(calculation)
    return False


def _row(ledger: Ledger, key: str) -> Row:
    row = ledger.result(key)
    assert row is not None, f"{key} has ended"
    return row
