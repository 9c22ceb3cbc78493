"""``voxtal status``: where a run is, also while it is going on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voxtal.cli.common import RunOption, SetOption, duration, open_run, print_table

if TYPE_CHECKING:
    from voxtal.reports.stages import Count, Stage


def status(run: RunOption = Path(), overrides: SetOption = None) -> None:
    """Show where a run is, also while it goes on.

    Every stage of every round is done, running, stopped or waiting; then the calculations in the ledger.
    It only reads, so it can be called at any time.

    Example: voxtal status --run runs/co-hf
    """
    from voxtal.reports.stages import ledger_counts, owner_at_work, round_stages

    opened = open_run(run, overrides)
    counts = ledger_counts(opened.ledger)
    owner = owner_at_work(opened.root)
    rounds = opened.rounds() or [opened.round(0)]
    current = next((paths.index for paths in rounds if not paths.summary.is_file()), None)
    stages = [
        stage for paths in rounds for stage in round_stages(paths, counts, owner is not None and paths.index == current)
    ]
    if not counts and all(stage.state == "waiting" for stage in stages):
        print(f"Nothing has been done in {run} yet.")
    else:
        _print_stages(stages)
        _print_ledger(counts)
    print(f"At work: {owner}" if owner else _what_next(run, stages))


def _print_stages(stages: Sequence[Stage]) -> None:
    rows = [
        (
            stage.round,
            stage.name,
            stage.state,
            None if stage.seconds is None else duration(stage.seconds),
            _clock(stage.changed),
            stage.detail or None,
        )
        for stage in stages
    ]
    print_table("Stages", ("round", "stage", "state", "time", "last change", "detail"), rows)


def _print_ledger(counts: Sequence[Count]) -> None:
    if counts:
        rows = [(count.round, count.purpose, count.status, count.n, count.reason or None) for count in counts]
        print_table("Calculations in the ledger", ("round", "purpose", "status", "count", "reason"), rows)


def _clock(seconds: float | None) -> str | None:
    return None if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _what_next(run: Path, stages: Sequence[Stage]) -> str:
    where = "" if run == Path() else f" --run {run}"
    if any(stage.state == "running" for stage in stages):
        return "A stage is at work in another process, or was until a moment ago."
    results = f"`voxtal report{where}` shows the results so far, "
    finished = any(stage.name == "report" and stage.state == "done" for stage in stages)
    return f"Next: {results if finished else ''}`voxtal round{where}` goes on from here."
