"""``voxtal train MODEL`` and ``voxtal encode`` on one round: what is read, what is trained, where it goes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from voxtal.config import AutoencoderConfig
from voxtal.data.batches import densify
from voxtal.data.dataset import SparseBatch, VoxelDataset
from voxtal.data.graphs import GraphSet
from voxtal.errors import UserError
from voxtal.models.autoencoder import VoxelAutoencoder
from voxtal.models.build import restore
from voxtal.models.constraint import Constraint
from voxtal.parallel.communicator import on_root
from voxtal.parallel.data_parallel import DataParallel
from voxtal.representations.crystal_graph import PAPER_ELEMENTS, GraphLayout
from voxtal.runs import RoundPaths, Run, sha256_of
from voxtal.structures.structure_set import FORMATION_ENERGY, SPLIT, StructureSet
from voxtal.training.autoencoder_task import AutoencoderTask
from voxtal.training.checkpoint import load
from voxtal.training.constraint_task import ConstraintTask
from voxtal.training.device import Arithmetic
from voxtal.training.gan_task import GANTask
from voxtal.training.trainer import Task, is_trained, train

MODELS = ("lattice-ae", "sites-ae", "constraint", "ccdcgan")
HELDOUT = "heldout"
_ENCODE_BATCH = 64

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]


def train_model(
    run: Run, paths: RoundPaths, model: str, progress: Progress, parallel: DataParallel | None = None
) -> bool:
    """Train one model of a round to its end; False where that was done already. Collective.

    Raises
    ------
    UserError
        Unknown model, or what it is trained on is not there yet.
    Interrupted
        A stop signal came; the same call carries on.
    """
    if model not in MODELS:
        raise UserError(f"There is no model {model!r} to train; models are {', '.join(MODELS)}.")
    make = {
        "lattice-ae": _autoencoder,
        "sites-ae": _autoencoder,
        "constraint": _constraint,
        "ccdcgan": _gan,
    }[model]
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
    lattice_codes = _encode(lattice_saved, dataset.lattice_sparse, dataset.n_structures, arithmetic)
    image_codes = _encode(sites_saved, dataset.sites_sparse, dataset.n_images, arithmetic)
    elements = (
        PAPER_ELEMENTS if run.config.preset == "paper" else tuple(int(z) for z in np.unique(dataset.image_numbers))
    )
    layout = GraphLayout(elements, lattice_codes.shape[1], image_codes.shape[1])
    sites_codes = np.zeros((dataset.n_structures, len(elements), layout.sites_latent), dtype=np.float32)
    sites_codes[dataset.image_structure, np.searchsorted(elements, dataset.image_numbers)] = image_codes
    strength = np.sqrt(np.mean(image_codes**2, axis=1))
    graphs = GraphSet(
        layout,
        dataset.rows,
        layout.pack(lattice_codes, sites_codes),
        float(strength.min() / 2),
        fingerprint,
    )
    graphs.write(paths.graphs)
    return graphs


def training_rows(structures: StructureSet, rows: np.ndarray) -> np.ndarray:
    """Which of ``rows`` (of the structure set) are trained on: (n,) bool."""
    split = structures.provenance.get(SPLIT)
    return np.ones(len(rows), dtype=bool) if split is None else split[rows] != HELDOUT


@torch.no_grad()
def _encode(saved: dict[str, Any], read: Callable, n: int, arithmetic: Arithmetic) -> np.ndarray:
    network: VoxelAutoencoder = arithmetic.place(restore(saved))  # type: ignore[assignment]
    codes = []
    for first in range(0, n, _ENCODE_BATCH):
        batch = read(np.arange(first, min(first + _ENCODE_BATCH, n)))
        codes.append(network.encode(densify(batch, arithmetic.device, torch.float32)).float().cpu().numpy())
    return np.concatenate(codes) if codes else np.empty((0, saved["sizes"]["latent"]), dtype=np.float32)


def _autoencoder(run: Run, paths: RoundPaths, model: str, parallel: DataParallel) -> tuple[Task, str]:
    config = run.config
    kind = model.removesuffix("-ae")
    size: AutoencoderConfig = config.train.sites_ae if kind == "sites" else config.train.lattice_ae
    dataset = VoxelDataset(paths.voxels, config.voxels)
    trained_on = training_rows(StructureSet.read(paths.structures), dataset.rows)
    read: Callable[[np.ndarray], SparseBatch]
    if kind == "sites":
        read, grid = dataset.sites_sparse, config.voxels.sites_grid
        rows = np.flatnonzero(trained_on[dataset.image_structure])
    else:
        read, grid = dataset.lattice_sparse, config.voxels.lattice_grid
        rows = np.flatnonzero(trained_on)
    _require(len(rows), f"{paths.voxels} holds no {kind} image to train on; see its list of bad rows.")
    architecture = f"{config.preset}-{model}"
    sizes = {"grid": grid, "width": size.width, "latent": size.latent}
    start = _previous(run, paths, model, architecture, sizes)
    steps = size.steps if start is None else max(1, round(size.steps * config.train.warm_start_fraction))
    task = AutoencoderTask(
        architecture,
        sizes,
        size,
        steps,
        read,
        rows,
        Arithmetic.of(config.train, parallel.local_rank),
        parallel,
        config.seed,
        None if start is None else start["weights"],
    )
    inputs = [sha256_of(paths.voxels / "index.h5"), sha256_of(paths.structures)]
    if start is not None:
        inputs.append(sha256_of(run.round(paths.index - 1).train(model) / "best.pt"))
    return task, _fingerprint(run, size, *inputs)


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


def _constraint(run: Run, paths: RoundPaths, model: str, parallel: DataParallel) -> tuple[Task, str]:
    graphs, structures = GraphSet.read(paths.graphs), StructureSet.read(paths.structures)
    targets = structures.properties.get(FORMATION_ENERGY, np.full(len(structures), np.nan))[graphs.rows]
    usable = training_rows(structures, graphs.rows) & np.isfinite(targets)
    _require(
        usable.sum(),
        f"{paths.structures} has no formation energies to train a constraint on; label it with `voxtal relax`.",
    )
    config = run.config.train.constraint
    task = ConstraintTask(
        f"{run.config.preset}-constraint",
        config,
        graphs.graphs[usable],
        targets[usable],
        Arithmetic.of(run.config.train, parallel.local_rank),
        parallel,
        run.config.seed,
    )
    return task, _fingerprint(run, config, graphs.fingerprint, sha256_of(paths.structures))


def _gan(run: Run, paths: RoundPaths, model: str, parallel: DataParallel) -> tuple[Task, str]:
    graphs, structures = GraphSet.read(paths.graphs), StructureSet.read(paths.structures)
    constraint_path = paths.train("constraint") / "best.pt"
    constraint: Constraint = restore(load(constraint_path, "voxtal train constraint"))  # type: ignore[assignment]
    config = run.config.train.ccdcgan
    task = GANTask(
        run.config.preset,
        config,
        graphs.graphs[training_rows(structures, graphs.rows)],
        constraint,
        Arithmetic.of(run.config.train, parallel.local_rank),
        parallel,
        run.config.seed,
    )
    return task, _fingerprint(run, config, graphs.fingerprint, sha256_of(constraint_path))


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
