"""``voxtal encode``."""

from __future__ import annotations

from pathlib import Path

import typer

from voxtal.cli.common import RoundOption, RunOption, SetOption, open_run, pick_round


def encode(run: RunOption = Path("."), set_: SetOption = None, round_: RoundOption = None) -> None:
    """Encode a round's voxels to crystal graphs with its trained autoencoders.

    Example: voxtal encode --run runs/co-hf
    """
    opened = open_run(run, set_)
    from voxtal.training.stages import encode_graphs

    paths = pick_round(opened, round_)
    graphs = encode_graphs(opened, paths)
    side = graphs.layout.side
    typer.echo(f"{len(graphs.graphs)} crystal graphs of {side} x {side}: {paths.graphs}")
