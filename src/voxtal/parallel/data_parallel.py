"""Data parallelism: each rank takes its share of every batch, and all take the same step.

Tasks are handed a :class:`DataParallel`. They ask it for the rank's share of a batch, draw their noise through it and
multiply their loss with the share's weight; gradients are summed when a prepared optimizer steps. The result is that
of one process but for the order of sums.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from voxtal.errors import EXIT_FAILED, RankLost, UserError
from voxtal.parallel.layers import globalize
from voxtal.parallel.node_sums import NodeSums, views_like

PATIENCE = timedelta(minutes=30)
"""A rank that is gone is noticed at once by its connections; this is for one that hangs."""

_BLOCK, _MOST_BLOCKS = 16, 32
"""Rows of a batch whose noise is drawn together, at least; and how many blocks, at most: each costs a new seed."""


@dataclass(frozen=True)
class Share:
    """Rows ``first`` to ``last`` of a batch of ``total``, one rank's share."""

    first: int
    last: int
    total: int
    weight: float
    """Of the mean over this share, in the mean over the batch."""

    def of(self, rows: Any) -> Any:
        """The share's part of something that has all rows of the batch."""
        return rows[self.first : self.last]

    def randn(self, *shape: int, device: torch.device | str) -> Tensor:
        """Normal noise (rows of the share, *shape): the share's part of what one process would draw."""
        return self._drawn(lambda n, generator: torch.randn(n, *shape, device=device, generator=generator), device)

    def rand(self, *shape: int, device: torch.device | str) -> Tensor:
        """Numbers in [0, 1) (rows of the share, *shape); as :meth:`randn`."""
        return self._drawn(lambda n, generator: torch.rand(n, *shape, device=device, generator=generator), device)

    def bernoulli(self, p: float, *shape: int, device: torch.device | str) -> Tensor:
        """Ones with probability ``p``, else zeros (rows of the share, *shape); as :meth:`randn`."""
        return self._drawn(
            lambda n, generator: torch.empty(n, *shape, device=device).bernoulli_(p, generator=generator), device
        )

    def _drawn(self, draw: Callable[[int, torch.Generator], Tensor], device: torch.device | str) -> Tensor:
        """Rows drawn in blocks, each from a seed of its own: a rank draws the blocks that its share lies in."""
        seed = int(torch.randint(2**62, ()))  # the same on all ranks, whose streams agree
        generator = torch.Generator(device)
        size = max(_BLOCK, -(-self.total // _MOST_BLOCKS))
        first_block = self.first // size
        rows = []
        for block in range(first_block, (self.last - 1) // size + 1):
            generator.manual_seed(seed + block)
            rows.append(draw(min(size, self.total - block * size), generator))
        skipped = self.first - first_block * size
        return torch.cat(rows)[skipped : skipped + self.last - self.first]


class DataParallel:
    """One process, and what the strategies over many have in common.

    Attributes
    ----------
    name
        ``none``, ``ddp`` or ``horovod``.
    rank, size
        Of this process among all that train together.
    local_rank
        Of this process among those on its node; it takes the GPU of that number.
    compression
        ``fp16``: gradients travel in half precision.
    batch
        The share of the batch that is being worked on.
    """

    name = "none"
    rank = 0
    size = 1
    local_rank = 0
    compression = "none"
    batch = Share(0, 0, 0, 1.0)
    _node_sums: NodeSums | None = None

    def split(self, total: int) -> Share:
        """Begin a batch of ``total`` rows: this rank's share of it.

        Raises
        ------
        UserError
            There are more ranks than rows.
        """
        if total < self.size:
            raise UserError(
                f"A batch of {total} cannot be shared by {self.size} ranks. Use at most {total} ranks, "
                "or raise batch_size of this model."
            )
        first, last = (total * rank // self.size for rank in (self.rank, self.rank + 1))
        self.batch = Share(first, last, total, (last - first) / total)
        return self.batch

    def prepare(self, modules: Iterable[nn.Module], optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Make ``modules`` see whole batches where that matters, and ``optimizers`` step by their gradients."""
        for module in modules:
            globalize(module, self)
        if self.size > 1:
            for optimizer in optimizers:
                optimizer.register_step_pre_hook(lambda opt, _args, _kwargs: self._sum_gradients(opt))

    def _sum_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Give ``optimizer`` the gradients of the whole batch. They are of use until the next ones are summed."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters]
        dtype = gradients[0].dtype
        sums = self.sum(gradients, torch.float16 if self.compression == "fp16" else dtype)
        if self.compression == "fp16":
            sums = [total.to(dtype) for total in sums]
        for parameter, total in zip(parameters, sums, strict=True):
            parameter.grad = total

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Mean over all ranks of each value, by share of the batch. Collective."""
        if self.size == 1:
            return dict(values)
        own = torch.tensor(list(values.values()), dtype=torch.float64) * self.batch.weight
        (mean,) = self.sum([own], own.dtype)
        return dict(zip(values, mean.tolist(), strict=True))

    def bcast(self, value: Any, root: int = 0) -> Any:
        """``value`` of rank ``root`` on every rank; it is pickled. Collective."""
        return value

    def abort(self, code: int) -> None:
        """End this rank at once; its launcher ends the others."""
        os._exit(code or EXIT_FAILED)

    def close(self) -> None:
        """Part from the other ranks, when all is done. Collective."""

    def sum(self, parts: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
        """Sum over all ranks of each of ``parts``, in its shape; they last until the next sum. Collective."""
        with reaching_all_ranks(self.rank, self.size):
            if self._node_sums and parts[0].device.type == "cpu":
                return self._node_sums.sum(parts, dtype)
            flat = torch.empty(sum(part.numel() for part in parts), dtype=dtype, device=parts[0].device)
            sums = views_like(parts, flat)
            torch._foreach_copy_(sums, list(parts))
            self._sum_flat(flat)
            return sums

    def _sum_flat(self, flat: Tensor) -> None:
        """Make of ``flat`` (n,) its sum over all ranks."""


@contextmanager
def reaching_all_ranks(rank: int, size: int) -> Iterator[None]:
    """Turn what libraries and connections raise when a rank is gone into :class:`RankLost`."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RankLost(
            f"rank {rank} of {size} lost another rank, which died or cannot be reached ({reason}). "
            "The last checkpoint is whole: run the same command again."
        ) from error


STRATEGIES = ("auto", "none", "ddp", "horovod")


@dataclass(frozen=True)
class Launch:
    """How this process was started: by which launcher, and as which of how many."""

    launcher: str
    rank: int
    size: int
    local_rank: int
    one_node: bool = False
    """All ranks are known to be on the node of this one."""


def launch_of(environment: Mapping[str, str]) -> Launch:
    """From the variables that launchers set; an empty launcher where there is none."""

    def number(name: str, default: int = 0) -> int:
        return int(environment.get(name, default))

    if "TORCHELASTIC_RUN_ID" in environment:
        return Launch("torchrun", number("RANK"), number("WORLD_SIZE", 1), number("LOCAL_RANK"))
    if "HOROVOD_RANK" in environment:
        rank, size, local_rank = number("HOROVOD_RANK"), number("HOROVOD_SIZE", 1), number("HOROVOD_LOCAL_RANK")
        return Launch("horovodrun", rank, size, local_rank, number("HOROVOD_LOCAL_SIZE") == size)
    if "OMPI_COMM_WORLD_SIZE" in environment:
        rank, size, local_rank, local_size = (
            number(f"OMPI_COMM_WORLD_{name}") for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
        )
        return Launch("mpirun", rank, size, local_rank, local_size == size)
    tasks = number("SLURM_STEP_NUM_TASKS", 1)
    if "PMI_SIZE" in environment and number("PMI_SIZE") != tasks:  # MPICH's mpirun, which starts itself by srun
        size = number("PMI_SIZE")
        return Launch("mpirun", number("PMI_RANK"), size, number("MPI_LOCALRANKID"), number("MPI_LOCALNRANKS") == size)
    if tasks > 1 and "SLURM_PROCID" in environment:
        one_node = number("SLURM_STEP_NUM_NODES") == 1
        return Launch("srun", number("SLURM_PROCID"), tasks, number("SLURM_LOCALID"), one_node)
    return Launch("", 0, 1, 0)


def data_parallel(strategy: str, compression: str = "none") -> DataParallel:
    """The strategy asked for; ``auto`` takes the one that this process was started for.

    ``auto`` is torch.distributed under torchrun, Horovod under horovodrun and mpirun, and under srun Horovod where it
    is installed, else torch.distributed.

    Raises
    ------
    UserError
        Unknown strategy, or one that this process was not started for or that is not installed.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"There is no way to train called {strategy!r}; there are {', '.join(STRATEGIES)}.")
    launch = launch_of(os.environ)
    if strategy == "auto":
        strategy = _strategy_for(launch)
    if strategy == "none":
        if launch.size > 1:
            raise UserError(
                f"{launch.launcher} started {launch.size} ranks, and each would train alone. "
                "Leave --parallel away, or start one."
            )
        return DataParallel()
    if strategy == "ddp":
        from voxtal.parallel.torch_distributed import TorchDistributed

        return TorchDistributed(launch, compression)
    from voxtal.parallel.horovod_ranks import HorovodRanks

    return HorovodRanks(launch, compression)


def _strategy_for(launch: Launch) -> str:
    if launch.launcher == "torchrun":
        return "ddp"
    if launch.size == 1:
        return "none"
    if launch.launcher == "srun":
        from importlib.util import find_spec

        return "horovod" if find_spec("horovod") else "ddp"
    return "horovod"
