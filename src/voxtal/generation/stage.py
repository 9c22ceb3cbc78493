"""``voxtal generate`` on one round: attempts in blocks, shared out to ranks, each written whole, then joined."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from torch import nn

from voxtal import __version__
from voxtal.config import Config
from voxtal.data.graphs import GraphSet
from voxtal.errors import UserError
from voxtal.generation.analogue import AnalogueGenerator
from voxtal.generation.codes import graphs_of_codes
from voxtal.generation.decode import Decoded, Decoder
from voxtal.generation.flow import FlowGenerator
from voxtal.generation.folder import candidates_folder
from voxtal.generation.generators import BATCH, Draw, Generator, GraphGenerator, Setting
from voxtal.generation.readers import cell_reader, sites_reader
from voxtal.generation.request import Request
from voxtal.models.build import restore
from voxtal.parallel.communicator import Communicator, SerialCommunicator, on_root
from voxtal.parallel.data_parallel import launch_of
from voxtal.parallel.tasks import advancing, gathered, shown
from voxtal.runs import RoundPaths, Run, sha256_of
from voxtal.structures.structure_set import REASON, SOURCE, StructureSet
from voxtal.training.checkpoint import load
from voxtal.training.device import Arithmetic, one_thread
from voxtal.training.objectives import constraint_of, load_constraints, properties_of
from voxtal.training.separated import own_model

ATTEMPT = "attempt"
"""Property: number of the attempt; with the seed it makes the structure again."""
PREDICTED = "predicted_formation_energy"
"""Property: formation energy that the constraint predicts from the graph, eV/atom (:func:`predicted_column`)."""
DRAWN = "drawn_system"
"""Provenance: chemical system that the generator drew, whatever was asked for."""

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]


def generate(
    run: Run,
    paths: RoundPaths,
    n: int,
    progress: Progress,
    request: Request | None = None,
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
        Elements and numbers of atoms that are asked for; such attempts have a folder of their own.
    name
        Of that folder; by default the request's.
    say
        Told on rank 0 where attempts of other models were moved to.

    Raises
    ------
    UserError
        A model is missing or does not know an element, or the folder holds attempts of another request.
    """
    request, communicator = request or Request(), communicator or SerialCommunicator()
    folder = candidates_folder(paths, request, name)

    def claim() -> list[range]:
        request.check(chemical_symbols[z] for z in GraphSet.read(paths.graphs, stop=0).layout.elements)
        folder.claim(request, made_by(run, paths), say)
        return folder.missing(n)

    todo = on_root(communicator, claim)
    opened = cache(lambda: (open_generator(run, paths, request), open_decoder(run, paths)))

    def make(task: int) -> None:
        generator, decoder = opened()
        attempts = np.arange(todo[task].start, todo[task].stop)
        draw = generator.draw(attempts)
        decoded = decoder.decode_codes(draw.codes, request.max_atoms)
        _as_set(paths.index, attempts, generator.model, draw, decoded).write(folder.block(todo[task]))

    sizes, began = list(map(len, todo)), time.monotonic()
    with shown(progress, "generate", sum(sizes), communicator) as advance, one_thread():
        gathered(communicator, len(todo), make, advancing(advance, sizes))

    def conclude() -> None:
        if todo:
            folder.note_time(sum(sizes), time.monotonic() - began, communicator.size)
        if todo or not folder.is_joined(n):
            folder.join(n)

    on_root(communicator, conclude)
    return folder.candidates


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
        _seed(run, paths),
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


def predicted_column(name: str) -> str:
    """Column of the candidates that holds the predictions of a property."""
    return f"predicted_{name}"


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
            "`voxtal train constraint`, then `voxtal generate`."
        )
    return {name: candidates.properties[predicted_column(name)] for name in properties}


def _as_set(index: int, attempts: np.ndarray, model: str, draw: Draw, decoded: list[Decoded]) -> StructureSet:
    counts = [len(d.numbers) for d in decoded]
    return StructureSet(
        ids=np.asarray([f"r{index}-{i:06d}" for i in attempts], dtype=np.str_),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        numbers=np.concatenate([d.numbers for d in decoded]).astype(np.uint8),
        frac_coords=np.concatenate([d.frac_coords for d in decoded]),
        cells=np.stack([d.cell for d in decoded]),
        properties={ATTEMPT: attempts.astype(np.float64)}
        | {predicted_column(name): values.astype(np.float64) for name, values in draw.predicted.items()},
        provenance={
            REASON: np.asarray([d.reason for d in decoded], dtype=np.str_),
            DRAWN: draw.codes.drawn,
            SOURCE: np.asarray([model] * len(decoded), dtype=np.str_),
        },
    )


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
        "seed": _seed(run, paths),
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


def _seed(run: Run, paths: RoundPaths) -> int:
    """Of a round's attempts: another round's would be the same ones again."""
    return run.config.seed + paths.index
