"""``voxtal train MODEL``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from voxtal.cli.common import RoundOption, RunOption, SetOption, open_run, pick_round, progress


def train(
    model: Annotated[str, typer.Argument(help="lattice-ae, sites-ae, constraint or ccdcgan.")],
    run: RunOption = Path("."),
    set_: SetOption = None,
    round_: RoundOption = None,
    parallel: Annotated[
        str,
        typer.Option(help="none, ddp (torch.distributed), horovod, or auto: what the launcher was made for."),
    ] = "auto",
) -> None:
    """Train one model on a round's voxels (autoencoders) or crystal graphs (constraint, ccdcgan).

    Alone, or on many ranks under srun, torchrun, mpirun or horovodrun: the batch is shared among them, and the losses
    are those of one process. Resumes from its newest checkpoint, on any number of ranks; Ctrl-C, SIGTERM and SIGUSR1
    write one first (exit code 75).

    Example: voxtal train sites-ae --run runs/co-hf --set train.sites_ae.steps=2000

    Example: srun --ntasks-per-node=4 --gpus-per-node=4 voxtal train ccdcgan --run runs/co-hf
    """
    opened = open_run(run, set_)
    from voxtal.cli.ranks import together
    from voxtal.parallel.communicator import on_root
    from voxtal.parallel.data_parallel import data_parallel
    from voxtal.runs import append_manifest, exclusive
    from voxtal.training.stages import MODELS, encode_graphs, train_model

    ranks = data_parallel(parallel, opened.config.train.gradient_compression)
    with together(ranks), ExitStack() as held:
        paths = pick_round(opened, round_)
        folder = paths.train(model) if model in MODELS else paths.root

        def begin() -> None:
            held.enter_context(exclusive(folder, f"voxtal train {model}"))
            if model in ("constraint", "ccdcgan"):
                encode_graphs(opened, paths)

        on_root(ranks, begin)
        trained = train_model(opened, paths, model, progress, ranks)
        if ranks.rank == 0 and trained:
            append_manifest(opened, f"train {model}", round=paths.index, world_size=ranks.size, parallel=ranks.name)
    ranks.close()
    if trained:
        typer.echo(f"Trained {model}: {paths.train(model) / 'best.pt'}")
    else:
        typer.echo(f"{model} is trained already: {paths.train(model)}")
