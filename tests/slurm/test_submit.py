"""``voxtal submit`` and ``voxtal doctor`` on a real Slurm with two nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Cluster

VOXTAL = str(Path(sys.executable).with_name("voxtal"))
SITE = 'partition = "main"\nwalltime = "10:00"\nnodes = 2\ntasks_per_node = 1\ncpus_per_task = 1\n'


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "voxtal.toml").write_text('system = "Co-Hf"\n')
    (tmp_path / "site.toml").write_text(SITE)
    return tmp_path / "run"


def test_a_submitted_stage_runs_with_the_sites_values(cluster: Cluster, run: Path) -> None:
    """The whole way: site file, kept script, job, its log beside the script; the stage says what it lacks."""
    printed = cluster.call(VOXTAL, "submit", "voxelize", "--run", run, "--site", run.parent / "site.toml")
    job = printed.split(" as job ")[1].split(":")[0]
    assert cluster.finish(job) == "FAILED"
    facts = cluster.job(job)
    assert (facts["Partition"], facts["NumNodes"], facts["TimeLimit"]) == ("main", "2", "00:10:00")
    assert facts["Command"] == f"{run}/slurm/voxelize.sh"
    assert "round-000/structures.h5" in (run / "slurm" / f"voxelize-{job}.out").read_text()


def test_options_after_the_dashes_have_the_last_word(cluster: Cluster, run: Path) -> None:
    """A user's --nodes=1 that the site file overrides."""
    site = run.parent / "site.toml"
    printed = cluster.call(VOXTAL, "submit", "voxelize", "--run", run, "--site", site, "--", "--nodes=1", "--hold")
    job = printed.split(" as job ")[1].split(":")[0]
    assert cluster.job(job)["NumNodes"].split("-")[0] == "1"
    cluster.call("scancel", job)


def test_a_round_is_a_chain_of_the_sites_jobs(cluster: Cluster, run: Path) -> None:
    """Jobs of the chain without the site's partition and time limit would not start on a real cluster."""
    site = run.parent / "site.toml"
    printed = cluster.call(VOXTAL, "submit", "round", "--run", run, "--site", site, "--", "--hold")
    jobs = printed.split("submitted ")[1].split(";")[0].split()
    facts = [cluster.job(job) for job in jobs]
    assert [fact["JobName"] for fact in facts][-5:] == ["voxelize", "train_ccdcgan", "generate", "relax", "round"]
    assert all(fact["TimeLimit"] == "00:10:00" for fact in facts)
    assert [fact["NumNodes"].split("-")[0] for fact in facts][-5:] == ["2", "2", "2", "1", "1"]
    cluster.call("scancel", *jobs)


def test_a_partition_that_is_not_there_is_refused(cluster: Cluster, run: Path) -> None:
    """sbatch's own message does not say which there are."""
    command = [VOXTAL, "submit", "voxelize", "--run", str(run), "--site", "gpu-cluster"]
    answer = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "'cpu'" in answer.stderr
    assert "main" in answer.stderr


def _doctor(cluster: Cluster, folder: str, *options: str) -> dict[str, dict[str, str]]:
    """The doctor's findings on two nodes, by the name of the check."""
    command = [
        "srun",
        "-N2",
        "-n2",
        *options,
        "bash",
        "-c",
        f"mkdir -p {folder}; {VOXTAL} doctor --json --run {folder}",
    ]
    answer = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, check=False)
    findings = json.loads(answer.stdout)["findings"]
    wrong = any(finding["verdict"] == "wrong" for finding in findings)
    assert answer.returncode == (1 if wrong else 0), answer.stderr
    return {finding["check"]: finding for finding in findings}


@pytest.mark.slow
def test_doctor_sees_whether_two_nodes_share_the_run(cluster: Cluster, run: Path) -> None:
    """Each node's own /dev/shm looks the same and is not: rank 1 would wait for files that never come."""
    shared = _doctor(cluster, str(run))
    assert shared["ranks"]["found"] == "2 under srun, and all see each other"
    assert shared["run directory"]["verdict"] == "ok"
    assert "2 nodes" in shared["run directory"]["found"]
    own = _doctor(cluster, "/dev/shm/run")
    assert own["run directory"]["verdict"] == "wrong"
    assert "is another one on n2" in own["run directory"]["found"]


@pytest.mark.slow
def test_doctor_says_that_srun_leaves_mpi_out(cluster: Cluster, run: Path) -> None:
    """Open MPI ends the process at once, with a page of text that does not say what to write."""
    ranks = _doctor(cluster, str(run), "--mpi=none")["ranks"]
    assert ranks["verdict"] == "wrong"
    assert "--mpi=pmix" in ranks["mend"]
