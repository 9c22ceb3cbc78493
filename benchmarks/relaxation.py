"""What voxtal adds to a calculation, and what a second process brings: relaxations beside a bare loop.

    python benchmarks/relaxation.py [--calculator emt|chgnet] [-n 10000] [--workers 1 2]

The candidates are distorted Cu-Au crystals of four atoms. Overhead of a calculation: all that is not the calculator,
(seconds x workers - seconds in the calculator) / n; starting the workers is in it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from pymatgen.core import Lattice, Structure

from voxtal.calculators.base import CalculatorSpec, RelaxSettings
from voxtal.calculators.registry import get_calculator
from voxtal.cli.common import print_table
from voxtal.workflows.jobs import Job, run_jobs
from voxtal.workflows.local import Local

SETTINGS = RelaxSettings(max_steps=3, fmax_ev_per_angstrom=0.05)
FCC = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])


def candidates(n: int) -> list[Job]:
    rng = np.random.default_rng(0)
    species = [["Cu"] * k + ["Au"] * (4 - k) for k in range(5)]
    return [
        Job(
            f"r0-{i}",
            Structure(Lattice.cubic(3.9 + 0.1 * rng.random()), species[i % 5], FCC + 0.02 * rng.random((4, 3))),
            "candidate",
        )
        for i in range(n)
    ]


def bare_loop(jobs: list[Job], spec: CalculatorSpec) -> tuple[int, float, float]:
    """Calculations, seconds, seconds in the calculator; loading it is left out."""
    calculator = get_calculator(spec)
    calculator.relax(jobs[0].structure, SETTINGS)
    began = time.perf_counter()
    inside = sum(calculator.relax(job.structure, SETTINGS).wall_seconds for job in jobs)
    return len(jobs), time.perf_counter() - began, inside


def through_ledger(jobs: list[Job], spec: CalculatorSpec, ledger: Path, workers: int) -> tuple[int, float, float]:
    known = ledger.is_file()
    began = time.perf_counter()
    rows = run_jobs(jobs, spec, SETTINGS, ledger, Local(workers))
    seconds = time.perf_counter() - began
    return len(rows), seconds, 0.0 if known else sum(row["wall_seconds"] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calculator", default="emt", choices=("emt", "chgnet"))
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    jobs, spec = candidates(arguments.n), CalculatorSpec(arguments.calculator)
    found = [("bare loop", 1, bare_loop(jobs[: max(5, arguments.n // 20)], spec))]
    with tempfile.TemporaryDirectory() as folder:
        for workers in arguments.workers:
            path = Path(folder) / f"{workers}.sqlite"
            found.append(("voxtal", workers, through_ledger(jobs, spec, path, workers)))
        found.append(("voxtal, all known", workers, through_ledger(jobs, spec, path, workers)))
    print_table(
        f"{arguments.n} relaxations by {arguments.calculator}",
        ("way", "processes", "calculations", "seconds", "a second", "overhead, ms each"),
        [
            (
                way,
                processes,
                n,
                f"{seconds:.1f}",
                f"{n / seconds:.1f}",
                f"{1e3 * (seconds * processes - inside) / n:.1f}",
            )
            for way, processes, (n, seconds, inside) in found
        ],
    )


if __name__ == "__main__":
    main()
