"""A real Slurm with two virtual nodes, which the tests start and stop, and jobs on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


@dataclass
class Cluster:
    """One development cluster; ``environment`` is that of a user who has logged in to it."""

    script: Path
    folder: Path
    environment: dict[str, str]

    def call(self, *command: object, cwd: Path | None = None, **environment: str) -> str:
        """Run a command of Slurm as that user; what it prints."""
        answer = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env=self.environment | environment,
            capture_output=True,
            text=True,
        )
        assert answer.returncode == 0, f"{command}: {answer.stdout}{answer.stderr}"
        return answer.stdout

    def submit(self, script: str, run: Path, *options: str, **environment: str) -> str:
        """``sbatch`` a script of slurm/ from the run directory; the job's id."""
        path = self.script.parents[2] / "slurm" / script
        return self.call("sbatch", "--parsable", *options, path, cwd=run, **environment).strip()

    def job(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` says, of the first task where it is an array."""
        words = self.call("scontrol", "--oneliner", "show", "job", job).splitlines()[0].split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job: str) -> str:
        return self.job(job)["JobState"]

    def finish(self, job: str, seconds: float = 240) -> str:
        """Wait for the end of a job; its state."""
        wait_until(lambda: self.state(job) in ENDED, seconds, lambda: f"job {job} is still {self.state(job)}")
        return self.state(job)

    def control(self, action: str, *options: object) -> subprocess.CompletedProcess[str]:
        """``devcluster.sh ACTION`` on this cluster's folder."""
        return devcluster(self.script, action, "-d", self.folder, *options)


def devcluster(script: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run the script that starts and stops clusters."""
    return subprocess.run([str(script), *(str(word) for word in words)], capture_output=True, text=True, timeout=60)


def wait_until(ready: Callable[[], bool], seconds: float, otherwise: Callable[[], str]) -> None:
    """Look often; fail with what ``otherwise`` says."""
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, otherwise()
        time.sleep(0.1)


@pytest.fixture(scope="session")
def devcluster_script(project_root: Path) -> Path:
    return project_root / "hpc" / "devcluster" / "devcluster.sh"


@pytest.fixture(scope="session")
def new_cluster(devcluster_script: Path) -> Iterator[Callable[[], Cluster]]:
    """Starts a cluster in a folder of its own; all of them are stopped at the end."""
    started: list[Cluster] = []

    def start() -> Cluster:
        folder = Path(tempfile.mkdtemp(prefix="voxtal-", dir="/tmp"))  # a short path: unix sockets lie in it
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "OMPI_", "PMIX_"))}
        environment = kept | {"PATH": programs, "SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
        cluster = Cluster(devcluster_script, folder, environment)
        answer = cluster.control("start", "-n", 2)
        if answer.returncode:
            folder.rmdir()
            if any(reason in answer.stderr for reason in ("only root", "missing packages", "namespaces")):
                pytest.skip(answer.stderr.strip())
        assert answer.returncode == 0, answer.stderr
        started.append(cluster)
        return cluster

    yield start
    for cluster in started:
        cluster.control("stop")
        shutil.rmtree(cluster.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(new_cluster: Callable[[], Cluster]) -> Cluster:
    """The cluster that the jobs run on."""
    return new_cluster()
