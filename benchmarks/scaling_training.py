"""Training on two ranks against one: torch.distributed and Horovod, with and without compression and tensor fusion.

    python benchmarks/scaling_training.py RUN [--models lattice-ae sites-ae] [--ranks 2] [--scaling weak|strong]

RUN is a run directory whose round 0 holds what the models are trained on. Every way is started in turns, with one
thread a rank, and trains what `voxtal train` trains there by the same loop, into a folder that is thrown away; samples
per second of the clock, medians over the repeats. Weak scaling: each rank has the batch of one rank alone. Strong: the
ranks share it. Efficiency: the rate over that of one rank times the number of ranks; for several models, of the time
that their steps in the configuration take together. "Unrelated": as many trainings of one rank at once, which know
nothing of each other: what the machine has for two, whoever averages.
"All-reduce": what a step spends on averaging gradients, in it the wait for the slowest rank. "Tensors": one all-reduce
for each gradient, instead of voxtal's single one for all of them; Horovod fuses them again unless its threshold is 0.
On one node voxtal sums in memory that the ranks share, whoever started them; "its own sums" are Horovod's.
"Waiting only": ranks wait for each other in every step and sum no gradients: what the machine leaves for any sums.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voxtal.cli.common import open_run, print_table
from voxtal.parallel.data_parallel import data_parallel
from voxtal.parallel.launch import local_environment, mpirun
from voxtal.training.device import Arithmetic
from voxtal.training.stages import prepared
from voxtal.training.trainer import train

WARM_UP = 4

WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "one rank": ("", {}),
    "unrelated": ("each", {}),
    "ddp": ("torchrun", {}),
    "ddp, fp16": ("torchrun", {"COMPRESSION": "fp16"}),
    "ddp, waiting only": ("torchrun", {"GRADIENTS": "waiting only"}),
    "horovod": ("mpirun", {}),
    "horovod, fp16": ("mpirun", {"COMPRESSION": "fp16"}),
    "horovod, its own sums": ("mpirun", {"OWN_SUMS": "1", "HOROVOD_CYCLE_TIME": "0.5"}),
    "horovod, tensors": ("mpirun", {"GRADIENTS": "each tensor", "HOROVOD_CYCLE_TIME": "0.5"}),
    "horovod, tensors, no fusion": (
        "mpirun",
        {"GRADIENTS": "each tensor", "HOROVOD_CYCLE_TIME": "0.5", "HOROVOD_FUSION_THRESHOLD": "0"},
    ),
}
"""Name -> launcher and what is set in the environment."""


def reduce_each_tensor(optimizer: torch.optim.Optimizer) -> None:
    """What Horovod's own optimizer does."""
    import horovod.torch as hvd

    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    flat = [gradient.reshape(-1).clone() for gradient in gradients]  # Horovod takes no channels-last tensors
    handles = [hvd.allreduce_async_(tensor, name=f"g{i}", op=hvd.Average) for i, tensor in enumerate(flat)]
    for gradient, handle in zip(gradients, handles, strict=True):
        gradient.copy_(hvd.synchronize(handle).view_as(gradient))


def waiting_only(parallel: Any) -> Any:
    """The smallest sum that there is, instead of those of the gradients."""

    def wait(_optimizer: torch.optim.Optimizer) -> None:
        parallel.sum([torch.zeros(1)], torch.float32)

    return wait


def timed(function: Any, spent: list[float]) -> Any:
    def call(*arguments: Any) -> Any:
        began = time.perf_counter()
        result = function(*arguments)
        spent[0] += time.perf_counter() - began
        return result

    return call


def section_of(model: str) -> str:
    """Of the configuration: cgcnn-band_gap is trained as cgcnn says."""
    return model if "-ae" in model else model.partition("-")[0]


def measure(arguments: argparse.Namespace) -> None:
    """One rank's part of a measurement; rank 0 prints it."""
    torch.set_num_threads(1)
    model = arguments.models[0]
    parallel: Any = data_parallel("auto", os.environ.get("COMPRESSION", "none"))
    if "OWN_SUMS" in os.environ:
        parallel._node_sums = None
    spent = [0.0]
    other_ways = {"each tensor": reduce_each_tensor, "waiting only": waiting_only(parallel)}
    average = other_ways.get(os.environ.get("GRADIENTS", ""), parallel._sum_gradients)
    parallel._sum_gradients = timed(average, spent)
    section = f"train.{section_of(model).replace('-', '_')}"
    batch = arguments.batch or train_config(arguments, model).batch_size
    batch *= parallel.size if arguments.scaling == "weak" else 1
    run = open_run(arguments.run, [*arguments.set, f"{section}.batch_size={batch}"])
    task = prepared(run, run.round(0), model, parallel)[1](Arithmetic.of(run.config.train, parallel.local_rank))
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    for index in range(WARM_UP):
        task.step(index, rng)
    task.steps = parallel.bcast(max(20, int(arguments.seconds * WARM_UP / (time.perf_counter() - began))))
    spent[0], ends = 0.0, []
    with tempfile.TemporaryDirectory() as scratch:
        train(task, Path(scratch), 0, "", task.steps, lambda _n, _text: ends.append(time.perf_counter()))
    if parallel.rank == 0:
        bytes_a_step = 4 * sum(p.numel() for o in task.optimizers.values() for g in o.param_groups for p in g["params"])
        step = (ends[-2] - ends[0]) / (len(ends) - 2)  # the last one also writes the weights
        print(
            json.dumps(
                {"rate": batch / step, "wait": spent[0] / task.steps, "bytes": bytes_a_step, "steps": task.steps}
            )
        )
    parallel.close()


def start(way: str, model: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure one way in processes of its own."""
    launcher, extra = WAYS[way]
    ranks = str(arguments.ranks)
    options = [f"--{name}={getattr(arguments, name)}" for name in ("batch", "seconds", "scaling")]
    options += [f"--set={override}" for override in arguments.set]
    script = [__file__, str(arguments.run.resolve()), "--measure", f"--models={model}", *options]
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    command = {
        "": [sys.executable, *script],
        "each": [sys.executable, *script],
        "torchrun": [torchrun, "--nproc-per-node", ranks, "--", *script],
        "mpirun": [mpirun() or "mpirun", "-n", ranks, "--bind-to", "none", sys.executable, *script],
    }[launcher]
    environment = {**local_environment(), **extra}
    copies = arguments.ranks if launcher == "each" else 1
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(copies)]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        sys.exit(f"{way} failed, see above")
    results = [json.loads(next(line for line in out.splitlines() if line.startswith("{"))) for out in outputs]
    return {**results[0], "rate": sum(result["rate"] for result in results)}


def train_config(arguments: argparse.Namespace, model: str) -> Any:
    return getattr(open_run(arguments.run, arguments.set).config.train, section_of(model).replace("-", "_"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--models", nargs="+", default=["lattice-ae", "sites-ae", "constraint"])
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=0, help="Of one rank alone; the preset's if not given.")
    parser.add_argument("--scaling", choices=("weak", "strong"), default="weak")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments)
        return
    table = []
    hours: dict[str, float] = dict.fromkeys(arguments.ways, 0.0)
    for model in arguments.models:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in arguments.ways}
        for _ in range(arguments.repeats):
            for way, results in found.items():
                results.append(start(way, model, arguments))
                print(model, way, results[-1], file=sys.stderr, flush=True)
        middle = {
            way: {key: float(np.median([r[key] for r in results])) for key in results[0]}
            for way, results in found.items()
        }
        one = middle.get("one rank", {"rate": float("nan")})["rate"]
        for way, result in middle.items():
            ranks = 1 if way == "one rank" else arguments.ranks
            size = train_config(arguments, model)
            hours[way] += size.steps * size.batch_size * ranks / result["rate"] / 3600
            table.append(
                (
                    model,
                    way,
                    f"{result['rate']:,.0f}",
                    f"{result['rate'] / one / ranks:.0%}",
                    f"{1e3 * result['wait']:.1f}",
                    f"{result['bytes'] / 1e6:.1f}",
                )
            )
    if len(arguments.models) > 1 and "one rank" in hours:
        for way, spent in hours.items():
            table.append((" + ".join(arguments.models), way, "", f"{hours['one rank'] / spent:.0%}", "", ""))
    print_table(
        f"Training on {arguments.ranks} ranks, {arguments.scaling} scaling",
        ("model", "way", "samples/s", "efficiency", "all-reduce, ms a step", "gradients, MB"),
        table,
    )


if __name__ == "__main__":
    main()
