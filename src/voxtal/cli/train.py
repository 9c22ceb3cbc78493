"""``voxtal train MODEL``."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxtal.cli.common import RoundOption, RunOption, SetOption, open_run, pick_round, progress
from voxtal.errors import InUse, UserError

if TYPE_CHECKING:
    from voxtal.runs import RoundPaths, Run


def train(
    model: Annotated[
        str,
        typer.Argument(
            help="lattice-ae, sites-ae, constraint, ccdcgan, flow, analogue or cgcnn; all: each that a round needs, "
            "in turn. Of density maps: unet, then vae. "
            "With train.separated_steps: sites-ae-Co, one element's, or sites-ae-separated, those of all elements."
        ),
    ],
    property_: Annotated[
        str | None,
        typer.Option(
            "--property",
            metavar="NAME",
            help="Of constraint and cgcnn: any numeric column of the structures, such as band_gap. "
            "If not given, the formation energy, and of constraint every property of the generator's objectives.",
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
    """Train one model on a round's voxels (autoencoders), crystal graphs (constraint, ccdcgan, flow) or structures.

    A constraint predicts one property; those of a generator's objectives that are not there are trained first.
    So does a cgcnn, from structures alone; that of the formation energy, which the others start from, is trained first
    where it is not there.

    Alone, or on many ranks under srun, torchrun, mpirun or horovodrun: the batch is shared among them, and the losses
    are those of one process. Resumes from its newest checkpoint, on any number of ranks; Ctrl-C, SIGTERM and SIGUSR1
    write one first (exit code 75).

    sites-ae-separated passes over elements that other processes are at work on: start it many times, as an array.

    Example: voxtal train all --run runs/co-hf

    Example: voxtal train sites-ae --run runs/co-hf --set train.sites_ae.steps=2000

    Example: voxtal train constraint --property band_gap --run runs/co-hf

    Example: voxtal train cgcnn --property bulk_modulus --run runs/co-hf

    Example: srun --ntasks-per-node=4 --gpus-per-node=4 voxtal train ccdcgan --run runs/co-hf
    """
    opened = open_run(run, set_)
    from voxtal.cli.ranks import together
    from voxtal.parallel.communicator import on_root
    from voxtal.parallel.data_parallel import data_parallel
    from voxtal.runs import append_manifest, exclusive
    from voxtal.structures.structure_set import StructureSet
    from voxtal.training.encode import encode_graphs
    from voxtal.training.objectives import PROPERTY_NETWORK, labels, property_of
    from voxtal.training.separated import SEPARATED, own_element
    from voxtal.training.stages import DENSITY_MODELS, GENERATORS, MODELS, train_model

    ranks = data_parallel(parallel, opened.config.train.gradient_compression)
    with together(ranks):
        paths = pick_round(opened, round_)

        def begin(name: str, held: ExitStack) -> bool:
            """False where it is one of all elements' and another process is at work on it."""
            constrains = property_of(name)
            predicts = constrains or property_of(name, PROPERTY_NETWORK)
            if predicts is not None:
                labels(StructureSet.read(paths.structures), predicts, paths.structures)
            known = name in (*MODELS, *DENSITY_MODELS) or predicts or own_element(name)
            try:
                held.enter_context(exclusive(paths.train(name) if known else paths.root, f"voxtal train {name}"))
            except InUse:
                if model != SEPARATED:
                    raise
                return False
            if constrains is not None or name in GENERATORS:
                encode_graphs(opened, paths, progress)
            return True

        for name in on_root(ranks, lambda: _models(model, property_, opened, paths)):
            with ExitStack() as held:
                if not on_root(ranks, partial(begin, name, held)):
                    continue
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


def _models(model: str, property_: str | None, run: Run, paths: RoundPaths) -> list[str]:
    """What is to be trained, in order."""
    from voxtal.training.objectives import PROPERTY_NETWORK, constraint_of, properties_of, untrained
    from voxtal.training.separated import NOT_SEPARATED, SEPARATED, own_elements, own_model
    from voxtal.training.stages import GENERATORS, models_of

    config = run.config
    if property_ is not None:
        if model == PROPERTY_NETWORK:
            return _cgcnns(property_, paths)
        if model != "constraint":
            raise UserError(f"--property {property_} belongs to `voxtal train constraint` or cgcnn, not to {model}.")
        return [constraint_of(property_)]
    if model == "all":
        return models_of(run, paths)
    if model == SEPARATED:
        if not config.train.separated_steps:
            raise UserError(NOT_SEPARATED)
        return [own_model(number) for number in own_elements(run, paths)]
    if model == "constraint":
        return [constraint_of(name) for name in properties_of(config.generator)]
    if model in GENERATORS:
        asked = (objective.property for objective in getattr(config.train, model).objectives)
        return [*(constraint_of(name) for name in untrained(paths, asked)), model]
    return [model]


def _cgcnns(property_: str, paths: RoundPaths) -> list[str]:
    """A property's network, after the one that it starts from where that is not there."""
    from voxtal.structures.structure_set import StructureSet
    from voxtal.training.cgcnn_task import starts_from_energies
    from voxtal.training.objectives import PROPERTY_NETWORK, cgcnn_of, labels
    from voxtal.training.trainer import is_whole

    structures = StructureSet.read(paths.structures)
    labels(structures, property_, paths.structures)  # before hours of training, not after
    needed = starts_from_energies(property_, structures) and not is_whole(paths.train(PROPERTY_NETWORK))
    return [*([PROPERTY_NETWORK] if needed else []), cgcnn_of(property_)]
