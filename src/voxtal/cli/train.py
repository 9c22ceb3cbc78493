"""``voxtal train MODEL``."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxtal.cli.common import RoundOption, RunOption, SetOption, open_run, pick_round, progress
from voxtal.errors import UserError

if TYPE_CHECKING:
    from voxtal.config import GANConfig
    from voxtal.runs import RoundPaths


def train(
    model: Annotated[str, typer.Argument(help="lattice-ae, sites-ae, constraint or ccdcgan.")],
    property_: Annotated[
        str | None,
        typer.Option(
            "--property",
            metavar="NAME",
            help="Of constraint: any numeric column of the structures, such as band_gap. "
            "If not given, the formation energy and every property of train.ccdcgan.objectives.",
        ),
    ] = None,
    run: RunOption = Path("."),
    set_: SetOption = None,
    round_: RoundOption = None,
    parallel: Annotated[
        str,
        typer.Option(help="none, ddp (torch.distributed), horovod, or auto: what the launcher was made for."),
    ] = "auto",
) -> None:
    """Train one model on a round's voxels (autoencoders) or crystal graphs (constraint, ccdcgan).

    A constraint predicts one property; those that ccdcgan's objectives need and that are not there are trained first.

    Alone, or on many ranks under srun, torchrun, mpirun or horovodrun: the batch is shared among them, and the losses
    are those of one process. Resumes from its newest checkpoint, on any number of ranks; Ctrl-C, SIGTERM and SIGUSR1
    write one first (exit code 75).

    Example: voxtal train sites-ae --run runs/co-hf --set train.sites_ae.steps=2000

    Example: voxtal train constraint --property band_gap --run runs/co-hf

    Example: srun --ntasks-per-node=4 --gpus-per-node=4 voxtal train ccdcgan --run runs/co-hf
    """
    opened = open_run(run, set_)
    from voxtal.cli.ranks import together
    from voxtal.parallel.communicator import on_root
    from voxtal.parallel.data_parallel import data_parallel
    from voxtal.runs import append_manifest, exclusive
    from voxtal.structures.structure_set import StructureSet
    from voxtal.training.objectives import labels, property_of
    from voxtal.training.stages import MODELS, encode_graphs, train_model

    ranks = data_parallel(parallel, opened.config.train.gradient_compression)
    with together(ranks):
        paths = pick_round(opened, round_)

        def begin(name: str, held: ExitStack) -> None:
            predicts = property_of(name)
            if predicts is not None:
                labels(StructureSet.read(paths.structures), predicts, paths.structures)
            folder = paths.train(name) if name in MODELS or predicts else paths.root
            held.enter_context(exclusive(folder, f"voxtal train {name}"))
            if predicts is not None or name == "ccdcgan":
                encode_graphs(opened, paths)

        gan = opened.config.train.ccdcgan
        for name in on_root(ranks, lambda: _models(model, property_, gan, paths)):
            with ExitStack() as held:
                on_root(ranks, partial(begin, name, held))
                trained = train_model(opened, paths, name, progress, ranks, typer.echo)
                if ranks.rank == 0:
                    if trained:
                        facts = {"round": paths.index, "world_size": ranks.size, "parallel": ranks.name}
                        append_manifest(opened, f"train {name}", **facts)
                    folder = paths.train(name)
                    typer.echo(
                        f"Trained {name}: {folder / 'best.pt'}" if trained else f"{name} is trained already: {folder}"
                    )
    ranks.close()


def _models(model: str, property_: str | None, gan: GANConfig, paths: RoundPaths) -> list[str]:
    """What is to be trained, in order."""
    from voxtal.training.objectives import constraint_of, properties_of, untrained

    if property_ is not None:
        if model != "constraint":
            raise UserError(f"--property {property_} belongs to `voxtal train constraint`, not to {model}.")
        return [constraint_of(property_)]
    if model == "constraint":
        return [constraint_of(name) for name in properties_of(gan)]
    if model == "ccdcgan":
        return [*(constraint_of(name) for name in untrained(paths, (o.property for o in gan.objectives))), model]
    return [model]
