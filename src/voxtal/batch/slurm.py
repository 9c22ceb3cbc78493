"""What Slurm is asked: whether a job could start, and to take it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from voxtal.errors import UserError


def check_cluster(partition: str | None) -> None:
    """Refuse what no job could start with.

    Raises
    ------
    UserError
        There is no sbatch, or Slurm knows no such partition.
    """
    if shutil.which("sbatch") is None:
        raise UserError(
            "There is no sbatch on PATH. Submit from a login node of a Slurm cluster, or see the script with --print."
        )
    known = partitions()
    if partition is not None and known and not set(partition.split(",")) <= set(known):
        raise UserError(
            f"The site file's partition {partition!r} is not one of this cluster: {', '.join(known)}. "
            "Correct the site file (`sinfo` shows partitions and their nodes)."
        )


def partitions() -> list[str]:
    """Names of the cluster's partitions; empty where ``sinfo`` cannot tell."""
    if shutil.which("sinfo") is None:
        return []
    answer = subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True, check=False)
    return sorted(set(answer.stdout.split())) if answer.returncode == 0 else []


def states_of(job: str) -> list[str] | None:
    """State of each task of a job, none where Slurm has forgotten it; None where Slurm cannot be asked now."""
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", "--jobs", job, "--states", "all", "--format", "%T"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        return None
    if asked.returncode and "Invalid job id" not in asked.stderr:
        return None
    return asked.stdout.split()


def submit_job(script: Path, options: Sequence[str]) -> str:
    """Hand a batch script to Slurm; the number of its job.

    Raises
    ------
    UserError
        Slurm refused it; the message is Slurm's.
    """
    return _run(["sbatch", "--parsable", *options, str(script)], script).split(";")[0]


def submit_chain(script: Path, options: Sequence[str]) -> str:
    """Run a script that submits a chain of jobs, each with ``options``; what it says.

    Raises
    ------
    UserError
        It failed; the message is its own.
    """
    return _run(["bash", str(script), *options], script)


def _run(command: Sequence[str], script: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_JOB}
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if answer.returncode:
        raise UserError(f"Slurm did not take {script}:\n{answer.stderr.strip()}")
    return answer.stdout.strip()


_OF_ANOTHER_JOB = ("SLURM_JOB_ID", "SLURM_JOBID")
"""Set in an interactive job: the chain's script would take it for its own."""
