"""``voxtal round``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from voxtal.cli.common import RunOption, SetOption, open_run, print_table, progress


def round(
    run: RunOption = Path("."),
    set_: SetOption = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="STAGE", help="End after this stage, such as structures.")
    ] = None,
) -> None:
    """Run one active-learning round; run it again for the next one.

    Round 0 makes and labels its training structures first. Every stage is skipped where it is done already, so
    the same command carries on after Ctrl-C, a kill or a full disk.

    Example: voxtal round --run runs/co-hf
    """
    opened = open_run(run, set_)
    from voxtal.active.rounds import next_round, run_round
    from voxtal.runs import append_manifest, exclusive

    with exclusive(opened.root, "voxtal round"):
        paths = next_round(opened)
        append_manifest(opened, "round", round=paths.index)
        summary = run_round(opened, paths, progress, typer.echo, until)
    if summary is None:
        typer.echo(f"Round {paths.index} is done until {until}. Next: voxtal round.")
        return
    print_summary(summary)
    typer.echo(f"Round {paths.index} is done: {paths.summary}. Next: voxtal report, or voxtal round again.")


def print_summary(summary: dict[str, Any]) -> None:
    """Print a round's headline figures."""
    attempts = summary["n_attempts"]
    rows = [
        ("structures trained on", summary["n_training"]),
        ("reproduction, strict", _share(summary["reproduction_ratio_strict"])),
        ("reproduction of held-out ones, strict", _share(summary["heldout_reproduction_ratio_strict"])),
        ("valid", f"{summary['n_valid']} of {attempts} attempts"),
        ("unique", f"{summary['n_unique']} of {attempts} attempts"),
        ("novel", f"{summary['n_novel']} of {attempts} attempts"),
        ("relaxed", f"{summary['n_relaxed']} of {summary['n_selected']} selected"),
        ("mean |dE_f|, eV/atom", summary["mean_abs_delta_ef_ev_per_atom"]),
        ("E_f < 0", _share(summary["fraction_negative_ef"])),
        ("best E above known hull, eV/atom", summary["best_e_above_hull_ev_per_atom"]),
        *(
            (f"{found['phase']} found again", "yes" if found["generated"] or found["relaxed"] else "no")
            for found in summary["rediscovered"]
        ),
    ]
    print_table(f"Round {summary['round']}", ["figure", "value"], rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
