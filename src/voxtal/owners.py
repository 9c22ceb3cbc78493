"""Who has claimed a calculation, and whether that process still lives: on this host, under Slurm, or by its beats."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from voxtal.batch.slurm import states_of

BEAT_SECONDS = 30.0
"""How often an owner at work should let its ledger know."""
DEAD_AFTER_SECONDS = 600.0
"""An owner on another host that has not beaten for so long is dead (clocks may differ by minutes)."""

ENGINE = "engine"
"""Host of the owners that a workflow engine looks after: it alone says when they are dead."""

_ASK_SLURM_EVERY_SECONDS = 15.0
_AT_WORK = ("RUNNING", "COMPLETING", "SUSPENDED")
_GONE = "gone"


def this_process() -> str:
    """``host:pid:start:job``; job is Slurm's id and how often it was requeued, ``-`` outside of Slurm."""
    pid = os.getpid()
    job = os.environ.get("SLURM_JOB_ID")
    start = f"{job}.{os.environ.get('SLURM_RESTART_COUNT', 0)}" if job else "-"
    return f"{platform.node()}:{pid}:{_start_ticks(pid)}:{start}"


def of_engine(id: str) -> str:
    """The owner that stands for a workflow engine's job ``id``."""
    return f"{ENGINE}:0:{id}:-"


def process_runs(pid: int) -> bool:
    """Whether there is a process of this number on this host."""
    return _start_ticks(pid) != _GONE


def is_alive(owner: str, heartbeat: float, now: float) -> bool:
    """Whether the process that wrote ``owner`` still runs, as far as can be told from here.

    A process of this host is looked up. On another host one has ended when Slurm says that its job has, or when it has
    not beaten for :data:`DEAD_AFTER_SECONDS`.
    """
    host, pid, ticks, job = owner.split(":", 3)
    if host == ENGINE:
        return True
    if host == platform.node():
        return ticks != _GONE and _start_ticks(int(pid)) == ticks
    if now - heartbeat >= DEAD_AFTER_SECONDS:
        return False
    return job == "-" or _slurm_has(*job.split("."))


_asked: dict[str, tuple[float, bool]] = {}


def _slurm_has(job: str, restarts: str) -> bool:
    """Whether ``job`` runs; also where Slurm cannot be asked. A job that runs again runs with a new owner."""
    if os.environ.get("SLURM_JOB_ID") == job:
        return os.environ.get("SLURM_RESTART_COUNT", "0") == restarts
    when, answer = _asked.get(job, (-_ASK_SLURM_EVERY_SECONDS, True))
    if time.monotonic() - when >= _ASK_SLURM_EVERY_SECONDS:
        states = states_of(job)
        answer = states is None or any(state in _AT_WORK for state in states)
        _asked[job] = (time.monotonic(), answer)
    return answer


def _start_ticks(pid: int) -> str:
    """When process ``pid`` started: tells it from a later process of the same number."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
        state, ticks = status.rpartition(")")[2].split()[0], status.rpartition(")")[2].split()[19]
        return _GONE if state in "ZX" else ticks
    except OSError:
        pass
    try:
        os.kill(pid, 0)  # no /proc (macOS): the number alone must do
    except ProcessLookupError:
        return _GONE
    except PermissionError:
        pass
    return "unknown"
