"""Samples per second of a UNet step and a VAE step of ICSG3D, beside the published way.

    python benchmarks/icsg3d_steps.py STRUCTURES.h5 [--device cuda] [--rows 40] [--rounds 1]

Three ways, in turns, so that other work on the machine meets all alike:

- published: the published network and batch (10, 20); each map and each of its ten turns read dense from .npy files of
  its own (density, species and coordinates, as the authors' code has them on disk); species as one-hot vectors of 95
  classes at every voxel; float32, the default memory format, Adam without a fused kernel;
- published network, voxtal: preset `paper`, that is the same network, batch and loss, from shards, turned by permuting
  axes, logits of the species only where the loss has a weight, channels last, fused optimizer;
- voxtal: preset `laptop`.

The VAE's step has the UNet's features in it (alpha above 0), of an untrained UNet of the same preset, whose values cost
nothing. Structures are the first rows of the set, in right-angled cells. On the CPU one thread, and seconds of the
processor, so that a second job on the machine counts little; on a GPU seconds of the clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voxtal.cli.common import print_table
from voxtal.config import Config, build_config
from voxtal.data.dataset import DensityDataset
from voxtal.data.voxelize import voxelize
from voxtal.parallel.communicator import SerialCommunicator
from voxtal.parallel.data_parallel import DataParallel
from voxtal.structures.conditions import Condition
from voxtal.structures.structure_set import StructureSet
from voxtal.training.density_data import MapBatch, TurnedMaps
from voxtal.training.device import Arithmetic
from voxtal.training.losses import binary_map_loss
from voxtal.training.unet_task import UNetTask, unet_elements
from voxtal.training.vae_task import VAETask, sizes_of

NOTHING = np.empty(0, dtype=np.int64)


class DenseFiles:
    """Maps as the published code has them: three dense .npy files for each structure and each of its turns."""

    def __init__(self, folder: Path, maps: TurnedMaps) -> None:
        folder.mkdir()
        self.folder, self.n, self.rotations, self.rows, self.device = (
            folder,
            len(maps),
            maps.rotations,
            maps.rows,
            maps.device,
        )
        for k in range(len(maps)):
            batch = maps.batch(np.array([k]))
            np.save(folder / f"density-{k}.npy", batch.maps[0, 0].cpu().numpy().astype(np.float64))
            np.save(folder / f"coordinates-{k}.npy", batch.maps[0, 1:].movedim(0, -1).cpu().numpy().astype(np.float64))
            np.save(folder / f"species-{k}.npy", batch.species[0].cpu().numpy().astype(np.float64))

    def __len__(self) -> int:
        return self.n

    def batch(self, chosen: np.ndarray) -> MapBatch:
        parts = []
        for k in chosen.tolist():
            density, grid = (np.load(self.folder / f"{name}-{k}.npy") for name in ("density", "coordinates"))
            parts.append(np.concatenate([density[..., None], grid], axis=-1))
        maps = torch.from_numpy(np.stack(parts)).to(self.device, torch.float32).movedim(-1, 1).contiguous()
        species = np.stack([np.load(self.folder / f"species-{k}.npy") for k in chosen.tolist()])
        rows = self.rows[chosen // (self.rotations + 1)]
        return MapBatch(rows, maps, torch.from_numpy(species).to(self.device).long())


class PublishedUNetTask(UNetTask):
    """Eq. 7 with one-hot vectors at every voxel."""

    def losses(self, batch: MapBatch) -> dict[str, Tensor]:
        logits, binary = self.network(batch.maps)
        one_hot = torch.nn.functional.one_hot(self.class_of[batch.species], logits.shape[1]).movedim(-1, 1).float()
        log_softmax = torch.log_softmax(logits, dim=1)
        species = -(one_hot * log_softmax * self.weights[:, None, None, None]).sum(dim=1).mean()
        loss = binary_map_loss(binary, batch.species > 0)
        return {"loss": species + loss, "species_loss": species, "binary_loss": loss}


def unet_task(kind: type[UNetTask], config: Config, dataset: DensityDataset, arithmetic: Arithmetic) -> UNetTask:
    size, rows = config.train.unet, np.arange(dataset.n_structures)
    numbers = unet_elements(config.preset, dataset.species_counts(rows), dataset.folder)
    sizes = {"grid": dataset.settings.grid, "numbers": numbers, "width": size.width, "levels": size.levels}
    name = f"{config.preset}-unet"
    return kind(name, sizes, size, 1000, dataset, rows, NOTHING, arithmetic, DataParallel(), 0)


def vae_task(config: Config, dataset: DensityDataset, arithmetic: Arithmetic) -> VAETask:
    size, rows = config.train.vae, np.arange(dataset.n_structures)
    values = {"formation_energy": np.random.default_rng(0).normal(size=len(rows))}
    condition = Condition.of(values, rows, size.continuous_condition)
    teacher = unet_task(UNetTask, config, dataset, arithmetic).network
    name = f"{config.preset}-vae"
    sizes = sizes_of(name, size, dataset, rows, condition.width, dataset.folder)
    vectors = condition.encode(values)
    return VAETask(
        name, sizes, size, 1000, dataset, rows, NOTHING, condition, vectors, teacher, arithmetic, DataParallel(), 0
    )


def as_published(task: Any, folder: Path) -> Any:
    """The task without what voxtal does to be fast."""
    task.training = DenseFiles(folder, task.training)
    teacher = [task.unet] if isinstance(task, VAETask) else []
    for module in (*task.modules.values(), *teacher):
        module.to(memory_format=torch.contiguous_format)
    for group in task.optimizer.param_groups:
        group["fused"] = None
    return task


class Timed:
    """A task that goes on with its steps, and samples per second of each round."""

    def __init__(self, task: Any) -> None:
        self.task, self.index = task, 0
        self.rates: list[float] = []
        self.cuda = task.arithmetic.device.type == "cuda"
        self._step()

    def go_on(self, seconds: float) -> None:
        began, done = self._now(), 0
        while not done or self._now() - began < seconds:
            self._step()
            done += 1
        self.rates.append(done * self.task.config.batch_size / (self._now() - began))

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


def prepared(structures: Path, folder: Path, rows: int, preset: str, device: str) -> tuple[Config, DensityDataset]:
    config = build_config({"preset": preset, "train": {"device": device}})
    subset = folder / f"{preset}.h5"
    StructureSet.read(structures, 0, rows).write(subset)
    voxelize(subset, folder / preset, config.density, SerialCommunicator())
    return config, DensityDataset(folder / preset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--models", nargs="+", choices=("unet", "vae"), default=("unet", "vae"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (paper, maps), (laptop, own_maps) = (
            prepared(arguments.structures, folder, arguments.rows, preset, arguments.device)
            for preset in ("paper", "laptop")
        )
        plain = Arithmetic(torch.device(arguments.device), "float32")
        own = Arithmetic.of(laptop.train)
        for model in arguments.models:
            if model == "unet":
                old, same, new = (
                    unet_task(PublishedUNetTask, paper, maps, plain),
                    unet_task(UNetTask, paper, maps, plain),
                    unet_task(UNetTask, laptop, own_maps, own),
                )
            else:
                old, same = vae_task(paper, maps, plain), vae_task(paper, maps, plain)  # type: ignore[assignment]
                new = vae_task(laptop, own_maps, own)  # type: ignore[assignment]
            ways = [Timed(as_published(old, folder / f"files-{model}")), Timed(same), Timed(new)]
            for _ in range(arguments.rounds):
                for way in ways:
                    way.go_on(arguments.seconds)
            published, *others = (way.rate for way in ways)
            ratios = [f"{rate / published:.1f}" for rate in others]
            table.append((model, *(f"{rate:,.3g}" for rate in (published, *others)), *ratios))
            print(*table[-1], flush=True)
    print_table(
        f"Training steps on {arguments.device}, samples per second and their ratio to the published way",
        ("model", "published", "its network, voxtal", "voxtal", "/ (its network)", "/ (voxtal)"),
        table,
    )


if __name__ == "__main__":
    main()
