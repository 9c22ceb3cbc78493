"""How well the analogue generator's measures of fit tell how far its crystals are from rest.

    python benchmarks/analogue_fit.py RUN [RUN...]

RUN is a run directory whose attempts by `generator = "analogue"` were judged by `voxtal evaluate --relax N`, made with
the voxtal that is installed. For those that were relaxed: the mean absolute change of the formation energy, by the gain
of the log likelihood of the elements over the old ones, and by the logarithm of the ratio of volumes. Naive: by chance,
the mean of all.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from voxtal.cli.common import open_run, print_table
from voxtal.errors import UserError
from voxtal.generation.analogue import FITTING, GROWTH, AnalogueGenerator
from voxtal.generation.generators import BATCH
from voxtal.generation.request import Request
from voxtal.generation.stage import open_generator

ATTEMPT = "id"
BEFORE, AFTER = "formation_energy_before_ev_per_atom", "formation_energy_ev_per_atom"


def changes(table: Path) -> dict[int, float]:
    """Attempt -> change of its formation energy in relaxation, eV/atom."""
    with table.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["sampled"] == "1" and row[AFTER]]
    return {int(row[ATTEMPT].rpartition("-")[2]): abs(float(row[BEFORE]) - float(row[AFTER])) for row in rows}


def measured(root: Path) -> np.ndarray:
    """(n, 3): gain, growth and change of E_f of the attempts of a run that were relaxed."""
    run = open_run(root)
    paths = run.latest_round()
    generator = open_generator(run, paths, Request())
    if not isinstance(generator, AnalogueGenerator):
        raise UserError(f"{root} generates with {run.config.generate.generator}, not with analogue.")
    of_attempt = changes(paths.root / "evaluate" / f"{paths.candidates.stem}.csv")
    rows = []
    for first in sorted({attempt // BATCH * BATCH for attempt in of_attempt}):
        made = generator.exchange(np.arange(first, first + BATCH))
        rows += [
            (float(made.gain[attempt - first]), float(made.growth[attempt - first]), change)
            for attempt, change in of_attempt.items()
            if attempt // BATCH * BATCH == first
        ]
    return np.array(rows)


def bins(name: str, values: np.ndarray, change: np.ndarray, edges: list[float]) -> list[tuple[str, ...]]:
    rows = []
    for low, high in zip([-np.inf, *edges], [*edges, np.inf], strict=True):
        part = change[(values >= low) & (values < high)]
        error = part.std() / np.sqrt(len(part)) if len(part) else 0.0
        told = f"{part.mean():.3f} +- {error:.3f}" if len(part) else "-"
        rows.append((name, f"{low:g} to {high:g}", str(len(part)), told))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    try:
        gain, growth, change = np.concatenate([measured(root) for root in parser.parse_args().runs]).T
    except UserError as error:
        parser.error(str(error))
    right_size = (growth >= GROWTH[0]) & (growth <= GROWTH[1])
    rows = bins("all", gain, change, [])
    rows += bins("gain of log likelihood", gain, change, [FITTING, -2, -1, 0])
    rows += bins("log of the ratio of volumes", growth, change, [-0.3, GROWTH[0], 0, GROWTH[1], 0.4])
    rows += bins("fits by both", gain[right_size], change[right_size], [FITTING])[1:]
    print_table("Mean |dE_f|, eV/atom", ("by", "from", "structures", "mean |dE_f|"), rows)
    for name, values in (("gain", gain), ("growth", np.abs(growth))):
        print(f"Spearman of {name} with |dE_f|: {spearmanr(values, change)[0]:.2f}")


if __name__ == "__main__":
    main()
