"""The end of processes that torch.distributed has joined."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, os, sys, torch
from pathlib import Path

def of_gloo():
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            name, _, rest = task.joinpath("stat").read_text().rpartition(")")
        except OSError:
            continue  # it has just ended
        ending = int(rest.split()[6]) & 4  # PF_EXITING: one that was joined may be listed for a while
        if "gloo" in name and not ending:
            found.append(name)
    return found

def end_last():
    os._exit(1 if of_gloo() else 0)

atexit.register(end_last)
from voxtal.parallel import node_sums
if sys.argv[1] == "several":
    node_sums._node_of_process = lambda: os.environ["RANK"]
from voxtal.parallel.data_parallel import data_parallel
ranks = data_parallel("ddp")
assert of_gloo()
weight = torch.nn.Parameter(torch.ones(3))
weight.grad = torch.ones(3)
torch.optim.Adam([weight]).step()
ranks.sum([weight.grad], torch.float32)
if sys.argv[2] == "closed":
    ranks.close()
    assert not of_gloo()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="threads are listed in /proc")
@pytest.mark.parametrize("way", ["closed", "left"])
@pytest.mark.parametrize("nodes", ["one", "several"])
def test_its_threads_end_before_python(nodes: str, way: str) -> None:
    """One that gives back a tensor while the interpreter ends kills the process: a finished or stopped training would
    count as failed, seldom and only on a busy machine. Optimizers load modules that keep the group and so its threads.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]
    command = [*torchrun, sys.executable, "-c", PROGRAM, nodes, way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
