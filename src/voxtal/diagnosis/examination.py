"""All checks in order: what is probed once, what on every rank, and the judges' findings."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from voxtal.diagnosis import gpus, horovod, mpi, slurm, software, storage, threads
from voxtal.diagnosis.findings import Finding, warning
from voxtal.errors import RankLost
from voxtal.parallel.communicator import Ranks, SerialCommunicator, world
from voxtal.parallel.data_parallel import DataParallel, Launch, data_parallel

T = TypeVar("T")


@dataclass(frozen=True)
class Crash:
    """A probe that failed, in place of its facts."""

    why: str


@dataclass(frozen=True)
class Machine:
    """What rank 0 finds out by itself."""

    mpi: mpi.Mpi | Crash
    horovod: horovod.Horovod | Crash
    slurm: slurm.Slurm | Crash


@dataclass(frozen=True)
class Rank:
    """What every rank finds out."""

    software: software.Software | Crash
    threads: threads.Threads | Crash
    gpus: gpus.Gpus | Crash
    storage: storage.Storage | Crash


@dataclass(frozen=True)
class Facts:
    """All that the judges are told."""

    machine: Machine
    world: mpi.World
    ranks: tuple[Rank, ...]


def examine(run: Path, launch: Launch) -> Facts | None:
    """All facts, on every rank; none on a rank that should have joined the others and could not: rank 0 tells that.

    Collective, among the ranks that find each other.
    """
    # programs are asked before MPI is there, which does not like forks
    machine = _probe_machine() if launch.rank == 0 else None
    ranks, error = _join(launch)
    if machine is None and ranks.size == 1:
        return None
    try:
        machine = ranks.bcast(machine)
        own = _probe_rank(run, launch, ranks)
        all_ranks = tuple(ranks.bcast(own if rank == ranks.rank else None, root=rank) for rank in range(ranks.size))
    except RankLost as lost:
        error, all_ranks = str(lost), (_probe_rank(run, launch, SerialCommunicator()),)
    if machine is None:
        return None
    if isinstance(ranks, DataParallel) and not error:
        ranks.close()
    slurm_mpi = os.environ.get("SLURM_MPI_TYPE", "")
    return Facts(machine, mpi.World(launch.launcher, launch.size, ranks.size, error, slurm_mpi), all_ranks)


def _probe_machine() -> Machine:
    with ThreadPoolExecutor() as pool:  # each waits for programs
        return Machine(*pool.map(_attempt, (mpi.probe, horovod.probe, slurm.probe)))


def _join(launch: Launch) -> tuple[Ranks, str]:
    """Meet the other ranks in the way of the launcher that started this one; or this rank alone, and why."""
    try:
        if launch.launcher in ("torchrun", "horovodrun"):
            return data_parallel("auto"), ""
        if launch.launcher == "srun" and mpi.left_out_by_srun(os.environ):
            return SerialCommunicator(), "srun offers Open MPI no PMIx"
        return world(), ""
    except (Exception, SystemExit) as failure:
        return SerialCommunicator(), str(failure).partition("\n")[0] or type(failure).__name__


def _probe_rank(run: Path, launch: Launch, ranks: Ranks) -> Rank:
    """Collective."""
    return Rank(
        software=_attempt(software.probe),
        threads=_attempt(lambda: threads.probe(launch.rank)),
        gpus=_attempt(lambda: gpus.probe(launch.rank, launch.local_rank)),
        storage=_attempt(lambda: storage.probe(run, ranks)),
    )


def judge(facts: Facts) -> list[Finding]:
    """Every finding, in the order of the table."""
    machine, ranks = facts.machine, facts.ranks
    launched = bool(facts.world.launcher)
    in_slurm = isinstance(machine.slurm, slurm.Slurm) and bool(machine.slurm.version or machine.slurm.error)
    torch = ranks[0].software.libraries["torch"] if isinstance(ranks[0].software, software.Software) else "?"
    seen = len(ranks[0].gpus.visible) if isinstance(ranks[0].gpus, gpus.Gpus) else 0
    return [
        *_findings("software", [rank.software for rank in ranks], software.judge),
        *_findings("mpi4py and mpirun", [machine.mpi], lambda facts: [mpi.judge(facts[0])]),
        mpi.judge_world(facts.world),
        *_findings("Horovod", [machine.horovod], lambda facts: [horovod.judge(facts[0], torch, seen)]),
        *_findings("GPUs", [rank.gpus for rank in ranks], lambda facts: gpus.judge(facts, launched)),
        *_findings("threads", [rank.threads for rank in ranks], lambda facts: [threads.judge(facts)]),
        *_findings("storage", [rank.storage for rank in ranks], lambda facts: storage.judge(facts, in_slurm)),
        *_findings("Slurm", [machine.slurm], lambda facts: [slurm.judge(facts[0])]),
    ]


def _attempt(probe: Callable[[], T]) -> T | Crash:
    try:
        return probe()
    except RankLost:
        raise
    except Exception as error:
        return Crash(f"{type(error).__name__}: {error}")


def _findings(check: str, facts: list[Any], judge: Callable[[list[Any]], list[Finding]]) -> list[Finding]:
    crashes = [(rank, fact) for rank, fact in enumerate(facts) if isinstance(fact, Crash)]
    if crashes:
        rank, crash = crashes[0]
        return [
            warning(check, f"rank {rank} could not look: {crash.why}", "This check has failed, not what it checks.")
        ]
    return judge(facts)
