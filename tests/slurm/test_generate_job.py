"""``sbatch slurm/generate.sh`` on two nodes, warned before its time limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxtal.runs import Run
from voxtal.structures.structure_set import StructureSet

from .conftest import Cluster, wait_until

pytestmark = pytest.mark.slow

ATTEMPTS = 8000


def test_warned_job_is_requeued_and_makes_what_is_missing(cluster: Cluster, trained_run: Run) -> None:
    """A job near its time limit would lose its attempts, or look failed and never come back."""
    root = trained_run.round(0).candidates.parent / "many"
    script = cluster.script.parents[2] / "slurm" / "generate.sh"
    options = ("--nodes=2", "--ntasks=2", script, "-n", ATTEMPTS, "--name", "many")
    job = cluster.call("sbatch", "--parsable", *options, cwd=trained_run.root).strip()

    def log() -> str:
        return (trained_run.root / f"generate-{job}.out").read_text()

    def blocks() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in root.glob("blocks/*.h5")}

    wait_until(lambda: len(blocks()) > 2, 120, lambda: f"{cluster.job(job)}\n{log()}")
    cluster.call("scancel", "--signal=USR1", "--batch", job)
    wait_until(lambda: cluster.job(job)["Restarts"] == "1", 60, log)
    kept = blocks()
    assert cluster.finish(job) == "COMPLETED", log()
    assert "was warned, stopped in order and requeued" in log()
    assert kept.items() <= blocks().items()
    assert len(StructureSet.read(root / "candidates.h5")) == ATTEMPTS
    assert "voxtal evaluate" not in log()
