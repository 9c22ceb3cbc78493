"""``voxtal evaluate``."""

from __future__ import annotations

from pathlib import Path

import typer

from voxtal.cli.common import RoundOption, RunOption, SetOption, open_run, pick_round, print_table, progress


def evaluate(run: RunOption = Path("."), set_: SetOption = None, round_: RoundOption = None) -> None:
    """Judge a round: reproduction, constraint error, valid / unique / novel, and what relaxation did.

    Example: voxtal evaluate --run runs/co-hf --round 1
    """
    opened = open_run(run, set_)
    from voxtal.active.rounds import relaxed_path, screen, summarize
    from voxtal.cli.round import print_summary
    from voxtal.runs import exclusive

    paths = pick_round(opened, round_)
    with exclusive(paths.screen, "voxtal evaluate"):
        evaluation = screen(opened, paths, progress, typer.echo)
    rows = [(name, part["n"], part["n_strict"], part["n_cdvae"]) for name, part in evaluation["reproduction"].items()]
    print_table("Reproduction", ["structures", "n", "strict", "CDVAE"], rows)
    errors = [
        (name, *(evaluation["constraint"][name][key] for key in ("n", "mae", "r2"))) for name in ("train", "heldout")
    ]
    print_table("Constraint", ["structures", "n", "MAE eV/atom", "R2"], errors)
    print_table("Attempts", ["passed", "n"], list(evaluation["funnel"].items()))
    if evaluation["invalid_reasons"]:
        print_table("Invalid", ["reason", "n"], list(evaluation["invalid_reasons"].items()))
    if relaxed_path(paths).is_file() and paths.hull.is_file():
        print_summary(summarize(opened, paths, {}))
