"""``voxtal train unet`` and ``vae`` on one round: what is read, and the task that is made of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from voxtal.data.dataset import DensityDataset
from voxtal.errors import UserError
from voxtal.parallel.data_parallel import DataParallel
from voxtal.runs import RoundPaths, Run, sha256_of
from voxtal.structures.conditions import Condition
from voxtal.structures.splits import VALIDATION, in_split, training_rows
from voxtal.structures.structure_set import StructureSet
from voxtal.training.device import Arithmetic
from voxtal.training.objectives import labels
from voxtal.training.trainer import Task
from voxtal.training.unet_task import UNetTask, describe_classes
from voxtal.training.unet_task import sizes_of as unet_sizes_of
from voxtal.training.vae_task import IonsVAETask, VAETask, load_unet, sizes_of

DENSITY_MODELS = ("unet", "vae")
"""In the order in which they are trained: the VAE is compared by the UNet."""

Say = Callable[[str], None]
Prepared = tuple[list[str], Callable[[Arithmetic], Task]]
"""Hashes of what is read, and what makes the task."""


def prepare_unet(run: Run, paths: RoundPaths, parallel: DataParallel, say: Say) -> Prepared:
    """The UNet of a round's density maps."""
    dataset, structures = DensityDataset(paths.density, run.config.density), StructureSet.read(paths.structures)
    config = run.config.train.unet
    rows = np.flatnonzero(training_rows(structures, dataset.rows))
    if not len(rows):
        raise UserError(f"{paths.density} holds no structure that may be trained on.")

    def make(arithmetic: Arithmetic) -> Task:
        counts = dataset.species_counts(rows)
        sizes = unet_sizes_of(run.config.preset, config, dataset, counts)
        if parallel.rank == 0:
            say(f"unet: {describe_classes(sizes['numbers'], counts)}")
        return UNetTask(
            f"{run.config.preset}-unet",
            sizes,
            config,
            config.steps_for(len(rows)),
            dataset,
            rows,
            np.flatnonzero(in_split(structures, dataset.rows, VALIDATION)),
            arithmetic,
            parallel,
            run.config.seed,
        )

    return [sha256_of(path) for path in (paths.density / "index.h5", paths.structures)], make


def prepare_vae(run: Run, paths: RoundPaths, parallel: DataParallel, say: Say) -> Prepared:
    """The VAE of a round's density maps, compared by the round's UNet."""
    dataset, structures = DensityDataset(paths.density, run.config.density), StructureSet.read(paths.structures)
    config = run.config.train.vae
    values = {name: labels(structures, name, paths.structures)[dataset.rows] for name in config.condition}
    known = np.isfinite(np.stack(list(values.values()))).all(axis=0)
    trained_on = training_rows(structures, dataset.rows)
    rows = np.flatnonzero(trained_on & known)
    names = " and ".join(config.condition)
    if not len(rows):
        raise UserError(f"{paths.density} holds no structure with a finite {names} that may be trained on.")
    perceptual = paths.train("unet") / "best.pt"
    unet = load_unet(perceptual, run.config.density) if config.alpha else None

    def make(arithmetic: Arithmetic) -> Task:
        if parallel.rank == 0 and len(rows) < trained_on.sum():
            without = trained_on.sum() - len(rows)
            say(f"vae: {without} of {trained_on.sum()} structures have no finite {names} and are left out")
        condition = Condition.of(values, rows, config.continuous_condition)
        vectors = np.zeros((dataset.n_structures, condition.width), dtype=np.float32)
        vectors[known] = condition.encode({name: column[known] for name, column in values.items()})
        architecture = f"{run.config.preset}-vae"
        task = VAETask if run.config.preset == "paper" else IonsVAETask
        return task(
            architecture,
            sizes_of(architecture, config, dataset, rows, condition.width, paths.density),
            config,
            config.steps_for(len(rows)),
            dataset,
            rows,
            np.flatnonzero(in_split(structures, dataset.rows, VALIDATION) & known),
            condition,
            vectors,
            unet,
            arithmetic,
            parallel,
            run.config.seed,
        )

    inputs = [paths.density / "index.h5", paths.structures, *([perceptual] if config.alpha else [])]
    return [sha256_of(path) for path in inputs], make
