"""``voxtal generate``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from voxtal.cli.common import (
    RoundOption,
    RunOption,
    SetOption,
    open_run,
    pick_round,
    print_table,
    progress,
)


def generate(
    n: Annotated[int | None, typer.Option("-n", min=1, help="Attempts; generate.n if not given.")] = None,
    system: Annotated[
        str | None,
        typer.Option(help="Decode these elements, such as Co-Hf, instead of those that each graph holds."),
    ] = None,
    run: RunOption = Path("."),
    set_: SetOption = None,
    round_: RoundOption = None,
) -> None:
    """Generate crystal structures with a round's trained models.

    Example: voxtal generate -n 1000 --run runs/co-hf
    """
    opened = open_run(run, set_)
    from voxtal.generation.stage import REASON
    from voxtal.generation.stage import generate as generate_stage
    from voxtal.runs import append_manifest, exclusive

    paths = pick_round(opened, round_)
    with exclusive(paths.candidates.parent, "voxtal generate"):
        candidates = generate_stage(opened, paths, n or opened.config.generate.n, system, progress)
    append_manifest(opened, "generate", round=paths.index)
    reasons = Counter(candidates.provenance[REASON].tolist())
    rows = [("valid" if reason == "" else reason, count) for reason, count in reasons.most_common()]
    print_table(f"{len(candidates)} attempts: {paths.candidates}", ["outcome", "attempts"], rows)
