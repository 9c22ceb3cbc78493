"""Data parallelism by torch.distributed: NCCL between GPUs, Gloo between processes; under torchrun or srun."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # not later: its default arguments would keep the group
from torch import Tensor

from voxtal.errors import UserError
from voxtal.parallel.data_parallel import PATIENCE, DataParallel, Launch, reaching_all_ranks
from voxtal.parallel.node_sums import NodeSums, join_node


class TorchDistributed(DataParallel):
    """All ranks that torchrun or srun started."""

    name = "ddp"

    def __init__(self, launch: Launch, compression: str) -> None:
        if launch.launcher == "srun":
            for name, value in rendezvous_of_step(os.environ).items():
                os.environ.setdefault(name, value)
        if "MASTER_ADDR" not in os.environ:
            raise UserError(
                "torch.distributed needs to know where rank 0 is: start this with torchrun or srun, "
                "or set MASTER_ADDR and MASTER_PORT."
            )
        self.rank, self.size, self.local_rank = launch.rank, launch.size, launch.local_rank
        self.compression = compression
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with reaching_all_ranks(self.rank, self.size):
            dist.init_process_group(backend, rank=self.rank, world_size=self.size, timeout=PATIENCE)
            atexit.register(self.close)  # Gloo's threads abort a process whose Python ends before them
            self._node_sums = self._on_processors()

    def bcast(self, value: Any, root: int = 0) -> Any:
        box = [value]
        with reaching_all_ranks(self.rank, self.size):
            dist.broadcast_object_list(box, src=root, device=torch.device("cpu"))
        return box[0]

    def close(self) -> None:
        if self._node_sums:
            self._node_sums.close()
            self._node_sums = None  # it has a group of its own
        if dist.is_initialized():
            dist.destroy_process_group()

    def _sum_flat(self, flat: Tensor) -> None:
        dist.all_reduce(flat)

    def _on_processors(self) -> NodeSums | None:
        """Sums of what lies in the processors' memory; None leaves them to Gloo."""
        joined = join_node(self.rank, self._gathered, PATIENCE.total_seconds())
        if joined is None:
            return None
        nodes, peers = joined
        between = None
        if len(nodes) > 1:
            between = partial(dist.all_reduce, group=dist.new_group([ranks[0] for ranks in nodes], backend="gloo"))
        own = next(ranks for ranks in nodes if self.rank in ranks)
        return NodeSums(own.index(self.rank), len(own), peers, between)

    def _gathered(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


def rendezvous_of_step(environment: Mapping[str, str]) -> dict[str, str]:
    """Where the ranks of a Slurm step meet: the node of rank 0, at a port that other steps there do not take."""
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", "localhost"))
    job, step = (int(environment.get(name, 0)) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return {"MASTER_ADDR": _first_node(nodes), "MASTER_PORT": str(20000 + (job * 97 + step) % 10000)}


def _first_node(nodes: str) -> str:
    if "[" not in nodes:
        return nodes.split(",")[0]
    scontrol = shutil.which("scontrol")
    if scontrol is None:
        raise UserError(f"scontrol is not on PATH, so that {nodes} cannot be read; set MASTER_ADDR to the first node.")
    answer = subprocess.run([scontrol, "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    return answer.stdout.split()[0]
