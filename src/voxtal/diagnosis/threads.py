"""Threads: how many each rank starts, on how many cores."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voxtal.diagnosis.findings import Finding, warning


@dataclass(frozen=True)
class Threads:
    """One rank's threads and cores."""

    host: str
    rank: int
    threads: int
    omp_num_threads: str
    """As set in the environment; empty where it is not."""
    cores: frozenset[int]
    """That this process may run on."""
    quota: float | None
    """Cores' worth of time that the control group may use; none where there is no limit."""


def probe(rank: int) -> Threads:
    import torch

    asked = os.environ.get("OMP_NUM_THREADS", "")
    first = asked.partition(",")[0].strip()  # the others are for nested regions
    return Threads(
        host=platform.node(),
        rank=rank,
        # torch may keep to the cores that it finds; numpy's libraries take what is asked for
        threads=max(torch.get_num_threads(), int(first) if first.isdigit() else 1),
        omp_num_threads=asked,
        cores=_cores(),
        quota=_quota(),
    )


def _cores() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """The tightest limit on the way from this process's control group up, of either version of control groups."""
    limits = []
    for line in own.read_text().splitlines() if own.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / controllers if controllers else root
        folder = mount / path.lstrip("/")
        limits += [_limit(place) for place in (folder, *folder.parents) if place.is_relative_to(mount)]
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except OSError:
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def judge(ranks: Sequence[Threads]) -> Finding:
    """Whether threads share cores, within a rank or with the other ranks of its node."""
    check = "threads"
    nodes: dict[str, list[Threads]] = defaultdict(list)
    for rank in ranks:
        nodes[rank.host].append(rank)
    for members in nodes.values():
        cores = _usable(members)
        wanted = sum(rank.threads for rank in members)
        if wanted > cores:
            first = members[0]
            origin = (
                f"OMP_NUM_THREADS={first.omp_num_threads}" if first.omp_num_threads else "OMP_NUM_THREADS is not set"
            )
            return warning(
                check,
                f"{len(members)} ranks with {first.threads} threads on {cores:g} cores of {first.host} ({origin})",
                _mend(members, cores),
            )
        squeezed = next((rank for rank in members if rank.threads > len(rank.cores)), None)
        if squeezed is not None:
            return warning(
                check,
                f"rank {squeezed.rank} has {squeezed.threads} threads bound to {len(squeezed.cores)} core(s)",
                f"srun --cpus-per-task={squeezed.threads}, or mpirun --map-by slot:PE={squeezed.threads}",
            )
    first = ranks[0]
    return Finding(
        check, f"{first.threads} a rank, {_usable(nodes[first.host]):g} cores for {len(nodes[first.host])} rank(s)"
    )


def _usable(members: Sequence[Threads]) -> float:
    cores = len(frozenset().union(*(rank.cores for rank in members)))
    quotas = [rank.quota for rank in members if rank.quota is not None]
    return min([cores, *quotas])


def _mend(members: Sequence[Threads], cores: float) -> str:
    each = int(cores) // len(members)
    if each >= 1:
        return f"export OMP_NUM_THREADS={each}, and bind each rank to as many cores (srun --cpus-per-task={each})"
    return f"Start at most {max(int(cores), 1)} ranks on this node, or ask for more cores (--cpus-per-task)."
