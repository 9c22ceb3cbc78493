"""``voxtal export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxtal.cli.common import RoundOption, RunOption, SetOption, open_run, pick_round


def export(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Made; must not be there yet.")],
    full_precision: Annotated[
        bool, typer.Option("--full-precision", help="Keep all weights in float32: twice the size, the same attempts.")
    ] = False,
    prototypes: Annotated[
        bool,
        typer.Option("--prototypes", help="Of an analogue generator: with AFLOW's prototypes, not the known crystals."),
    ] = False,
    run: RunOption = Path("."),
    set_: SetOption = None,
    round_: RoundOption = None,
) -> None:
    """Pack a round's trained models without its data, so that others can generate with them.

    Example: voxtal export --run runs/all -o my-model

    Then, anywhere: voxtal generate -n 1000 --run my-model -o new-structures
    """
    opened = open_run(run, set_)
    paths = pick_round(opened, round_)
    from voxtal.generation.packing import pack

    size = pack(opened, paths, output, half=not full_precision, prototypes=prototypes)
    typer.echo(f"{output}: {size / 1e6:.1f} MB. Next: voxtal generate -n 1000 --run {output} -o FOLDER")
