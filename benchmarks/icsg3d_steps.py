"""How fast ICSG3D's parts are, each beside the published way: maps, training steps, sites of maps, atom graphs.

    python benchmarks/icsg3d_steps.py STRUCTURES.h5 [--device cuda] [--rows 40] [--rounds 1] [--only maps decoding]
    python benchmarks/icsg3d_steps.py STRUCTURES.h5 --run RUN --only samples      # 1,000 of trained networks

Maps, structures a second: density, species and coordinates from the structure to files that training reads. Published:
distances of all voxels to all sites at once, but loops over voxels and sites for the species, and three dense .npy
files; voxtal: shards.

Training steps, three ways, in turns, so that other work on the machine meets all alike:

- published: the published network and batch (10, 20); each map and each of its ten turns read dense from .npy files of
  its own (density, species and coordinates, as the authors' code has them on disk); species as one-hot vectors of 95
  classes at every voxel; float32, the default memory format, Adam without a fused kernel;
- published network, voxtal: preset `paper`, that is the same network, batch and loss, from shards, turned by permuting
  axes, logits of the species only where the loss has a weight, channels last, fused optimizer;
- voxtal: preset `laptop`.

The published VAE's step has the UNet's features in it, of an untrained UNet, whose values cost nothing; that of
`laptop` has none (alpha 0). Structures are the first rows of the set. On the CPU one thread, and seconds of the
processor, so that a second job on the machine counts little; on a GPU seconds of the clock.

Decoding: 1,000 samples on two processes, seconds of the clock, and seconds of a processor for each. Without a run the
samples are true maps, with 2% of noise and as many voxels mislabelled, as a good network leaves them: sites alone.
With RUN they are drawn from its VAE: everything from the code to the checked crystal. Published: its maps, the UNet's
labels and the watershed.

Atom graphs for CGCNN: the first table of benchmarks/cgcnn.py.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cgcnn import PADDED, graph_rates
from scipy.spatial.distance import cdist
from torch import Tensor
from train import Timed

from voxtal.cli.common import open_run, pick_round, print_table
from voxtal.config import Config, build_config
from voxtal.data.dataset import DensityDataset
from voxtal.data.voxelize import voxelize
from voxtal.generation.map_decoding import MapDecoder
from voxtal.generation.vae_codes import decode_codes
from voxtal.parallel.communicator import SerialCommunicator
from voxtal.parallel.data_parallel import DataParallel
from voxtal.representations.density import DensityGrid, coordinate_grid, encode_density, placed_sites
from voxtal.representations.density_decoding import decode_density
from voxtal.representations.ionic_radii import ionic_radii
from voxtal.representations.reasons import Undecodable
from voxtal.representations.watershed import decode_watershed
from voxtal.screening.icsg3d_models import MapModels
from voxtal.structures.conditions import Condition
from voxtal.structures.structure_set import StructureSet
from voxtal.training.density_data import MapBatch, TurnedMaps
from voxtal.training.device import Arithmetic
from voxtal.training.losses import binary_map_loss
from voxtal.training.unet_task import UNetTask
from voxtal.training.unet_task import sizes_of as unet_sizes
from voxtal.training.vae_task import IonsVAETask, VAETask, sizes_of

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
    sizes = unet_sizes(config.preset, size, dataset, dataset.species_counts(rows))
    name = f"{config.preset}-unet"
    return kind(name, sizes, size, 1000, dataset, rows, NOTHING, arithmetic, DataParallel(), 0)


def vae_task(config: Config, dataset: DensityDataset, arithmetic: Arithmetic) -> VAETask:
    size, rows = config.train.vae, np.arange(dataset.n_structures)
    values = {"formation_energy": np.random.default_rng(0).normal(size=len(rows))}
    condition = Condition.of(values, rows, size.continuous_condition)
    teacher = unet_task(UNetTask, config, dataset, arithmetic).network if size.alpha else None
    name = f"{config.preset}-vae"
    sizes = sizes_of(name, size, dataset, rows, condition.width, dataset.folder)
    vectors = condition.encode(values)
    kind = VAETask if config.preset == "paper" else IonsVAETask
    return kind(
        name, sizes, size, 1000, dataset, rows, NOTHING, condition, vectors, teacher, arithmetic, DataParallel(), 0
    )


def as_published(task: Any, folder: Path) -> Any:
    """The task without what voxtal does to be fast."""
    task.training = DenseFiles(folder, task.training)
    teacher = [task.unet] if getattr(task, "unet", None) is not None else []
    for module in (*task.modules.values(), *teacher):
        module.to(memory_format=torch.contiguous_format)
    for group in task.optimizer.param_groups:
        group["fused"] = None
    return task


def prepared(structures: Path, folder: Path, rows: int, preset: str, device: str) -> tuple[Config, DensityDataset]:
    config = build_config({"preset": preset, "train": {"device": device}})
    subset = folder / f"{preset}.h5"
    StructureSet.read(structures, 0, rows).write(subset)
    voxelize(subset, folder / preset, config.density, SerialCommunicator())
    return config, DensityDataset(folder / preset)


def published_maps(numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray, grid: DensityGrid) -> Any:
    """Density and species (N, N, N) float64, in right-angled cells, one voxel and one site after another."""
    sites, box_cell = placed_sites(frac_coords, cell, grid)
    radii = ionic_radii(numbers)
    edges = np.linalg.norm(box_cell, axis=1)
    centres = np.stack(np.meshgrid(*[grid.centres] * 3, indexing="ij"), axis=-1).reshape(-1, 3) * edges
    distances = cdist(centres, sites * edges)
    inside = np.zeros(distances.shape)
    for voxel, row in enumerate(distances):
        for site, distance in enumerate(row):
            if distance < radii[site]:
                if inside[voxel].any():
                    inside[voxel] = 0
                    inside[voxel, np.argmin(row)] = 1
                else:
                    inside[voxel, site] = 1
    density = np.exp(-(distances**2) / (2 * radii**2)) @ (numbers / radii**3) / (2 * np.pi) ** 1.5
    return density.reshape([grid.size] * 3), (inside @ numbers).reshape([grid.size] * 3)


def map_rates(structures: StructureSet, folder: Path, config: Config, seconds: float) -> list[tuple[object, ...]]:
    """Structures per second of the processor, published and ours."""
    folder.mkdir()
    grid, n = DensityGrid.of(config.density), len(structures)
    first = [structures.arrays(i) for i in range(n)]
    density, species = published_maps(*first[0], grid)
    ours = encode_density(*first[0], grid)
    assert np.abs(density - ours.density).max() < 1e-4 * density.max()
    assert (species != ours.species).mean() < 0.01
    done, began = 0, time.process_time()
    while not done or time.process_time() - began < seconds:
        maps = published_maps(*first[done % n], grid)
        for name, values in (("density", maps[0]), ("species", maps[1])):
            np.save(folder / f"{name}-{done}.npy", values)
        np.save(folder / f"coordinates-{done}.npy", coordinate_grid(first[done % n][2], grid).astype(np.float64))
        done += 1
    published = done / (time.process_time() - began)
    given = folder / "given.h5"
    structures.write(given)
    done, began = 0, time.process_time()
    while not done or time.process_time() - began < seconds:
        voxelize(given, folder / f"shards-{done}", config.density, SerialCommunicator())
        done += n
    rate = done / (time.process_time() - began)
    return [(f"{published:.2f}", f"{rate:,.0f}", f"{rate / published:,.0f}")]


Maps = tuple[np.ndarray, np.ndarray, np.ndarray]


def noisy_maps(structures: StructureSet, n: int, grid: DensityGrid, noise: float) -> list[Maps]:
    """Density, species and cell of ``n`` samples, structures in turn, each with its own noise."""
    out, rng = [], np.random.default_rng(0)
    for k in range(n):
        maps = encode_density(*structures.arrays(k % len(structures)), grid)
        normal = rng.normal(0, noise * maps.density.max(), maps.density.shape)
        wrong = rng.random(maps.species.shape) < noise
        present = np.append(np.unique(maps.species), 0)
        species = np.where(wrong, rng.choice(present, maps.species.shape), maps.species).astype(np.uint8)
        out.append((maps.density + normal.astype(np.float32), species, maps.cell))
    return out


def sites_of(job: tuple[Maps, DensityGrid, bool]) -> float:
    """Seconds of the processor for one sample."""
    (density, species, cell), grid, published = job
    began = time.process_time()
    try:
        if published:
            decode_watershed(species, species != 0, cell, grid)
        else:
            decode_density(density, species, cell, grid)
    except Undecodable:
        pass
    return time.process_time() - began


def samples_of(job: tuple[Path, int, int, bool]) -> float:
    """Seconds of the processor for some samples of a run's networks, from code to crystal."""
    root, seed, n, published = job
    models = _models_of(root)
    began = time.process_time()
    rng = np.random.default_rng(seed)
    rows = rng.choice(models.known(np.arange(models.dataset.n_structures)), n)
    assert models.vae is not None, "RUN has no VAE"
    codes = torch.from_numpy(rng.standard_normal((n, models.vae.latent)).astype(np.float32))
    codes, conditions = codes.to(models.arithmetic.device), models.conditions(rows)
    decoder = MapDecoder(models.unet, models.grid, published, drawn=True)
    if published:
        decoder.decode(models.decoded(codes, conditions))
    else:
        decode_codes(models.vae, decoder, codes, conditions)
    return time.process_time() - began


_OPENED: dict[Path, MapModels] = {}


def _models_of(root: Path) -> MapModels:
    if root not in _OPENED:
        torch.set_num_threads(1)
        run = open_run(root)
        _OPENED[root] = MapModels.of(run, pick_round(run, None))
    return _OPENED[root]


def on_two_processes(work: Callable[[Any], float], jobs: list[list[Any]], warm: list[Any]) -> list[tuple[float, float]]:
    """Seconds of the clock and of processors for each list of jobs; ``warm`` is done first and not counted."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(work, warm, chunksize=1)
        out = []
        for each in jobs:
            began = time.perf_counter()
            seconds = sum(pool.imap_unordered(work, each))
            out.append((time.perf_counter() - began, seconds))
    return out


def decoding_rows(found: list[tuple[float, float]], n: int) -> list[tuple[object, ...]]:
    names = ("published watershed", "voxtal")
    return [
        (name, f"{clock:.1f}", f"{1000 * seconds / n:.1f}", f"{found[0][1] / seconds:.1f}")
        for name, (clock, seconds) in zip(names, found, strict=True)
    ]


def step_rows(arguments: argparse.Namespace, folder: Path) -> list[tuple[object, ...]]:
    """Samples per second of training steps."""
    table: list[tuple[object, ...]] = []
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
    return table


PARTS = ("maps", "steps", "decoding", "samples", "graphs")
NOISE = 0.02
AT_ONCE = 20
"""Samples of a job of trained networks."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--models", nargs="+", choices=("unet", "vae"), default=("unet", "vae"))
    parser.add_argument("--run", type=Path, help="whose networks make the samples of --only samples")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--only", nargs="+", choices=PARTS, help="all, if not given; samples needs --run")
    arguments = parser.parse_args()
    parts = arguments.only or [part for part in PARTS if part != "samples" or arguments.run]
    if "samples" in parts and not arguments.run:
        parser.error("--only samples needs --run RUN")
    torch.set_num_threads(1)
    structures, n = StructureSet.read(arguments.structures, 0, arguments.rows), arguments.samples
    config = build_config({"preset": "laptop"})
    grid = DensityGrid.of(config.density)
    timed = ("way", "s on two processes", "ms of a processor a sample", "faster")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if "maps" in parts:
            found = map_rates(structures, folder / "maps", config, arguments.seconds)
            print_table("Maps to files, structures/s of a processor", ("published", "voxtal", "/ published"), found)
        if "steps" in parts:
            print_table(
                f"Training steps on {arguments.device}, samples per second and their ratio to the published way",
                ("model", "published", "its network, voxtal", "voxtal", "/ (its network)", "/ (voxtal)"),
                step_rows(arguments, folder),
            )
        if "decoding" in parts:
            maps = noisy_maps(structures, n, grid, NOISE)
            ways = [[(one, grid, published) for one in maps] for published in (True, False)]
            rows = decoding_rows(on_two_processes(sites_of, ways, [way[0] for way in ways] * 2), n)
            print_table(f"Sites of {n} maps with {NOISE:.0%} of noise", timed, rows)
        if "samples" in parts:
            jobs = [(arguments.run, seed, min(AT_ONCE, n - seed)) for seed in range(0, n, AT_ONCE)]
            ways = [[(*job, published) for job in jobs] for published in (True, False)]
            rows = decoding_rows(on_two_processes(samples_of, ways, [(arguments.run, 0, 1, True)] * 4), n)
            print_table(f"{n} samples of {arguments.run}, code to crystal", timed, rows)
        if "graphs" in parts:
            fits = structures.subset(np.flatnonzero(np.diff(structures.offsets) <= PADDED))
            (folder / "cifs").mkdir()
            rates = graph_rates(fits, folder / "cifs", arguments.seconds)
            print_table("Atom graphs", ("way", "structures/s", "/ published"), rates)


if __name__ == "__main__":
    main()
