"""``voxtal train MODEL`` and ``voxtal encode`` on one round: what is read, what is trained, where it goes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np

from voxtal.config import AutoencoderConfig, Config
from voxtal.data.dataset import VoxelDataset
from voxtal.data.graphs import GraphSet
from voxtal.errors import UserError
from voxtal.parallel.communicator import on_root
from voxtal.parallel.data_parallel import DataParallel
from voxtal.representations.crystal_graph import PAPER_ELEMENTS, GraphLayout
from voxtal.runs import RoundPaths, Run, sha256_of
from voxtal.structures.splits import VALIDATION, in_split, training_rows
from voxtal.structures.structure_set import StructureSet
from voxtal.training.autoencoder_data import data_of
from voxtal.training.autoencoder_task import AutoencoderTask
from voxtal.training.checkpoint import load
from voxtal.training.constraint_task import ConstraintTask
from voxtal.training.device import Arithmetic
from voxtal.training.encode import lattice_codes, sites_codes
from voxtal.training.gan_task import GANTask
from voxtal.training.objectives import constraint_of, labels, load_constraints, property_of
from voxtal.training.trainer import Task, is_trained, train

MODELS = ("lattice-ae", "sites-ae", "constraint", "ccdcgan")
"""``constraint`` is that of the formation energy; those of other properties are called ``constraint-NAME``."""

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
Say = Callable[[str], None]


def train_model(
    run: Run,
    paths: RoundPaths,
    model: str,
    progress: Progress,
    parallel: DataParallel | None = None,
    say: Say = lambda _text: None,
) -> bool:
    """Train one model of a round to its end; False where that was done already. Collective.

    Raises
    ------
    UserError
        Unknown model or property, or what it is trained on is not there yet.
    Interrupted
        A stop signal came; the same call carries on.
    """
    if model not in MODELS and property_of(model) is None:
        raise UserError(f"There is no model {model!r} to train; models are {', '.join(MODELS)}.")
    make = {
        "lattice-ae": _autoencoder,
        "sites-ae": _autoencoder,
        "ccdcgan": _gan,
    }.get(model, partial(_constraint, say=say))
    folder = paths.train(model)
    parallel = parallel or DataParallel()
    task, fingerprint = make(run, paths, model, parallel)
    if on_root(parallel, lambda: is_trained(folder, fingerprint)):
        return False
    with progress(f"train {model}", task.steps) as advance:
        train(task, folder, run.config.seed, fingerprint, run.config.train.checkpoint_every_steps, advance)
    return True


def encode_graphs(run: Run, paths: RoundPaths) -> GraphSet:
    """Encode the round's voxels to ``graphs.h5`` with its two autoencoders; read it where that was done already."""
    lattice_path, sites_path = (paths.train(name) / "best.pt" for name in ("lattice-ae", "sites-ae"))
    lattice_saved = load(lattice_path, "voxtal train lattice-ae")
    sites_saved = load(sites_path, "voxtal train sites-ae")
    dataset = VoxelDataset(paths.voxels, run.config.voxels)
    fingerprint = _hash(sha256_of(paths.voxels / "index.h5"), sha256_of(lattice_path), sha256_of(sites_path))
    if paths.graphs.is_file() and (known := GraphSet.read(paths.graphs)).fingerprint == fingerprint:
        return known
    arithmetic = Arithmetic.of(run.config.train)
    cell_codes = lattice_codes(lattice_saved, dataset, arithmetic)
    image_codes = sites_codes(sites_saved, dataset, arithmetic)
    elements = (
        PAPER_ELEMENTS if run.config.preset == "paper" else tuple(int(z) for z in np.unique(dataset.image_numbers))
    )
    layout = GraphLayout(elements, cell_codes.shape[1], image_codes.shape[1])
    by_element = np.zeros((dataset.n_structures, len(elements), layout.sites_latent), dtype=np.float32)
    by_element[dataset.image_structure, np.searchsorted(elements, dataset.image_numbers)] = image_codes
    strength = np.sqrt(np.mean(image_codes**2, axis=1))
    graphs = GraphSet(
        layout,
        dataset.rows,
        layout.pack(cell_codes, by_element),
        float(strength.min() / 2),
        fingerprint,
    )
    graphs.write(paths.graphs)
    return graphs


def _autoencoder(run: Run, paths: RoundPaths, model: str, parallel: DataParallel) -> tuple[Task, str]:
    config = run.config
    size = config.train.sites_ae if model == "sites-ae" else config.train.lattice_ae
    dataset = VoxelDataset(paths.voxels, config.voxels)
    rows = training_rows(StructureSet.read(paths.structures), dataset.rows)
    if model == "sites-ae":
        rows = rows[dataset.image_structure]
    _require(rows.sum(), f"{paths.voxels} holds no image to train {model} on; see its list of bad rows.")
    architecture = f"{config.preset if size.network == 'voxels' else 'atoms'}-{model}"
    sizes = {"width": size.width, "latent": size.latent, **_size_of_images(config, size, model, dataset)}
    start = _previous(run, paths, model, architecture, sizes)
    arithmetic = Arithmetic.of(config.train, parallel.local_rank)
    task = AutoencoderTask(
        architecture,
        sizes,
        size,
        size.steps if start is None else max(1, round(size.steps * config.train.warm_start_fraction)),
        data_of(architecture, dataset, sizes.get("atoms", 0), arithmetic),
        np.flatnonzero(rows),
        arithmetic,
        parallel,
        config.seed,
        None if start is None else start["weights"],
    )
    inputs = [sha256_of(paths.voxels / "index.h5"), sha256_of(paths.structures)]
    if start is not None:
        inputs.append(sha256_of(run.round(paths.index - 1).train(model) / "best.pt"))
    return task, _fingerprint(run, size, *inputs)


def _size_of_images(config: Config, size: AutoencoderConfig, model: str, dataset: VoxelDataset) -> dict[str, int]:
    """What a network is built for besides its own width and latent: the grid, or the most atoms of one element."""
    if size.network == "voxels":
        return {"grid": getattr(config.voxels, f"{model.removesuffix('-ae')}_grid")}
    if model == "lattice-ae":
        return {}
    counts = np.bincount(dataset.atoms(np.arange(dataset.n_images)).batch_index)
    return {"atoms": max(config.structures.max_atoms, int(counts.max()))}


def _previous(
    run: Run, paths: RoundPaths, model: str, architecture: str, sizes: dict[str, int]
) -> dict[str, Any] | None:
    """The previous round's network, where it is there and of the same sizes and ``train.warm_start`` is on."""
    if paths.index == 0 or not run.config.train.warm_start:
        return None
    path = run.round(paths.index - 1).train(model) / "best.pt"
    if not path.is_file():
        return None
    saved = load(path, f"voxtal train {model}")
    same = saved["architecture"] == architecture and saved["sizes"] == sizes
    return saved if same else None


def _constraint(run: Run, paths: RoundPaths, model: str, parallel: DataParallel, say: Say) -> tuple[Task, str]:
    graphs, structures = GraphSet.read(paths.graphs), StructureSet.read(paths.structures)
    name = property_of(model) or ""
    targets = labels(structures, name, paths.structures)[graphs.rows]
    trained_on = training_rows(structures, graphs.rows)
    usable = trained_on & np.isfinite(targets)
    _require(usable.sum(), f"{paths.structures}: no structure that may be trained on has a finite {name}.")
    if parallel.rank == 0 and usable.sum() < trained_on.sum():
        without = trained_on.sum() - usable.sum()
        say(f"{model}: {without} of {trained_on.sum()} structures have no finite {name} and are left out")
    validation = in_split(structures, graphs.rows, VALIDATION) & np.isfinite(targets)
    read = usable | validation
    config = run.config.train.constraint
    task = ConstraintTask(
        f"{run.config.preset}-constraint",
        config,
        graphs.layout,
        graphs.presence_threshold,
        graphs.graphs[read],
        targets[read],
        Arithmetic.of(run.config.train, parallel.local_rank),
        parallel,
        run.config.seed,
        validation=np.flatnonzero(validation[read]),
    )
    return task, _fingerprint(run, config, graphs.fingerprint, sha256_of(paths.structures))


def _gan(run: Run, paths: RoundPaths, model: str, parallel: DataParallel) -> tuple[Task, str]:
    graphs, structures = GraphSet.read(paths.graphs), StructureSet.read(paths.structures)
    config = run.config.train.ccdcgan
    properties = [objective.property for objective in config.objectives]
    constraints = load_constraints(paths, properties)
    task = GANTask(
        run.config.preset,
        config,
        graphs.graphs[training_rows(structures, graphs.rows)],
        constraints,
        Arithmetic.of(run.config.train, parallel.local_rank),
        parallel,
        run.config.seed,
    )
    inputs = [sha256_of(paths.train(constraint_of(name)) / "best.pt") for name in properties]
    return task, _fingerprint(run, config, graphs.fingerprint, *inputs)


def _require(n: int, message: str) -> None:
    if not n:
        raise UserError(message)


def _fingerprint(run: Run, size: Any, *inputs: str) -> str:
    train_settings = run.config.train
    settings = [run.config.preset, run.config.seed, train_settings.precision, size.model_dump()]
    settings += [train_settings.warm_start, train_settings.warm_start_fraction]
    return _hash(json.dumps(settings), *inputs)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
