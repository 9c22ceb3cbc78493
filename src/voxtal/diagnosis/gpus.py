"""GPUs: whether torch can use them, and which rank takes which."""

from __future__ import annotations

import platform
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from voxtal.diagnosis.findings import Finding, warning, wrong
from voxtal.diagnosis.programs import ask


@dataclass(frozen=True)
class Gpus:
    """What one rank sees of its node's GPUs."""

    host: str
    rank: int
    local_rank: int
    build: str
    """What torch was built for: ``CPU``, ``CUDA 12.4`` or ``ROCm 6.2``."""
    visible: tuple[str, ...]
    """Identifiers of the GPUs that torch sees, in its order."""
    on_node: tuple[str, ...]
    """Identifiers of all that the node, or the job's share of it, has."""

    @property
    def taken(self) -> str | None:
        """The one that training takes."""
        return self.visible[self.local_rank % len(self.visible)] if self.visible else None


def probe(rank: int, local_rank: int) -> Gpus:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else ""
    hip = getattr(torch.version, "hip", None)
    visible = tuple(_identifier(torch.cuda.get_device_properties(i)) for i in range(torch.cuda.device_count()))
    answer = ask("nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader")
    on_node = tuple(line.strip().removeprefix("GPU-") for line in answer.text.splitlines()) if answer.ok else visible
    return Gpus(platform.node(), rank, local_rank, build or (f"ROCm {hip}" if hip else "CPU"), visible, on_node)


def _identifier(properties: object) -> str:
    return str(getattr(properties, "uuid", properties)).removeprefix("GPU-")


def judge(ranks: Sequence[Gpus], launched: bool) -> list[Finding]:
    """How torch and the ranks use the GPUs; ``launched`` by a launcher, rather than alone."""
    if not any(rank.visible or rank.on_node for rank in ranks):
        return [Finding("GPUs", f"none; torch was built for {ranks[0].build}")]
    return [_judge_torch(ranks), *([_judge_ranks(ranks)] if launched else [])]


def _judge_torch(ranks: Sequence[Gpus]) -> Finding:
    first = next((rank for rank in ranks if rank.on_node and not rank.visible), ranks[0])
    found = f"{len(first.on_node)} on {first.host}, {len(first.visible)} seen by torch for {first.build}"
    if first.visible:
        return Finding("GPUs", found)
    if first.build == "CPU":
        return wrong("GPUs", found, "This torch is the CPU build: install the one for your CUDA (pytorch.org).")
    return wrong(
        "GPUs",
        found,
        "Rank without a GPU: look at CUDA_VISIBLE_DEVICES, at --gpus-per-node of the job, "
        "and at whether the driver (nvidia-smi) is new enough for this CUDA.",
    )


def _judge_ranks(ranks: Sequence[Gpus]) -> Finding:
    check = "GPUs per rank"
    nodes: dict[str, list[Gpus]] = defaultdict(list)
    for rank in ranks:
        nodes[rank.host].append(rank)
    for host, members in nodes.items():
        takers = Counter(rank.taken for rank in members if rank.taken is not None)
        gpu, n = max(takers.items(), key=lambda item: item[1], default=("", 0))
        if n > 1:
            who = ", ".join(str(rank.rank) for rank in members if rank.taken == gpu)
            return wrong(
                check,
                f"ranks {who} share one GPU of {host} ({gpu[:8]})",
                f"Start one rank a GPU (--ntasks-per-node={len(set(members[0].on_node))}), "
                "and let each see its own or all (no --gpu-bind=closest).",
            )
    idle = {host: len(_idle(members)) for host, members in nodes.items() if _idle(members)}
    if idle:
        host, n = next(iter(idle.items()))
        return warning(
            check,
            f"{sum(idle.values())} of the job's GPUs idle ({n} on {host})",
            "Start as many ranks as GPUs on each node, or ask for fewer GPUs.",
        )
    return Finding(check, "one GPU each" if any(rank.taken for rank in ranks) else "none taken")


def _idle(members: Sequence[Gpus]) -> set[str]:
    there = {gpu for rank in members for gpu in rank.on_node}
    taken = {rank.taken for rank in members if rank.taken is not None}
    return there - taken if taken <= there else set()  # parts of a divided GPU have names of their own
