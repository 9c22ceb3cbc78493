"""What tells, before a relaxation, how far the analogue generator's crystals are from rest.

    python benchmarks/analogue_fit.py RUN [-n 60] [--workers 2] [--ledger analogue_fit.sqlite]

RUN is a run directory with `generator = "analogue"`, trained. The same attempts in three ways, relaxed with CHGNet in
at most 60 steps: the first proposal of elements, whatever it is (naive); proposals by the likelihood of their elements
alone; by that and the size of the crystal (what voxtal does). Then all different ones together: mean absolute change of
the formation energy by the gain of the log likelihood over the old elements, and by the logarithm of the ratio of
volumes.
It carries on where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from pymatgen.core import Structure
from scipy.stats import spearmanr

from voxtal.calculators.base import CalculatorSpec, RelaxSettings
from voxtal.cli.common import open_run, print_table, progress
from voxtal.errors import UserError
from voxtal.generation import analogue
from voxtal.generation.generators import BATCH
from voxtal.generation.request import Request
from voxtal.generation.stage import open_decoder, open_generator
from voxtal.workflows.jobs import Job, run_jobs
from voxtal.workflows.local import Local

SETTINGS = RelaxSettings(max_steps=60, fmax_ev_per_angstrom=0.05)
WAYS: dict[str, dict[str, Any]] = {
    "the first proposal": {"PROPOSALS": 1},
    "by likelihood": {"GROWTH": (-np.inf, np.inf)},
    "by likelihood and size (kept)": {"GROWTH": analogue.GROWTH},
}
"""Name -> constants of the generator that are other ones."""


def attempts_of(root: Path, n: int) -> dict[str, list[tuple[Job, float, float]]]:
    """For each way the valid ones of the first ``n`` attempts, with their gain and growth."""
    run = open_run(root)
    paths = run.latest_round()
    generator, decoder = open_generator(run, paths, Request()), open_decoder(run, paths)
    if not isinstance(generator, analogue.AnalogueGenerator):
        raise UserError(f"{root} generates with {run.config.generate.generator}, not with analogue.")
    made: dict[str, list[tuple[Job, float, float]]] = {way: [] for way in WAYS}
    for way, constants in WAYS.items():
        with patch.multiple(analogue, **constants):
            for first in range(0, n, BATCH):
                attempts = np.arange(first, first + BATCH)
                exchanged = generator.exchange(attempts)
                for i, decoded in enumerate(decoder.decode_codes(generator.draw(attempts).codes)[: n - first]):
                    if not decoded.reason:
                        crystal = Structure(decoded.cell, decoded.numbers, decoded.frac_coords)
                        job = Job(f"{way} {first + i}", crystal, "candidate")
                        made[way].append((job, float(exchanged.gain[i]), float(exchanged.growth[i])))
    return made


def change(row: Mapping[str, Any]) -> float:
    """Of the formation energy, which is that of the energy; NaN where the relaxation failed."""
    if row["energy_per_atom"] is None or row["energy_per_atom_before"] is None:
        return np.nan
    return abs(float(row["energy_per_atom_before"]) - float(row["energy_per_atom"]))


def told(name: str, part: str, changes: np.ndarray) -> tuple[str, ...]:
    changes = changes[np.isfinite(changes)]
    error = changes.std(ddof=1) / np.sqrt(len(changes)) if len(changes) > 1 else np.nan
    return name, part, str(len(changes)), f"{changes.mean():.3f} +- {error:.3f}" if len(changes) else "-"


def binned(name: str, values: np.ndarray, changes: np.ndarray, edges: list[float]) -> list[tuple[str, ...]]:
    return [
        told(name, f"{low:g} to {high:g}", changes[(values >= low) & (values < high)])
        for low, high in zip([-np.inf, *edges], [*edges, np.inf], strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("-n", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ledger", type=Path, default=Path("analogue_fit.sqlite"))
    arguments = parser.parse_args()
    try:
        made = attempts_of(arguments.run, arguments.n)
    except UserError as error:
        parser.error(str(error))
    jobs = [job for way in made.values() for job, _, _ in way]
    with progress("relax", len(jobs)) as advance:
        backend = Local(arguments.workers)
        rows = run_jobs(jobs, CalculatorSpec("chgnet"), SETTINGS, arguments.ledger, backend, advance=advance)
    changes = {row["id"]: change(row) for row in rows}
    table = [told(way, "", np.array([changes[job.id] for job, _, _ in some])) for way, some in made.items()]
    facts = np.array([(gain, growth, changes[job.id]) for some in made.values() for job, gain, growth in some])
    gain, growth, all_changes = np.unique(facts[np.isfinite(facts).all(1)], axis=0).T  # ways agree on many
    low, high = analogue.GROWTH
    table += binned("gain of log likelihood", gain, all_changes, [-8, -4, analogue.FITTING, -1, 0])
    table += binned("log of the ratio of volumes", growth, all_changes, [-0.4, low, 0, high, 0.5])
    print_table("Mean |dE_f|, eV/atom", ("attempts", "from", "relaxed", "mean |dE_f|"), table)
    for name, values in (("gain", gain), ("size", -np.abs(growth))):
        print(f"Spearman of {name} with |dE_f|: {spearmanr(values, all_changes)[0]:.2f}")


if __name__ == "__main__":
    main()
