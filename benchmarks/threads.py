"""What threads gain a training on a CPU, alone and where another program has one of the cores.

    python benchmarks/threads.py RUN [--models lattice-ae sites-ae constraint] [--set KEY=VALUE...] [--seconds 3]

RUN is a run directory whose voxels and graphs are there. Steps a second of each model: on one thread, on all that there
are as PyTorch's OpenMP has them wait (it spins), and as voxtal has them wait (passive). The other program is a loop of
Python's. voxtal trains networks that convolve on all threads, others on one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voxtal.cli.common import open_run, print_table
from voxtal.parallel.data_parallel import DataParallel
from voxtal.training.device import Arithmetic, one_thread
from voxtal.training.stages import prepared

BUSY = "while True: pass"


def steps_per_second(task: Any, seconds: float) -> float:
    task.step(0, np.random.default_rng(0))
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        task.step(done, np.random.default_rng(done))
        done += 1
    return done / (time.perf_counter() - began)


def measure(arguments: argparse.Namespace) -> None:
    """Print {model: [steps/s on one thread, on all]} of this process."""
    run = open_run(arguments.run, arguments.set)
    found = {}
    for model in arguments.models:
        task = prepared(run, run.latest_round(), model, DataParallel())[1](Arithmetic.of(run.config.train))
        torch.manual_seed(0)
        with one_thread():
            alone = steps_per_second(task, arguments.seconds)
        found[model] = [alone, steps_per_second(task, arguments.seconds)]
    print(json.dumps(found))


def measured(policy: str, busy: bool) -> dict[str, list[float]]:
    """What a process of its own finds: how threads wait is settled when it starts."""
    other = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    environment |= {"OMP_WAIT_POLICY": policy} if policy else {}
    try:
        answer = subprocess.run(
            [sys.executable, *sys.argv, "--here"], env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
    finally:
        if other:
            other.kill()
            other.wait()
    return json.loads(answer.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--models", nargs="+", default=["lattice-ae", "sites-ae", "constraint"])
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        measure(arguments)
        return
    rows = []
    for busy in (False, True):
        spinning, passive = (measured(policy, busy) for policy in ("", "PASSIVE"))
        for model in arguments.models:
            speeds = (passive[model][0], spinning[model][1], passive[model][1])
            rows.append((model, "another program" if busy else "nothing", *(f"{speed:.1f}" for speed in speeds)))
    threads = torch.get_num_threads()
    names = ("model", "beside it", "one thread", f"{threads} threads, spinning", f"{threads} threads, passive")
    print_table("Steps a second", names, rows)


if __name__ == "__main__":
    main()
