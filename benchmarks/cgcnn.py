"""Property networks of ICSG3D: atom graphs, training steps and errors, beside the published way.

    python benchmarks/cgcnn.py RUN_OR_STRUCTURES.h5 [--steps 2000] [--properties band_gap] [--only speed]

Three tables. Seconds are of the processor, of one thread, so that a second job on the machine counts little.

- Atom graphs, structures a second. Published: each structure's CIF is parsed, pymatgen lists all neighbours within 8 A,
  Python sorts them, the first 12 are expanded to Gaussians and padded to 50 atoms.
- Training steps, structures a second. Published: a batch is put together structure by structure, each from a file, and
  the network computes on 50 atoms for each crystal; in PyTorch and with the same weights, as the preset `paper`.
- Errors on held-out structures, beside the mean and a ridge regression on the composition. Of a run, those of the
  networks that it has trained. Of a file, of networks that are trained here, on 80% of the structures; 10% choose the
  best weights and 10% are held out, all structures of one reduced formula on one side.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.neighborlist import primitive_neighbor_list
from pymatgen.core import Structure
from torch import Tensor
from torch.nn import functional as F

from voxtal.cli.common import open_run, pick_round, print_table, progress
from voxtal.config import build_config
from voxtal.generation.properties import load_property_networks, predict_properties, trained_properties
from voxtal.models.atom_graphs import atom_graphs
from voxtal.models.cgcnn import BEYOND, published_features
from voxtal.parallel.data_parallel import DataParallel
from voxtal.representations.neighbours import LIMIT, NEAREST, neighbours
from voxtal.runs import Run
from voxtal.screening.metrics import regression
from voxtal.structures.splits import HELDOUT, in_split, training_rows, with_split
from voxtal.structures.structure_set import FORMATION_ENERGY, StructureSet
from voxtal.training.cgcnn_task import CGCNNTask
from voxtal.training.device import Arithmetic
from voxtal.training.stages import train_model

PUBLISHED_MAE = {"formation_energy": "0.102", "energy_per_atom": "0.114", "band_gap": "0.299"}
"""Table 1 of doi:10.1021/acs.jcim.0c00464: on other structures, split at random."""
PADDED = 50
"""Atoms that every crystal has room for, as published."""
PRESETS = ("paper", "laptop")
RIDGE = 1.0

Padded = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Published form of a crystal: atoms' features (50, 93), bonds' (50, 12, 41), neighbours (50, 12)."""


def published_graph(structure: Any, table: np.ndarray) -> Padded:
    """As the published code makes it, but for its mask."""
    atoms, bonds = np.zeros((PADDED, table.shape[1]), np.float32), np.zeros((PADDED, NEAREST, 41), np.float32)
    others = np.full((PADDED, NEAREST), PADDED - 1)
    centres = np.arange(0, LIMIT + 0.1, 0.2)
    for i, near in enumerate(structure.get_all_neighbors(LIMIT)):
        nearest = sorted(near, key=lambda neighbour: neighbour.nn_distance)[:NEAREST]
        distances = np.array([neighbour.nn_distance for neighbour in nearest] + [9.0] * (NEAREST - len(nearest)))
        atoms[i] = table[structure[i].specie.Z]
        bonds[i] = np.exp(-(((distances[:, None] - centres) / 0.2) ** 2))
        others[i] = [neighbour.index for neighbour in nearest] + [0] * (NEAREST - len(nearest))
    return atoms, bonds, others


def published_outputs(network: Any, atoms: Tensor, bonds: Tensor, others: Tensor) -> Tensor:
    """The published network on padded crystals, with the weights of the preset ``paper``'s."""
    convolution = network.body.convolutions[0]
    there = atoms.any(2, keepdim=True)
    x = network.body.linear(atoms)
    neighbours_of = torch.stack([some[places] for some, places in zip(x, others, strict=True)])
    z = torch.cat([x[:, :, None].expand_as(neighbours_of), neighbours_of, bonds], dim=3)
    weight = torch.cat([convolution.centre.weight, convolution.other.weight, convolution.edge.weight], dim=1)
    gate, core = (z @ weight.T).chunk(2, dim=3)
    x = (x + (torch.sigmoid(gate + convolution.bias) * F.softplus(core)).sum(2)) * there
    return network.head.dense(x.sum(1) / there.sum(1))[:, 0]


def rate(act: Callable[[int], int], seconds: float) -> float:
    """Structures a second of ``act``, which is told how many were done and returns how many it has done."""
    act(0)
    began, done = time.process_time(), 0
    while time.process_time() - began < seconds:
        done += act(done)
    return done / (time.process_time() - began)


def graph_rates(structures: StructureSet, folder: Path, seconds: float) -> list[tuple[str, str, str]]:
    table, n = published_features().numpy(), len(structures)
    for i in range(n):
        (folder / f"{i}.cif").write_text(structures.structure(i).to(fmt="cif"))

    def from_cif(done: int) -> int:
        published_graph(Structure.from_file(folder / f"{done % n}.cif"), table)
        return 1

    def from_arrays(done: int) -> int:
        published_graph(structures.structure(done % n), table)
        return 1

    def by_ase(done: int) -> int:
        _, frac_coords, cell = structures.arrays(done % n)
        primitive_neighbor_list("ijd", (True,) * 3, cell, frac_coords @ cell, LIMIT)
        return 1

    def ours(beyond: float) -> Callable[[int], int]:
        return lambda _done: len(neighbours(structures, beyond=beyond).offsets) - 1

    ways = {
        "published": from_cif,
        "published, without parsing CIFs": from_arrays,
        "ASE's neighbours, not yet sorted": by_ase,
        "voxtal, the 12 nearest (paper)": ours(1.0),
        "voxtal, whole shells (laptop)": ours(BEYOND["laptop-cgcnn"]),
    }
    rates = [rate(way, seconds) for way in ways.values()]
    return [(name, f"{value:,.0f}", f"{value / rates[0]:,.0f}") for name, value in zip(ways, rates, strict=True)]


def step_rates(structures: StructureSet, folder: Path, seconds: float) -> list[tuple[str, str, str]]:
    table, n = published_features().numpy(), len(structures)
    tasks = {preset: new_task(structures, structures.properties[FORMATION_ENERGY], preset) for preset in PRESETS}
    published = tasks["paper"]
    batch = published.config.batch_size
    for i in range(n):
        np.savez(folder / f"{i}.npz", *published_graph(structures.structure(i), table))

    def of_cif(i: int) -> Padded:
        return published_graph(Structure.from_file(folder / f"{i}.cif"), table)

    def of_file(i: int) -> Padded:
        with np.load(folder / f"{i}.npz") as file:
            return tuple(file.values())  # type: ignore[return-value]

    def outputs(read: Callable[[int], Padded], rows: np.ndarray) -> Tensor:
        arrays = [np.stack(part) for part in zip(*map(read, rows), strict=True)]
        return published_outputs(published.network, *map(torch.from_numpy, arrays))

    def padded(read: Callable[[int], Padded]) -> Callable[[int], int]:
        def step(done: int) -> int:
            rows = np.arange(done, done + batch) % n
            loss = F.mse_loss(outputs(read, rows), published.targets[rows])
            published.optimizer.zero_grad()
            loss.backward()
            published.optimizer.step()
            return batch

        return step

    def ours(task: CGCNNTask) -> Callable[[int], int]:
        def step(done: int) -> int:
            task.step(done // task.config.batch_size, np.random.default_rng(done))
            return task.config.batch_size

        return step

    with torch.no_grad():
        same = published.network(published.graphs.batch(torch.arange(8)))
        difference = (outputs(of_cif, np.arange(8)) - same).abs().median()
        assert difference < 1e-3, difference  # the median: which of equally far neighbours are taken may differ
    ways = {
        "published: CIFs, padded": padded(of_cif),
        "published: one file for each graph, padded": padded(of_file),
        "voxtal, the published network (paper)": ours(published),
        "voxtal, its own network (laptop)": ours(tasks["laptop"]),
    }
    rates = [rate(way, seconds) for way in ways.values()]
    return [(name, f"{value:,.0f}", f"{value / rates[0]:,.0f}") for name, value in zip(ways, rates, strict=True)]


def new_task(structures: StructureSet, targets: np.ndarray, preset: str) -> CGCNNTask:
    config = build_config({"preset": preset, "train": {"device": "cpu"}}).train
    graphs = atom_graphs(structures, BEYOND[f"{preset}-cgcnn"], "cpu")
    nothing = np.empty(0, dtype=np.int64)
    return CGCNNTask(preset, config.cgcnn, graphs, targets, nothing, Arithmetic.of(config), DataParallel(), 0, {})


def composition_ridge(
    structures: StructureSet, targets: np.ndarray, known: np.ndarray, asked: np.ndarray
) -> np.ndarray:
    owner = np.repeat(np.arange(len(structures)), np.diff(structures.offsets))
    shares = np.zeros((len(structures), 119))
    np.add.at(shares, (owner, structures.numbers), 1)
    shares /= shares.sum(1, keepdims=True)
    level = targets[known].mean()
    gram = shares[known].T @ shares[known] + RIDGE * np.eye(119)
    return shares[asked] @ np.linalg.solve(gram, shares[known].T @ (targets[known] - level)) + level


def simple_errors(structures: StructureSet, name: str) -> list[tuple[Any, ...]]:
    targets, every = structures.properties[name], np.arange(len(structures))
    finite = np.isfinite(targets)
    known, asked = (np.flatnonzero(rows & finite) for rows in (training_rows(structures, every), held(structures)))
    mean = np.full(len(asked), targets[known].mean())
    ridge = composition_ridge(structures, targets, known, asked)
    return [
        row(name, way, len(known), targets[asked], predicted)
        for way, predicted in (("mean of the training structures", mean), ("ridge on the composition", ridge))
    ]


def held(structures: StructureSet) -> np.ndarray:
    return in_split(structures, np.arange(len(structures)), HELDOUT)


def row(name: str, way: str, n: int, targets: np.ndarray, predicted: np.ndarray, seconds: float = 0) -> tuple[Any, ...]:
    found = regression(targets, predicted)
    minutes = f"{seconds / 60:.1f}" if seconds else ""
    return name, way, n, found["n"], f"{found['mae']:.4f}", f"{found['r2']:.3f}", minutes, PUBLISHED_MAE.get(name, "")


def trained_errors(run: Run, index: int | None, way: str, seconds: dict[str, float]) -> list[tuple[Any, ...]]:
    """Of every network of a run, on its held-out structures."""
    paths = pick_round(run, index)
    structures = StructureSet.read(paths.structures)
    networks = load_property_networks(paths, trained_properties(paths), "cpu")
    asked = structures.subset(np.flatnonzero(held(structures)))
    predicted = predict_properties(asked, networks, "cpu")
    out = []
    for name, values in predicted.items():
        known = np.isfinite(asked.properties[name])
        trained = training_rows(structures, np.arange(len(structures))) & np.isfinite(structures.properties[name])
        targets = asked.properties[name][known]
        out.append(row(name, way, trained.sum(), targets, values[known], seconds.get(name, 0)))
    return out


def train_all(structures: StructureSet, folder: Path, preset: str, properties: list[str], steps: int | None) -> Any:
    """A run whose networks are trained on the set, and the seconds that each took."""
    own = {"device": "cpu", "cgcnn": {} if steps is None else {"steps": steps}}
    run = Run(folder / preset, build_config({"preset": preset, "train": own}))
    structures.write(run.round(0).structures)
    seconds = {}
    for name in dict.fromkeys((FORMATION_ENERGY, *properties)):
        began = time.process_time()
        train_model(run, run.round(0), "cgcnn" if name == FORMATION_ENERGY else f"cgcnn-{name}", progress)
        seconds[name] = time.process_time() - began
    return run, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="RUN_OR_STRUCTURES.h5")
    parser.add_argument("--round", type=int)
    parser.add_argument("--steps", type=int, help="instead of the presets'")
    parser.add_argument("--properties", nargs="+", default=[FORMATION_ENERGY])
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--only", choices=("speed", "errors"))
    parser.add_argument("--rows", type=int, default=300, help="structures whose speed is measured")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each way")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = open_run(arguments.source) if arguments.source.is_dir() else None
    structures = StructureSet.read(pick_round(run, arguments.round).structures if run else arguments.source)
    if run is None:
        structures = with_split(structures, "composition", 0.1, 0.1, 0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if arguments.only != "errors":
            fits = np.isfinite(structures.properties[FORMATION_ENERGY]) & (np.diff(structures.offsets) <= PADDED)
            some = np.random.default_rng(0).permutation(np.flatnonzero(fits))[: arguments.rows]
            subset = structures.subset(some)
            columns = ("way", "structures/s", "/ published")
            print_table("Atom graphs", columns, graph_rates(subset, folder, arguments.seconds))
            print_table("Training steps", columns, step_rates(subset, folder, arguments.seconds))
        if arguments.only != "speed":
            names = arguments.properties if run is None else trained_properties(pick_round(run, arguments.round))
            errors = [line for name in names for line in simple_errors(structures, name)]
            if run is not None:
                errors += trained_errors(run, arguments.round, run.config.preset, {})
            else:
                for preset in arguments.presets:
                    trained, seconds = train_all(structures, folder, preset, names, arguments.steps)
                    errors += trained_errors(trained, 0, preset, seconds)
            columns = ("property", "prediction", "trained on", "held out", "MAE", "R2", "minutes", "published MAE")
            print_table("Errors on held-out structures", columns, errors)


if __name__ == "__main__":
    main()
