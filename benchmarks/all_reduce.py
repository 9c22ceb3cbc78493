"""Sums over two ranks of one node: Gloo beside the memory that they share.

    python benchmarks/all_reduce.py [--ranks 2] [--busy 5] [--repeats 300]

Ranks compute for some milliseconds, then sum a vector, as in training. Milliseconds of the sum on rank 0, without the
computing: median and 90th percentile.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voxtal.cli.common import print_table
from voxtal.parallel.data_parallel import data_parallel
from voxtal.parallel.launch import local_environment

LENGTHS = (1_000, 38_000, 1_500_000)
"""float32: losses, the gradients of a network of cells, those of one of sites."""


def milliseconds(
    work: Callable[[list[torch.Tensor], torch.dtype], object], n: int, arguments: argparse.Namespace
) -> list[float]:
    """Median and 90th percentile."""
    vector, spent = torch.zeros(n), []
    for _ in range(arguments.repeats):
        end = time.perf_counter() + arguments.busy / 1e3
        while time.perf_counter() < end:
            pass
        began = time.perf_counter()
        work([vector], vector.dtype)
        spent.append(1e3 * (time.perf_counter() - began))
    return np.percentile(spent[10:], [50, 90]).tolist()


def measure(arguments: argparse.Namespace) -> None:
    """One rank's part; rank 0 prints it."""
    torch.set_num_threads(1)
    ranks: Any = data_parallel("ddp")
    by_gloo = copy.copy(ranks)
    by_gloo._node_sums = None
    found = [[*milliseconds(by_gloo.sum, n, arguments), *milliseconds(ranks.sum, n, arguments)] for n in LENGTHS]
    if ranks.rank == 0:
        print(json.dumps(found))
    ranks.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--busy", type=float, default=5.0, help="milliseconds of computing before each sum")
    parser.add_argument("--repeats", type=int, default=300)
    arguments = parser.parse_args()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        measure(arguments)
        return
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    command = [torchrun, "--nproc-per-node", str(arguments.ranks), "--", *sys.argv]
    done = subprocess.run(command, env=local_environment(), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("the ranks failed, see above")
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[[")))
    table = [
        (f"{4 * n / 1e3:,.0f} kB", *(f"{middle:.2f}, {slow:.2f}" for middle, slow in ((f[0], f[1]), (f[2], f[3]))))
        for n, f in zip(LENGTHS, found, strict=True)
    ]
    print_table(
        f"A sum over {arguments.ranks} ranks, ms: median, 90th percentile", ("vector", "Gloo", "shared memory"), table
    )


if __name__ == "__main__":
    main()
