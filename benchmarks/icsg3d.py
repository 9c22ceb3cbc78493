"""Every figure of ICSG3D that the paper prints, ours beside it, from one run whose networks are trained.

    python benchmarks/icsg3d.py RUN [--round N] [--training 500] [--properties OTHER_RUN] [--attempts NAME]

What `voxtal evaluate --model icsg3d` prints, without files and pictures: cells and sites through the VAE, recall of the
UNet, codes, property networks (those of OTHER_RUN, where a general set of structures was used as in the paper), and
random attempts; around known compounds, table 2 of each folder of attempts that has one. Then how long each network was
trained, as its `metrics.jsonl` has it, and how long this took: seconds of the clock and of the processor.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from voxtal.cli.common import duration, open_run, pick_round, print_table, progress
from voxtal.cli.evaluate_icsg3d import print_tables
from voxtal.generation.properties import trained_properties
from voxtal.parallel.communicator import SerialCommunicator
from voxtal.reports.run_data import read_metrics
from voxtal.runs import RoundPaths, read_json
from voxtal.screening.icsg3d_stage import evaluate_icsg3d


def print_training(rounds: dict[str, RoundPaths]) -> None:
    rows = []
    for name, paths in rounds.items():
        for folder in sorted(paths.train("").glob("*")):
            lines = read_metrics(folder / "metrics.jsonl")
            if lines and folder.name.startswith(("unet", "vae", "cgcnn")):
                last = lines[-1]
                rows.append((name, folder.name, last["step"], duration(last.get("seconds"))))
    print_table("Training", ("run", "network", "steps", "time"), rows)


def print_around(paths: RoundPaths) -> None:
    """Table 2: what is left of attempts around each compound, of files that hold its steps."""
    found = [read_json(path) for path in sorted(paths.candidates.parent.glob("*/funnel.json"))]
    if found:
        steps = [step["step"] for step in found[0]["steps"]]
        published = [f"{step['published_percent']}%" for step in found[0]["steps"]]
        rows: list[tuple[object, ...]] = [("published, mean of 12", *published)]
        rows += [(one["base"], *(f"{step['n']}/{step['of']}" for step in one["steps"])) for one in found]
        print_table("Around a compound (table 2)", ("compound", *steps), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--round", type=int)
    parser.add_argument("--training", type=int, default=500, help="structures of the training split, at most")
    parser.add_argument("--properties", type=Path, metavar="OTHER_RUN")
    parser.add_argument("--attempts", metavar="NAME", help="folder of attempts, if not the round's own")
    arguments = parser.parse_args()
    began, processor = time.monotonic(), time.process_time()
    run = open_run(arguments.run)
    paths = pick_round(run, arguments.round)
    rounds = {run.root.name: paths}
    if arguments.attempts:
        paths = replace(paths, attempts=paths.candidates.parent / arguments.attempts)
    figures = evaluate_icsg3d(run, paths, progress, SerialCommunicator(), arguments.training).figures
    if arguments.properties:
        other = open_run(arguments.properties)
        there = pick_round(other, None)
        rounds[other.root.name] = there
        if trained_properties(there):
            figures |= {"properties": property_figures_of(other, there)}
    print_tables(figures)
    print_around(rounds[run.root.name])
    print_training(rounds)
    print(f"{duration(time.monotonic() - began)}, {duration(time.process_time() - processor)} of the processor")


def property_figures_of(run: Any, paths: RoundPaths) -> dict[str, Any]:
    from voxtal.screening.icsg3d_stage import Evaluation, judge_properties

    out = Evaluation()
    judge_properties(out, run, paths, trained_properties(paths), progress)
    return out.figures["properties"]


if __name__ == "__main__":
    main()
