"""Slurm: its version, and what it will do with the job that this is."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass

from voxtal.diagnosis.findings import Finding, warning
from voxtal.diagnosis.programs import ask


@dataclass(frozen=True)
class Slurm:
    """What Slurm says; texts are empty where there is nothing."""

    version: str
    error: str
    job: str
    """Number of the job that this process is in."""
    facts: dict[str, str]
    """Fields of ``scontrol show job``."""
    script: str
    """The job's batch script."""


def probe() -> Slurm:
    if shutil.which("sinfo") is None:
        return Slurm("", "", "", {}, "")
    version = ask("sinfo", "--version")  # needs the cluster's configuration, like all of Slurm's commands
    reached = ask("sinfo", "-h", "-o", "%R") if version.ok else version
    if not reached.ok:
        return Slurm("", reached.text, "", {}, "")
    job = os.environ.get("SLURM_JOB_ID", "")
    shown = ask("scontrol", "show", "job", "-o", job) if job else None
    script = ask("scontrol", "write", "batch_script", job, "-") if job else None
    return Slurm(
        version=version.text.split()[-1],  # after "slurm" or the name of a package
        error="",
        job=job,
        facts=_fields(shown.text) if shown and shown.ok else {},
        script=script.text if script and script.ok else "",
    )


def _fields(text: str) -> dict[str, str]:
    return dict(re.findall(r"(\S+?)=(\S*)", text))


def judge(slurm: Slurm) -> Finding:
    """Whether a job would survive preemption and its time limit."""
    check = "Slurm"
    if not slurm.version and not slurm.error:
        return Finding(check, "not on this machine")
    if slurm.error:
        return warning(check, slurm.error, "Jobs cannot be submitted from here: ask your site, or use a login node.")
    if not slurm.job:
        return Finding(check, f"{slurm.version}, not in a job")
    requeue, batch = slurm.facts.get("Requeue") == "1", slurm.facts.get("BatchFlag") == "1"
    signal = re.search(r"^#SBATCH\s+--signal[= ](\S+)", slurm.script, re.MULTILINE)
    left = f"until {slurm.facts['EndTime']}" if slurm.facts.get("EndTime", "Unknown") != "Unknown" else "no time limit"
    found = f"{slurm.version}, job {slurm.job}, {left}"
    if not batch:
        return Finding(check, f"{found}, interactive")
    if not requeue:
        return warning(check, f"{found}, not requeued", "After preemption it stays away: sbatch --requeue")
    if slurm.script and signal is None:
        return warning(
            check,
            f"{found}, requeued, no signal before the time limit",
            "Steps since the last checkpoint are lost there: sbatch --signal=B:USR1@120",
        )
    return Finding(check, f"{found}, requeued" + (f", signal {signal[1]}" if signal else ""))
