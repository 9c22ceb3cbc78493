"""``voxtal train MODEL`` on one round: what is read, what is trained, where it goes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np

from voxtal.config import GENERATORS, ICSG3D, AutoencoderConfig, Config, LayeredConfig
from voxtal.data.dataset import VoxelDataset
from voxtal.data.graphs import GraphSet
from voxtal.errors import UserError
from voxtal.models.atom_graphs import atom_graphs
from voxtal.models.cgcnn import BEYOND
from voxtal.parallel.communicator import on_root
from voxtal.parallel.data_parallel import DataParallel
from voxtal.runs import RoundPaths, Run, sha256_of
from voxtal.structures.splits import VALIDATION, in_split, training_rows
from voxtal.structures.structure_set import StructureSet
from voxtal.training.analogue_data import Arrangements
from voxtal.training.analogue_task import AnalogueTask
from voxtal.training.autoencoder_data import data_of
from voxtal.training.autoencoder_task import AutoencoderTask
from voxtal.training.cgcnn_task import CGCNNTask, learned_values, starts_from_energies
from voxtal.training.checkpoint import load
from voxtal.training.constraint_task import ConstraintTask
from voxtal.training.density_stages import DENSITY_MODELS, prepare_unet, prepare_vae
from voxtal.training.device import Arithmetic
from voxtal.training.flow_data import TokenData
from voxtal.training.flow_task import FlowTask
from voxtal.training.gan_task import GANTask
from voxtal.training.objectives import (
    PROPERTY_NETWORK,
    cgcnn_of,
    constraint_of,
    labels,
    load_constraints,
    properties_of,
    property_of,
)
from voxtal.training.separated import (
    COMBINED,
    NOT_SEPARATED,
    images_to_train_on,
    own_element,
    own_elements,
    own_model,
)
from voxtal.training.trainer import Task, is_trained, is_whole, train

MODELS = ("lattice-ae", "sites-ae", "constraint", *GENERATORS, PROPERTY_NETWORK)
"""``constraint`` and ``cgcnn`` are those of the formation energy; those of other properties are called
``constraint-NAME`` and ``cgcnn-NAME``."""

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
Say = Callable[[str], None]
Prepared = tuple[str, Callable[[Arithmetic], Task]]
"""Hash of data and settings, and what makes the task: where a model is trained already, it is not made."""


def models_of(run: Run, paths: RoundPaths) -> list[str]:
    """The models of a round, in the order in which they are trained; UserError where these depend on voxels to come."""
    if run.config.generate.generator == ICSG3D:
        return [*DENSITY_MODELS, *map(cgcnn_of, properties_of(run.config.generator))]
    separated = map(own_model, own_elements(run, paths))
    constraints = map(constraint_of, properties_of(run.config.generator))
    return ["lattice-ae", COMBINED, *separated, *constraints, run.config.generate.generator]


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
    folder = paths.train(model)
    parallel = parallel or DataParallel()
    arithmetic = Arithmetic.of(run.config.train, parallel.local_rank)
    fingerprint, make_task = prepared(run, paths, model, parallel, say)
    if on_root(parallel, lambda: is_trained(folder, fingerprint)):
        return False
    task = make_task(arithmetic)
    with progress(f"train {model}", task.steps) as advance:
        train(task, folder, run.config.seed, fingerprint, run.config.train.checkpoint_every_steps, advance)
    return True


def prepared(
    run: Run, paths: RoundPaths, model: str, parallel: DataParallel, say: Say = lambda _text: None
) -> Prepared:
    """Hash and maker of the task that :func:`train_model` trains; it raises the same."""
    own = own_element(model) is not None
    graph_network = property_of(model, PROPERTY_NETWORK) is not None
    if model not in (*MODELS, *DENSITY_MODELS) and property_of(model) is None and not graph_network and not own:
        raise UserError(f"There is no model {model!r} to train; models are {', '.join((*MODELS, *DENSITY_MODELS))}.")
    others = _separated if own else partial(_cgcnn if graph_network else _constraint, say=say)
    prepare: dict[str, Callable[[Run, RoundPaths, str, DataParallel], Prepared]] = {
        "lattice-ae": _autoencoder,
        "sites-ae": _autoencoder,
        "ccdcgan": _gan,
        "flow": _flow,
        "analogue": _analogue,
        **dict.fromkeys(DENSITY_MODELS, partial(_of_maps, say=say)),
    }
    return prepare.get(model, others)(run, paths, model, parallel)


def _autoencoder(run: Run, paths: RoundPaths, model: str, parallel: DataParallel) -> Prepared:
    config = run.config
    size = config.train.sites_ae if model == "sites-ae" else config.train.lattice_ae
    dataset = VoxelDataset(paths.voxels, config.voxels)
    if model == COMBINED:
        rows = images_to_train_on(paths, dataset)
    else:
        rows = training_rows(StructureSet.read(paths.structures), dataset.rows)
    _require(rows.sum(), f"{paths.voxels} holds no image to train {model} on; see its list of bad rows.")
    architecture = f"{config.preset if size.network == 'voxels' else 'atoms'}-{model}"
    sizes = {"width": size.width, "latent": size.latent, **_size_of_images(config, size, model, dataset)}
    start = _previous(run, paths, model, architecture, sizes)
    inputs = [sha256_of(paths.voxels / "index.h5"), sha256_of(paths.structures)]
    if start is not None:
        inputs.append(sha256_of(run.round(paths.index - 1).train(model) / "best.pt"))

    def make(arithmetic: Arithmetic) -> Task:
        return AutoencoderTask(
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

    return _fingerprint(run, size, *inputs), make


def _separated(run: Run, paths: RoundPaths, model: str, parallel: DataParallel) -> Prepared:
    config, size = run.config, run.config.train.sites_ae
    steps, folder = config.train.separated_steps, paths.train(COMBINED)
    _require(steps, NOT_SEPARATED)
    _require(is_whole(folder), f"{model} starts from {COMBINED}; train that to its end with `voxtal train {COMBINED}`.")
    inputs = [sha256_of(path) for path in (paths.voxels / "index.h5", paths.structures, folder / "best.pt")]

    def make(arithmetic: Arithmetic) -> Task:
        start = load(folder / "best.pt", f"voxtal train {COMBINED}")
        dataset = VoxelDataset(paths.voxels, config.voxels)
        there = images_to_train_on(paths, dataset) & (dataset.image_numbers == own_element(model))
        _require(there.sum(), f"{paths.voxels} holds no image to train {model} on.")
        rows = np.flatnonzero(there)
        return AutoencoderTask(
            start["architecture"],
            start["sizes"],
            size,
            steps,
            data_of(start["architecture"], dataset, start["sizes"].get("atoms", 0), arithmetic),
            np.resize(rows, max(len(rows), size.batch_size)),  # many ranks could not share a batch of a rare element's
            arithmetic,
            parallel,
            config.seed,
            start["weights"],
        )

    return _fingerprint(run, size, str(steps), *inputs), make


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


def _constraint(run: Run, paths: RoundPaths, model: str, parallel: DataParallel, say: Say) -> Prepared:
    graphs, structures = GraphSet.read(paths.graphs), StructureSet.read(paths.structures)
    name = property_of(model) or ""
    targets = labels(structures, name, paths.structures)[graphs.rows]
    trained_on = training_rows(structures, graphs.rows)
    usable = trained_on & np.isfinite(targets)
    _require(usable.sum(), f"{paths.structures}: no structure that may be trained on has a finite {name}.")
    config = run.config.train.constraint

    def make(arithmetic: Arithmetic) -> Task:
        if parallel.rank == 0 and usable.sum() < trained_on.sum():
            without = trained_on.sum() - usable.sum()
            say(f"{model}: {without} of {trained_on.sum()} structures have no finite {name} and are left out")
        validation = in_split(structures, graphs.rows, VALIDATION) & np.isfinite(targets)
        read = usable | validation
        return ConstraintTask(
            f"{run.config.preset}-constraint",
            config,
            graphs.layout,
            graphs.presence_threshold,
            graphs.dense(read),
            targets[read],
            arithmetic,
            parallel,
            run.config.seed,
            validation=np.flatnonzero(validation[read]),
        )

    return _fingerprint(run, config, graphs.fingerprint, sha256_of(paths.structures)), make


def _gan(run: Run, paths: RoundPaths, model: str, parallel: DataParallel) -> Prepared:
    graphs, structures = GraphSet.read(paths.graphs), StructureSet.read(paths.structures)
    config = run.config.train.ccdcgan
    properties = [objective.property for objective in config.objectives]
    constraints = load_constraints(paths, properties)
    inputs = [sha256_of(paths.train(constraint_of(name)) / "best.pt") for name in properties]

    def make(arithmetic: Arithmetic) -> Task:
        return GANTask(
            run.config.preset,
            config,
            graphs.dense(training_rows(structures, graphs.rows)),
            constraints,
            arithmetic,
            parallel,
            run.config.seed,
        )

    return _fingerprint(run, config, graphs.fingerprint, *inputs), make


def _flow(run: Run, paths: RoundPaths, model: str, parallel: DataParallel) -> Prepared:
    graphs, structures = GraphSet.read(paths.graphs), StructureSet.read(paths.structures)
    config = run.config.train.flow
    properties = {name: labels(structures, name, paths.structures)[graphs.rows] for name in properties_of(config)}

    def make(arithmetic: Arithmetic) -> Task:
        data = TokenData.of(graphs, structures, training_rows(structures, graphs.rows), properties)
        _require(len(data), f"{paths.graphs} holds no structure that {model} may be trained on.")
        return FlowTask(config, data, tuple(properties), arithmetic, parallel, run.config.seed)

    return _fingerprint(run, _learned(config), *properties, graphs.fingerprint, sha256_of(paths.structures)), make


def _analogue(run: Run, paths: RoundPaths, model: str, parallel: DataParallel) -> Prepared:
    structures = StructureSet.read(paths.structures)
    config = run.config.train.analogue
    properties = {name: labels(structures, name, paths.structures) for name in properties_of(config)}

    def make(arithmetic: Arithmetic) -> Task:
        trained_on = training_rows(structures, np.arange(len(structures)))
        _require(trained_on.sum(), f"{paths.structures} holds no structure that {model} may be trained on.")
        known = Arrangements.of(structures, trained_on, run.config.voxels, properties)
        return AnalogueTask(config, known, tuple(properties), arithmetic, parallel, run.config.seed)

    inputs = [run.config.voxels.model_dump_json(), sha256_of(paths.structures)]
    return _fingerprint(run, _learned(config), *properties, *inputs), make


def _cgcnn(run: Run, paths: RoundPaths, model: str, parallel: DataParallel, say: Say) -> Prepared:
    structures, config = StructureSet.read(paths.structures), run.config.train.cgcnn
    name, rows = property_of(model, PROPERTY_NETWORK) or "", np.arange(len(structures))
    targets = learned_values(labels(structures, name, paths.structures), name in config.log10)
    known, trained_on = np.isfinite(targets), training_rows(structures, rows)
    _require(
        (trained_on & known).sum(),
        f"{paths.structures}: no structure that may be trained on has a finite {name}"
        + (", of which the logarithm is learned (train.cgcnn.log10)." if name in config.log10 else "."),
    )
    energies = paths.train(PROPERTY_NETWORK)
    transferred = starts_from_energies(name, structures)
    inputs = [sha256_of(paths.structures)]
    if transferred:
        _require(
            is_whole(energies),
            f"{model} starts from {PROPERTY_NETWORK}; train that to its end with `voxtal train {PROPERTY_NETWORK}`.",
        )
        inputs.append(sha256_of(energies / "best.pt"))

    def make(arithmetic: Arithmetic) -> Task:
        if parallel.rank == 0 and (without := (trained_on & ~known).sum()):
            say(f"{model}: {without} of {trained_on.sum()} structures have no finite {name} and are left out")
        validation = in_split(structures, rows, VALIDATION) & known
        read = np.flatnonzero(trained_on & known | validation)
        return CGCNNTask(
            run.config.preset,
            config,
            atom_graphs(structures.subset(read), BEYOND[f"{run.config.preset}-cgcnn"], arithmetic.device),
            targets[read],
            np.flatnonzero(validation[read]),
            arithmetic,
            parallel,
            run.config.seed,
            {"property": name, "log10": name in config.log10},
            load(energies / "best.pt", f"voxtal train {PROPERTY_NETWORK}") if transferred else None,
        )

    return _fingerprint(run, config, *inputs), make


def _of_maps(run: Run, paths: RoundPaths, model: str, parallel: DataParallel, say: Say) -> Prepared:
    inputs, make = {"unet": prepare_unet, "vae": prepare_vae}[model](run, paths, parallel, say)
    return _fingerprint(run, getattr(run.config.train, model), *inputs, steering={"objectives"}), make


def _learned(config: LayeredConfig) -> LayeredConfig:
    """Without the objectives: they steer what is drawn, not what is learned."""
    return config.model_copy(update={"objectives": ()})


def _require(n: int, message: str) -> None:
    if not n:
        raise UserError(message)


def _fingerprint(run: Run, size: Any, *inputs: str, steering: Collection[str] = ()) -> str:
    """Of data and settings; those that are ``steering`` what is drawn change nothing of what is learned."""
    train_settings = run.config.train
    settings = [run.config.preset, run.config.seed, train_settings.precision, size.model_dump(exclude=set(steering))]
    settings += [train_settings.warm_start, train_settings.warm_start_fraction]
    return _hash(json.dumps(settings), *inputs)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
