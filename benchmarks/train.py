"""Samples per second of each model's training step, beside the published way.

    python benchmarks/train.py STRUCTURES.h5 [--device cuda] [--models ccdcgan] [--rows 300] [--seconds 2]

Four ways, in turns, so that other work on the machine meets all alike:

- published: the published network, batches of one, each image (or graph) read dense from its own .npy file, float32,
  the default memory format, Adam without a fused kernel;
- published network, voxtal: preset `paper`, that is its batch, sparse voxels made dense on the device, channels last,
  fused optimizer;
- own network, published way: preset `laptop`'s network and loss, the rest as published;
- voxtal: preset `laptop`.

Structures are the first rows of the set. Graphs are random: their values cost nothing. On the CPU one thread, and
seconds of the processor, so that a second job on the machine counts little; on a GPU seconds of the clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voxtal.cli.common import print_table
from voxtal.config import Config, build_config
from voxtal.data.dataset import VoxelDataset
from voxtal.data.voxelize import voxelize
from voxtal.parallel.communicator import SerialCommunicator
from voxtal.parallel.data_parallel import DataParallel
from voxtal.representations.crystal_graph import PAPER_ELEMENTS, GraphLayout
from voxtal.structures.structure_set import StructureSet
from voxtal.training.autoencoder_data import data_of
from voxtal.training.autoencoder_task import AutoencoderTask
from voxtal.training.constraint_task import ConstraintTask
from voxtal.training.device import Arithmetic
from voxtal.training.gan_task import GANTask

MODELS = ("lattice-ae", "sites-ae", "constraint", "ccdcgan")
FILES = 200
"""At most so many dense files are written."""
GRAPHS = 400
ROUNDS = 3


class DenseFiles:
    """Images or graphs, each in a .npy file of its own, read as the published code does."""

    def __init__(self, folder: Path, dense: torch.Tensor, n: int, device: torch.device) -> None:
        folder.mkdir()
        self.folder, self.n, self.device, self.files = folder, n, device, len(dense)
        for i, image in enumerate(dense.cpu().numpy()):
            np.save(folder / f"{i}.npy", image)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, rows: np.ndarray) -> torch.Tensor:
        images = [np.load(self.folder / f"{row % self.files}.npy") for row in rows]
        return torch.from_numpy(np.stack(images)).to(self.device)


VOXELS = {
    "lattice_ae": {"network": "voxels", "width": 16, "batch_size": 32},
    "sites_ae": {"network": "voxels", "width": 32, "batch_size": 32},
}
"""Autoencoders of voxels in the preset ``laptop``: its own, of atoms, have no published counterpart."""


def prepared(structures: Path, folder: Path, rows: int, preset: str, device: str) -> tuple[Config, VoxelDataset]:
    """The preset's configuration, and voxels of the first ``rows`` structures."""
    config = build_config({"preset": preset, "train": {"device": device, **(VOXELS if preset == "laptop" else {})}})
    subset = folder / f"{preset}.h5"
    StructureSet.read(structures, 0, rows).write(subset)
    voxelize(subset, folder / preset, config.voxels, SerialCommunicator())
    return config, VoxelDataset(folder / preset)


def random_graphs(layout: GraphLayout) -> np.ndarray:
    """Graphs of two or three elements each, as most crystals have."""
    rng = np.random.default_rng(0)
    present = rng.permuted(
        np.arange(GRAPHS * len(layout.elements)).reshape(GRAPHS, -1) % len(layout.elements) < 3, axis=1
    )
    lattice = rng.standard_normal((GRAPHS, layout.lattice_latent))
    sites = rng.standard_normal((GRAPHS, len(layout.elements), layout.sites_latent)) * present[..., None]
    return layout.pack(np.tanh(2 * lattice), np.tanh(2 * sites))


def make_task(model: str, config: Config, dataset: VoxelDataset, batch: int, parallel: DataParallel) -> Any:
    """What ``voxtal train`` would train, with another batch size."""
    arithmetic = Arithmetic.of(config.train, parallel.local_rank)
    size = getattr(config.train, model.replace("-", "_")).model_copy(update={"batch_size": batch})
    if model.endswith("-ae"):
        kind = model.removesuffix("-ae")
        n = dataset.n_images if kind == "sites" else dataset.n_structures
        sizes = {"grid": getattr(config.voxels, f"{kind}_grid"), "width": size.width, "latent": size.latent}
        name = f"{config.preset}-{model}"
        data = data_of(name, dataset, 0, arithmetic)
        task: Any = AutoencoderTask(name, sizes, size, size.steps, data, np.arange(n), arithmetic, parallel, 0)
    else:
        elements = PAPER_ELEMENTS if config.preset == "paper" else tuple(np.unique(dataset.image_numbers).tolist())
        layout = GraphLayout(elements, config.train.lattice_ae.latent, config.train.sites_ae.latent)
        graphs = random_graphs(layout)
        targets = np.random.default_rng(0).standard_normal(GRAPHS)
        constraint = ConstraintTask(
            f"{config.preset}-constraint",
            config.train.constraint.model_copy(update={"batch_size": batch}),
            layout,
            0.1,
            graphs,
            targets,
            arithmetic,
            parallel,
            0,
        )
        if model == "constraint":
            return constraint
        constraints = {objective.property: constraint.network for objective in size.objectives}
        task = GANTask(config.preset, size, graphs, constraints, arithmetic, parallel, 0)
    return task


def published_way(model: str, config: Config, dataset: VoxelDataset, folder: Path) -> Any:
    """The same networks and losses without what voxtal does to be fast."""
    plain = config.model_copy(update={"train": config.train.model_copy(update={"precision": "float32"})})
    task = make_task(model, plain, dataset, 1, DataParallel())
    constraints = task.constraints.values() if model == "ccdcgan" else []
    for module in [*task.modules.values(), *constraints]:
        module.to(memory_format=torch.contiguous_format)
    for optimizer in task.optimizers.values():
        for group in optimizer.param_groups:
            group["fused"] = None
    if model.endswith("-ae"):
        rows = len(task.rows)
        dense = torch.cat([task.data.read(np.array([row])) for row in range(min(FILES, rows))])
        task.data = replace(task.data, read=DenseFiles(folder, dense, rows, dense.device).__getitem__)
    else:
        task.graphs = DenseFiles(folder, task.graphs[:FILES], len(task.graphs), task.graphs.device)
    return task


class Timed:
    """A task that goes on with its steps, and samples per second of each round."""

    def __init__(self, task: Any) -> None:
        self.task, self.batch, self.index = task, task.config.batch_size, 0
        self.rates: list[float] = []
        task.parallel.prepare(task.modules.values(), task.optimizers.values())
        self.cuda = next(next(iter(task.modules.values())).parameters()).is_cuda
        for _ in range(2):
            self._step()

    def go_on(self, seconds: float) -> None:
        began, done = self._now(), 0
        while not done or self._now() - began < seconds:
            self._step()
            done += 1
        self.rates.append(done * self.batch / (self._now() - began))

    def _step(self) -> None:
        torch.manual_seed(self.index)
        self.task.step(self.index, np.random.default_rng(self.index))
        self.index += 1

    def _now(self) -> float:
        if not self.cuda:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    @property
    def rate(self) -> float:
        return float(np.median(self.rates))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    with tempfile.TemporaryDirectory() as scratch:
        presets = [
            prepared(arguments.structures, Path(scratch), arguments.rows, preset, arguments.device)
            for preset in ("paper", "laptop")
        ]
        for model in arguments.models:
            ways = []
            for config, dataset in presets:
                folder = Path(scratch) / f"{config.preset}-{model}"
                batch = getattr(config.train, model.replace("-", "_")).batch_size
                ways.append(Timed(published_way(model, config, dataset, folder)))
                ways.append(Timed(make_task(model, config, dataset, batch, DataParallel())))
            for _ in range(ROUNDS):
                for way in ways:
                    way.go_on(arguments.seconds)
            published, engine, network, both = (way.rate for way in ways)
            ratios = [f"{rate / published:.1f}" for rate in (engine, network, both)]
            rates = [f"{rate:,.1f}" for rate in (published, engine, network, both)]
            table.append((model, *rates, *ratios))
            print(*table[-1], flush=True)
    print_table(
        f"Training steps on {arguments.device}, samples per second and their ratio to the published way",
        (
            "model",
            "published",
            "its network",
            "our network",
            "voxtal",
            "/ (its network)",
            "/ (our network)",
            "/ (voxtal)",
        ),
        table,
    )


if __name__ == "__main__":
    main()
