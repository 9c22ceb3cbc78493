"""Worker processes of this machine, each with one calculation at a time."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from voxtal.calculators.base import CalculatorSpec, RelaxSettings
from voxtal.ledger import Calculation
from voxtal.parallel.launch import outside_of_ranks
from voxtal.workflows.worker import BROKEN, READY, RESULT, work

MAX_STILLBORN = 3
"""Workers that may die one after the other before they are ready, until the machine is taken to be unfit."""

Result = tuple[Calculation, Mapping[str, Any] | str]
"""A calculation that ended: the keyword arguments of ``Ledger.finish``, or how its worker died."""


class BrokenCalculator(Exception):
    """The calculator does not run at all on this machine; the message holds the worker's last words."""


def available_cores() -> int:
    """Cores that this process may use, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker:
    """The parent's end of one worker process."""

    def __init__(self, calculator: CalculatorSpec, settings: RelaxSettings, cores: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection: Connection
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=work, args=(theirs, calculator, settings), daemon=True)
        self.ready = False
        self.calculation: Calculation | None = None
        with _environment(cores):
            self.process.start()
        theirs.close()

    def give(self, calculation: Calculation) -> None:
        self.calculation = calculation
        with contextlib.suppress(OSError):  # it has just died, which results() will find
            self.connection.send((calculation.initial, _own_folder(calculation)))

    def kill(self) -> None:
        """End it, and whatever its calculator has started."""
        self.process.kill()
        if self.process.pid is not None:
            with contextlib.suppress(OSError):  # there is no group of its own yet, or nobody is left in it
                os.killpg(self.process.pid, signal.SIGKILL)

    def death(self) -> str:
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"worker process killed by {signal.Signals(-code).name}"
        return f"worker process ended with code {code}"


class Pool:
    """Up to ``size`` workers of ``cores`` threads each; dead ones are replaced while there is work."""

    def __init__(self, calculator: CalculatorSpec, settings: RelaxSettings, size: int, cores: int) -> None:
        self.calculator, self.settings, self.size, self.cores = calculator, settings, size, cores
        self.workers: list[Worker] = []
        self.stillborn = 0

    def start_missing(self, waiting: int) -> None:
        """Have as many workers as there is work for."""
        wanted = min(self.size, waiting + len(self.busy()))
        while len(self.workers) < wanted:
            self.workers.append(Worker(self.calculator, self.settings, self.cores))

    def idle(self) -> list[Worker]:
        return [w for w in self.workers if w.ready and w.calculation is None and w.process.is_alive()]

    def busy(self) -> list[Worker]:
        return [w for w in self.workers if w.calculation is not None]

    def results(self, timeout: float) -> list[Result]:
        """Wait for any worker to say something or die; the calculations that ended by it.

        Raises
        ------
        BrokenCalculator
            The calculator raised, or worker after worker died before it was ready.
        """
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
                worker.kill()
                self.workers.remove(worker)
            self.stillborn += not worker.ready
            if kind == BROKEN or self.stillborn >= MAX_STILLBORN:
                raise BrokenCalculator(f"The calculator {self.calculator.name} does not run here: {value}")
            if calculation is not None:
                ended.append((calculation, value))
        return ended

    def _listen(self, worker: Worker) -> tuple[str, Any]:
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
            worker.kill()
        for worker in self.workers:
            worker.process.join()
            worker.connection.close()


def _own_folder(calculation: Calculation) -> str:
    """Within its folder, for the same structure may be calculated with other settings."""
    return os.path.join(calculation.folder, calculation.key[:8]) if calculation.folder else ""


@contextlib.contextmanager
def _environment(cores: int) -> Iterator[None]:
    """Let a process started here use ``cores`` threads, for workers would fight over cores, and be no MPI rank."""
    before = dict(os.environ)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(cores))
    _become(outside_of_ranks(before) | threads)
    try:
        yield
    finally:
        _become(before)


def _become(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
