"""``voxtal train MODEL``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxtal.cli.common import RoundOption, RunOption, SetOption, open_run, pick_round, progress


def train(
    model: Annotated[str, typer.Argument(help="lattice-ae, sites-ae, constraint or ccdcgan.")],
    run: RunOption = Path("."),
    set_: SetOption = None,
    round_: RoundOption = None,
) -> None:
    """Train one model on a round's voxels (autoencoders) or crystal graphs (constraint, ccdcgan).

    Resumes from its newest checkpoint; Ctrl-C and SIGTERM write one first (exit code 75).

    Example: voxtal train sites-ae --run runs/co-hf --set train.sites_ae.steps=2000
    """
    opened = open_run(run, set_)
    from voxtal.runs import append_manifest, exclusive
    from voxtal.training.stages import MODELS, encode_graphs, train_model

    paths = pick_round(opened, round_)
    with exclusive(paths.train(model) if model in MODELS else paths.root, f"voxtal train {model}"):
        if model in ("constraint", "ccdcgan"):
            encode_graphs(opened, paths)
        if not train_model(opened, paths, model, progress):
            typer.echo(f"{model} is trained already: {paths.train(model)}")
            return
    append_manifest(opened, f"train {model}", round=paths.index)
    typer.echo(f"Trained {model}: {paths.train(model) / 'best.pt'}")
