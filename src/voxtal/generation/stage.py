"""``voxtal generate`` on one round: attempts in blocks, each written whole, then joined to ``candidates.h5``."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from voxtal.data.graphs import GraphSet
from voxtal.errors import UserError
from voxtal.generation.decode import Decoded, Decoder
from voxtal.generation.sampling import predicted_energy, sample_graphs
from voxtal.models.build import restore
from voxtal.runs import RoundPaths, Run, read_json, sha256_of, write_json
from voxtal.structures.phases import parse_system
from voxtal.structures.structure_set import SOURCE, StructureSet
from voxtal.training.checkpoint import load
from voxtal.training.device import Arithmetic

ATTEMPT = "attempt"
"""Property: number of the attempt; with the seed it makes the structure again."""
PREDICTED = "predicted_formation_energy"
"""Property: formation energy that the constraint predicts from the graph, eV/atom."""
REASON = "reason"
"""Provenance: why the attempt is not a valid structure; empty for a valid one."""

_BLOCK = 128

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]


def open_decoder(run: Run, paths: RoundPaths, system: str | None = None) -> Decoder:
    """The round's decoders; ``system`` (``Co-Hf``) requests its elements instead of reading presence off the graph."""
    graphs = GraphSet.read(paths.graphs)
    arithmetic = Arithmetic.of(run.config.train)
    lattice, sites = (
        arithmetic.place(restore(load(paths.train(name) / "best.pt", f"voxtal train {name}")))
        for name in ("lattice-ae", "sites-ae")
    )
    requested = None if system is None else frozenset(_numbers(system, graphs.layout.elements))
    return Decoder(
        graphs.layout,
        lattice,  # type: ignore[arg-type]
        sites,  # type: ignore[arg-type]
        run.config.voxels,
        graphs.presence_threshold,
        arithmetic,
        requested,
    )


def generate(run: Run, paths: RoundPaths, n: int, system: str | None, progress: Progress) -> StructureSet:
    """Make ``n`` attempts and write ``candidates.h5``: one row per attempt, valid or not.

    A killed call keeps its finished blocks; a call that finds everything done returns it.
    """
    decoder = open_decoder(run, paths, system)
    device = decoder.arithmetic.device
    models = {name: paths.train(name) / "best.pt" for name in ("lattice-ae", "sites-ae", "constraint", "ccdcgan")}
    generator = decoder.arithmetic.place(restore(load(models["ccdcgan"], "voxtal train ccdcgan")))
    constraint = decoder.arithmetic.place(restore(load(models["constraint"], "voxtal train constraint")))
    request = {
        "seed": run.config.seed,
        "system": system,
        "models": {name: sha256_of(path) for name, path in models.items()},
    }
    folder = paths.candidates.parent
    _start_folder(folder, request)
    if paths.candidates.is_file() and len(known := StructureSet.read(paths.candidates)) == n:
        return known
    blocks = []
    with progress("generate", n) as advance:
        for first in range(0, n, _BLOCK):
            attempts = np.arange(first, min(first + _BLOCK, n))
            path = folder / "blocks" / f"block-{first:08d}-{len(attempts)}.h5"
            if not path.is_file():
                graphs = sample_graphs(generator, run.config.seed + paths.index, attempts, device)
                energies = predicted_energy(constraint, graphs, device)
                _as_set(paths.index, attempts, decoder.decode(graphs), energies).write(path)
            blocks.append(StructureSet.read(path))
            advance(len(attempts), "")
    candidates = StructureSet.concatenate(blocks)
    candidates.write(paths.candidates)
    return candidates


def graphs_of_attempts(run: Run, paths: RoundPaths, attempts: np.ndarray) -> np.ndarray:
    """The crystal graphs (n, side, side) of numbered attempts, made again from their seeds."""
    arithmetic = Arithmetic.of(run.config.train)
    generator = arithmetic.place(restore(load(paths.train("ccdcgan") / "best.pt", "voxtal train ccdcgan")))
    return sample_graphs(generator, run.config.seed + paths.index, attempts, arithmetic.device)


def _start_folder(folder: Path, request: dict) -> None:
    """Blocks of another request (other models, seed or system) are removed: they are not part of this one."""
    note = folder / "request.json"
    if note.is_file() and read_json(note) != json.loads(json.dumps(request)):
        for stale in [*folder.glob("blocks/*.h5"), *folder.glob("candidates.h5")]:
            stale.unlink()
    write_json(note, request)


def _as_set(index: int, attempts: np.ndarray, decoded: list[Decoded], energies: np.ndarray) -> StructureSet:
    counts = [len(d.numbers) for d in decoded]
    ids = [f"r{index}-{i:06d}" for i in attempts]
    return StructureSet(
        ids=np.asarray(ids, dtype=np.str_),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        numbers=np.concatenate([d.numbers for d in decoded]).astype(np.uint8),
        frac_coords=np.concatenate([d.frac_coords for d in decoded]),
        cells=np.stack([d.cell for d in decoded]),
        properties={ATTEMPT: attempts.astype(np.float64), PREDICTED: energies.astype(np.float64)},
        provenance={
            REASON: np.asarray([d.reason for d in decoded], dtype=np.str_),
            SOURCE: np.asarray(["ccdcgan"] * len(ids), dtype=np.str_),
        },
    )


def _numbers(system: str, available: tuple[int, ...]) -> list[int]:
    from ase.data import atomic_numbers, chemical_symbols

    wanted = [atomic_numbers[symbol] for symbol in parse_system(system)]
    missing = [chemical_symbols[z] for z in wanted if z not in available]
    if missing:
        known = ", ".join(chemical_symbols[z] for z in available)
        raise UserError(f"--system {system}: the model knows no {', '.join(missing)}; it knows {known}.")
    return wanted
