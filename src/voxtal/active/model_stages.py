"""The stages of a round from its structures to trained models, for either kind of generator.

CCDCGAN and what shares its codes: voxelize -> autoencoders -> encode -> constraint -> generator.
ICSG3D: voxelize -> unet -> vae -> cgcnn, all from density maps and structures.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.config import ICSG3D
from voxtal.data.dataset import DATASETS
from voxtal.data.schema import INDEX_NAME, Settings
from voxtal.parallel.communicator import SerialCommunicator
from voxtal.parallel.launch import mpirun, run_ranks
from voxtal.runs import RoundPaths, Run
from voxtal.structures.filters import Selection
from voxtal.structures.importers import select
from voxtal.structures.structure_set import StructureSet
from voxtal.training.encode import encode_graphs
from voxtal.training.objectives import PROPERTY_NETWORK, cgcnn_of, constraint_of, properties_of
from voxtal.training.separated import SEPARATED, own_elements, own_model
from voxtal.training.stages import DENSITY_MODELS, train_model
from voxtal.workflows.pool import available_cores

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
Say = Callable[[str], None]
Stages = list[tuple[str, Callable[[], Any]]]


def model_stages(run: Run, paths: RoundPaths, progress: Progress, say: Say) -> Stages:
    """Names and calls, in the order in which they run; a call that finds its stage done returns at once."""
    voxelized: Stages = [("voxelize", lambda: _voxelize(run, paths, say))]
    train = partial(train_model, run, paths, progress=progress, say=say)
    generator = run.config.generate.generator
    if generator == ICSG3D:
        return [
            *voxelized,
            *((f"train {model}", partial(train, model)) for model in DENSITY_MODELS),
            (f"train {PROPERTY_NETWORK}", lambda: _train_each(train, cgcnn_of, properties_of(run.config.generator))),
        ]
    separated: Stages = [(f"train {SEPARATED}", lambda: _train_each(train, own_model, own_elements(run, paths)))]
    return [
        *voxelized,
        ("train lattice-ae", lambda: train("lattice-ae")),
        ("train sites-ae", lambda: train("sites-ae")),
        *(separated if run.config.train.separated_steps else []),
        ("encode", lambda: encode_graphs(run, paths, progress)),
        ("train constraint", lambda: _train_each(train, constraint_of, properties_of(run.config.generator))),
        (f"train {generator}", lambda: train(generator)),
    ]


def trainable(run: Run, labelled: StructureSet) -> StructureSet:
    """What of relaxed candidates the round's kind of models can be trained on.

    CCDCGAN's take every crystal. ICSG3D's maps are of a cell as it is, so candidates get the cell and have to pass the
    selection of the data that they join; the VAE of the preset ``laptop`` draws so many ions at most.
    """
    config = run.config
    if config.generate.generator != ICSG3D:
        return labelled
    kept = select(labelled, Selection.of(config.structures)).structures
    if not len(kept):
        return labelled.subset([])  # with its columns
    if config.preset == "paper":
        return kept
    return kept.subset(np.flatnonzero(np.diff(kept.offsets) <= config.train.vae.ions))


def _train_each(train: Callable[[str], Any], name_of: Callable[[Any], str], members: Any) -> None:
    for member in members:
        train(name_of(member))


def _voxelize(run: Run, paths: RoundPaths, say: Say) -> None:
    """What the generator is trained on, and what the configuration names besides."""
    needed = "density" if run.config.generate.generator == ICSG3D else "sites"
    for kind in dict.fromkeys([needed, *run.config.voxelized]):
        if kind == "sites":
            _voxelized(run, paths, kind, paths.voxels, run.config.voxels, say)
        else:
            _voxelized(run, paths, kind, paths.density, run.config.density, say)


def _voxelized(run: Run, paths: RoundPaths, kind: str, folder: Path, settings: Settings, say: Say) -> None:
    """Under mpirun with one rank per core where there is an mpirun, else in this process alone."""
    if (folder / INDEX_NAME).is_file():
        DATASETS[kind](folder, settings)
        return
    command = [str(Path(sys.executable).with_name("voxelize")), str(paths.structures), "-o", str(folder)]
    command += ["--run", str(run.root), "--representation", kind]
    for key, value in settings.model_dump(exclude_none=True).items():
        command += ["--set", f"{'voxels' if kind == 'sites' else kind}.{key}={value}"]
    if mpirun() is None or "SLURM_STEP_ID" in os.environ or "OMPI_COMM_WORLD_RANK" in os.environ:
        from voxtal.data.voxelize import voxelize

        say("no mpirun here: voxelizing on one rank")
        voxelize(paths.structures, folder, settings, SerialCommunicator())
    else:
        run_ranks(command, available_cores())
