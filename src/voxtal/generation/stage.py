"""``voxtal generate`` on one round: attempts in blocks, shared out to ranks, each written whole, then joined."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from torch import nn

from voxtal import __version__
from voxtal.config import ICSG3D, Config
from voxtal.data.graphs import GraphSet
from voxtal.errors import UserError
from voxtal.generation.analogue import AnalogueGenerator
from voxtal.generation.blocks import Maker, Progress, Rows, make_attempts, predicted_column, rows_of, seed_of
from voxtal.generation.codes import graphs_of_codes
from voxtal.generation.decode import Decoder
from voxtal.generation.flow import FlowGenerator
from voxtal.generation.folder import candidates_folder
from voxtal.generation.generators import BATCH, Generator, GraphGenerator, Setting
from voxtal.generation.icsg3d_request import MapsRequest
from voxtal.generation.icsg3d_stage import latent_codes, maps_maker
from voxtal.generation.readers import cell_reader, sites_reader
from voxtal.generation.request import Request
from voxtal.models.build import restore
from voxtal.parallel.communicator import Communicator, SerialCommunicator
from voxtal.parallel.data_parallel import launch_of
from voxtal.parallel.tasks import advancing, gathered, shown
from voxtal.runs import RoundPaths, Run, sha256_of
from voxtal.structures.structure_set import StructureSet
from voxtal.training.checkpoint import load
from voxtal.training.device import Arithmetic, one_thread
from voxtal.training.objectives import constraint_of, load_constraints, properties_of
from voxtal.training.separated import own_model


def generate(
    run: Run,
    paths: RoundPaths,
    n: int,
    progress: Progress,
    request: Request | MapsRequest | None = None,
    name: str | None = None,
    communicator: Communicator | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Make ``n`` attempts and write ``candidates.h5``, whose path is returned: one row per attempt, valid or not.

    Collective: every rank calls it. Attempt i depends on the seed and i alone, so that the file is the same on any
    number of ranks. A killed call keeps its finished blocks; a call for more attempts keeps those that are there.

    Parameters
    ----------
    progress
        Shows on rank 0 how far it is.
    request
        What is asked for besides, of the kind that the round's generator takes; such attempts have a folder of their
        own.
    name
        Of that folder; by default the request's.
    say
        Told on rank 0 where attempts of other models were moved to.

    Raises
    ------
    UserError
        A model is missing or does not know what is asked for, or the folder holds attempts of another request.
    """
    request = request or default_request(run)
    if isinstance(request, MapsRequest) != (run.config.generate.generator == ICSG3D):
        raise UserError(f"What is asked for cannot be asked of generate.generator = {run.config.generate.generator!r}.")
    maker = maps_maker(run, paths, request) if isinstance(request, MapsRequest) else graphs_maker(run, paths, request)
    folder = candidates_folder(paths, request, name)
    return make_attempts(folder, maker, n, progress, communicator or SerialCommunicator(), say)


def default_request(run: Run) -> Request | MapsRequest:
    """What a round asks of its generator: nothing in particular."""
    return MapsRequest() if run.config.generate.generator == ICSG3D else Request()


def graphs_maker(run: Run, paths: RoundPaths, request: Request) -> Maker:
    """Of a generator whose codes the round's autoencoders decode."""

    def check() -> dict[str, Any]:
        request.check(chemical_symbols[z] for z in GraphSet.read(paths.graphs, stop=0).layout.elements)
        return made_by(run, paths)

    def open_() -> Rows:
        generator, decoder = open_generator(run, paths, request), open_decoder(run, paths)

        def rows(attempts: np.ndarray) -> StructureSet:
            draw = generator.draw(attempts)
            decoded = decoder.decode_codes(draw.codes, request.max_atoms)
            predicted = {predicted_column(name): values for name, values in draw.predicted.items()}
            return rows_of(paths.index, attempts, generator.model, decoded, draw.codes.drawn, predicted)

        return rows

    return Maker(request.asked, check, open_)


def open_decoder(run: Run, paths: RoundPaths) -> Decoder:
    """The round's decoders, on this rank's device."""
    graphs = GraphSet.read(paths.graphs, stop=0)
    arithmetic = _arithmetic(run)
    lattice, sites, own = _autoencoders(paths, graphs)
    return Decoder(
        graphs.layout,
        cell_reader(lattice, run.config.voxels, arithmetic),
        sites_reader(sites, run.config.voxels, arithmetic, own),
        graphs.presence_threshold,
    )


def open_generator(run: Run, paths: RoundPaths, request: Request) -> Generator:
    """The round's generator, on this rank's device."""
    graphs, config = GraphSet.read(paths.graphs, stop=0), run.config
    arithmetic = _arithmetic(run)
    constraints = load_constraints(paths, properties_of(config.generator))
    setting = Setting(
        {property_: arithmetic.place(network) for property_, network in constraints.items()},
        config.generator.objectives,
        graphs.layout,
        request,
        seed_of(run, paths),
        arithmetic,
    )
    saved = _load(paths, config.generate.generator)
    if config.generate.generator == "flow":
        return FlowGenerator.of(setting, saved, config.generate.flow_steps)
    if config.generate.generator == "analogue":
        return AnalogueGenerator.of(setting, saved, *_autoencoders(paths, graphs))
    return GraphGenerator(setting, arithmetic.place(restore(saved)), graphs.presence_threshold)


def _autoencoders(paths: RoundPaths, graphs: GraphSet) -> tuple[nn.Module, nn.Module, dict[int, nn.Module]]:
    """Of cells, of sites, and of the sites of elements that have one of their own."""
    lattice, sites = (restore(_load(paths, name)) for name in ("lattice-ae", "sites-ae"))
    return lattice, sites, {number: restore(_load(paths, own_model(number))) for number in graphs.separated}


def graphs_of_attempts(
    run: Run,
    paths: RoundPaths,
    attempts: np.ndarray,
    progress: Progress | None = None,
    communicator: Communicator | None = None,
) -> np.ndarray:
    """The crystal graphs (n, side, side) of numbered attempts (n,), made again from their seeds; none but on rank 0.

    Collective: every rank calls it. A generator draws whole blocks, so that few attempts of many blocks take as long as
    all of these took.
    """
    communicator = communicator or SerialCommunicator()
    layout = GraphSet.read(paths.graphs, stop=0).layout
    parts = [part for part in np.split(attempts, np.flatnonzero(np.diff(attempts // BATCH)) + 1) if len(part)]
    opened = cache(lambda: open_generator(run, paths, Request()))

    def draw(k: int) -> np.ndarray:
        return graphs_of_codes(opened().draw(parts[k]).codes, layout)

    with shown(progress, "draw again", len(attempts), communicator) as advance, one_thread():
        drawn = gathered(communicator, len(parts), draw, advancing(advance, map(len, parts)))
    return np.concatenate([np.zeros((0, layout.side, layout.side), dtype=np.float32), *(drawn or [])])


def features_of_attempts(
    run: Run,
    paths: RoundPaths,
    attempts: np.ndarray,
    progress: Progress | None = None,
    communicator: Communicator | None = None,
) -> np.ndarray:
    """Latent vectors (n, d) of numbered attempts (n,), made again from their seeds: the closer two are, the more alike
    are the attempts. None but on rank 0. Collective."""
    if run.config.generate.generator == ICSG3D:
        return latent_codes(run, paths, attempts if (communicator or SerialCommunicator()).rank == 0 else attempts[:0])
    graphs = graphs_of_attempts(run, paths, attempts, progress, communicator)
    return graphs.reshape(len(graphs), graphs.shape[1] * graphs.shape[2])


def predictions_of(candidates: StructureSet, properties: Collection[str]) -> dict[str, np.ndarray]:
    """What was predicted of candidates (n,), by property.

    Raises
    ------
    UserError
        A property was not predicted when the candidates were made.
    """
    missing = [name for name in properties if predicted_column(name) not in candidates.properties]
    if missing:
        raise UserError(
            f"The candidates were made without a prediction of {', '.join(missing)}. Make them again: "
            "`voxtal train constraint`, or `voxtal train all` for icsg3d, then `voxtal generate`."
        )
    return {name: candidates.properties[predicted_column(name)] for name in properties}


def made_by(run: Run, paths: RoundPaths) -> dict[str, Any]:
    """What attempts depend on besides their number and what is asked for."""
    config = run.config
    graphs = GraphSet.read(paths.graphs, stop=0)
    networks = ("lattice-ae", "sites-ae", *map(own_model, graphs.separated), config.generate.generator)
    names = [*networks, *map(constraint_of, properties_of(config.generator))]
    load_constraints(paths, properties_of(config.generator))
    for name in networks:
        _load(paths, name)
    steered = {} if config.generate.generator == "ccdcgan" else _steered_by(config)
    return {
        "voxtal": __version__,
        "seed": seed_of(run, paths),
        "voxels": config.voxels.model_dump(),
        "graphs": graphs.fingerprint,
        "models": {name: sha256_of(paths.train(name) / "best.pt") for name in names},
        **steered,
    }


def _steered_by(config: Config) -> dict[str, Any]:
    """What steers a generator when it draws; the GAN has it in its weights."""
    objectives = [objective.model_dump(mode="json") for objective in config.generator.objectives]
    return {"objectives": objectives} | (
        {"flow_steps": config.generate.flow_steps} if config.generate.generator == "flow" else {}
    )


def _arithmetic(run: Run) -> Arithmetic:
    return Arithmetic.of(run.config.train, launch_of(os.environ).local_rank)


def _load(paths: RoundPaths, model: str) -> dict[str, Any]:
    return load(paths.train(model) / "best.pt", f"voxtal train {model}")
