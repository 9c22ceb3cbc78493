"""``hpc/devcluster/devcluster.sh``: a real Slurm that comes and goes without a trace."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from .conftest import devcluster, wait_until


def processes_of(folder: Path) -> list[int]:
    """Everything that runs with the cluster's mounts, and every command line that names its folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            texts = (process / "mountinfo").read_text() + (process / "cmdline").read_text()
        except OSError:
            continue
        if str(folder) in texts and int(process.name) != os.getpid():
            found.append(int(process.name))
    return found


def daemon_of(folder: Path, program: str) -> int | None:
    """The process of a cluster that runs this program."""
    for pid in processes_of(folder):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == program:
                return pid
    return None


def test_two_clusters_run_at_once_and_leave_nothing(new_cluster):
    """Tests of two checkouts would meet on ports, kill each other's daemons, or fill a machine with leftovers."""
    first, second = new_cluster(), new_cluster()
    for cluster in (first, second):
        assert sorted(cluster.call("srun", "-N2", "hostname").split()) == ["n1", "n2"]
    second.call("sbatch", "--wrap", "sleep 1000 & sleep 1000")
    assert "already running" in second.control("start").stderr
    assert second.control("stop").returncode == 0
    assert not processes_of(second.folder)
    assert str(second.folder) not in Path("/proc/mounts").read_text()
    assert not second.folder.exists()
    wait_until(lambda: "n[1-2]" in first.call("sinfo"), 30, lambda: first.call("sinfo"))  # a node may still complete
    assert second.control("status").returncode == 2


def test_nodes_are_apart(new_cluster):
    """Ranks that share names or memory would pass tests of several nodes that they fail on several machines."""
    cluster = new_cluster()  # jobs of other tests may have left something in /dev/shm
    marks = cluster.call("srun", "-N2", "sh", "-c", "touch /dev/shm/$(hostname); ls /dev/shm")
    assert sorted(marks.split()) == ["n1", "n2"]
    cluster.control("stop")


def test_start_after_a_killed_start(new_cluster, tmp_path):
    """Daemons of a start that was killed would hold the folder for ever."""
    cluster = new_cluster()
    cluster.control("stop")
    waits = tmp_path / "slurmctld"  # found first: the start is still under way when it is killed, however fast it is
    waits.write_text("#!/bin/sh\nexec sleep 1000\n")
    waits.chmod(0o755)
    start = subprocess.Popen(
        [str(cluster.script), "start", "-d", str(cluster.folder)],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    wait_until(lambda: daemon_of(cluster.folder, "sleep"), 10, lambda: "the start did not come to slurmctld")
    start.kill()
    start.wait()
    left = set(processes_of(cluster.folder))
    assert daemon_of(cluster.folder, "munged") in left
    assert cluster.control("start").returncode == 0
    assert not left & set(processes_of(cluster.folder))
    assert cluster.call("srun", "-N2", "hostname")
    cluster.control("stop")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-n", "none"), "take numbers"),
        (("-d", "/tmp/" + "x" * 60), "at most 60 characters"),
        (("-d", "/etc"), "holds no cluster"),
    ],
)
def test_wrong_use_is_refused(cluster, options, message):
    """A folder of something else would be filled or deleted, or the daemons fail one by one."""
    answer = devcluster(cluster.script, "start", *options)
    assert answer.returncode == 2
    assert message in answer.stderr


def test_killed_daemons_are_noticed(new_cluster):
    """A status that says all is well, or a start that takes dead daemons for a running cluster."""
    cluster = new_cluster()
    for pid in processes_of(cluster.folder):
        with contextlib.suppress(ProcessLookupError):  # a short-lived one may have ended by itself
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not processes_of(cluster.folder), 10, lambda: "still running")
    assert "no cluster is running" in cluster.control("status").stderr
    assert cluster.control("start").returncode == 0
    cluster.control("stop")


def test_anyone_but_root_is_told(cluster):
    """Daemons would fail with messages of their own."""
    answer = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "bash", "-s", "start"],
        stdin=cluster.script.open(),
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert answer.returncode == 2
    assert "only root" in answer.stderr
