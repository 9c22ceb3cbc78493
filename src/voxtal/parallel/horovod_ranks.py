"""Data parallelism by Horovod: MPI, Gloo or NCCL; under mpirun, srun or horovodrun."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from voxtal.errors import UserError
from voxtal.parallel.data_parallel import PATIENCE, DataParallel, Launch, reaching_all_ranks
from voxtal.parallel.node_sums import NodeSums, join_node


class HorovodRanks(DataParallel):
    """All ranks that mpirun, srun or horovodrun started."""

    name = "horovod"

    def __init__(self, launch: Launch, compression: str) -> None:
        # ranks wait minutes for rank 0 to encode or to write; the ones that are gone are noticed by their connections
        os.environ.setdefault("HOROVOD_STALL_CHECK_TIME_SECONDS", "1800")
        # under horovodrun ranks meet within this time or give up, and some have more to load than others
        os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", "150")
        # Horovod's thread asks the other ranks for news all the time, and Open MPI spins until they answer: where that
        # takes cores from the training itself, two ranks were as slow as one
        os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
        sums_in_memory = launch.one_node and not torch.cuda.is_available()
        # Horovod looks once a cycle for what all ranks have ready: its own 1 ms is much of a short step, and each look
        # takes time from the training, which needs none where ranks sum in memory that they share
        os.environ.setdefault("HOROVOD_CYCLE_TIME", "20" if sums_in_memory else "0.5")
        try:
            import horovod.torch as hvd
        except ImportError as error:
            raise UserError(
                f"Horovod cannot be loaded ({error}); build it with hpc/install/horovod.sh, "
                "or train with torchrun, which needs none."
            ) from None
        self._hvd: Any = hvd
        with reaching_all_ranks(self.rank, self.size):
            hvd.init()
        self.rank, self.size, self.local_rank = hvd.rank(), hvd.size(), hvd.local_rank()
        self.compression = compression
        if self.size != launch.size:
            raise UserError(
                f"{launch.launcher} started {launch.size} ranks, but Horovod counts {self.size}: it was built for "
                "another MPI, or srun needs --mpi=pmix. `voxtal doctor` under the same launcher says more."
            )
        if torch.cuda.is_available():
            torch.cuda.set_device(self.local_rank % torch.cuda.device_count())
        if sums_in_memory:
            with reaching_all_ranks(self.rank, self.size):
                self._node_sums = self._on_one_node()

    def bcast(self, value: Any, root: int = 0) -> Any:
        with reaching_all_ranks(self.rank, self.size):
            if self._node_sums:
                return self._node_sums.bcast(value, root)
            # its own name for it is the type's, which may differ between ranks: they would wait for each other
            return self._hvd.broadcast_object(value, root_rank=root, name="bcast")

    def close(self) -> None:
        if self._node_sums:
            self._node_sums.close()
        self._hvd.shutdown()

    def _sum_flat(self, flat: Tensor) -> None:
        # a name of its own for every call would make the ranks negotiate each anew: this length's next is known
        self._hvd.allreduce_(flat, op=self._hvd.Sum, name=f"sum-{flat.dtype}-{len(flat)}")

    def _on_one_node(self) -> NodeSums | None:
        """Sums in shared memory. None, where there is no such memory or are several nodes, leaves them to Horovod."""
        joined = join_node(self.rank, self._gathered, PATIENCE.total_seconds())
        if joined is None or len(joined[0]) > 1:
            return None
        return NodeSums(self.rank, self.size, joined[1])

    def _gathered(self, value: Any) -> list[Any]:
        return self._hvd.allgather_object(value, name="gathered")
