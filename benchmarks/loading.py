"""Three ways to feed training with voxels, beside the published one and beside what a training step takes.

    python benchmarks/loading.py STRUCTURES.h5 [--batch 32] [--batches 30] [--device cpu]

Random batches of one kind of image, dense on the device that trains, in images per second of the loading process:

- published: one dense float32 file for each image, read and stacked (CCDCGAN's pickles, ICSG3D's .npy files);
- read: the non-zero voxels from the shards, made dense on the device (what voxtal does);
- regenerate on the CPU: only atoms are read, voxels are computed from them with NumPy, then made dense on the device;
- regenerate on the device: only atoms are read, the device computes the voxels.

The files lie in the page cache. `step` is the preset's training step of the network that eats such images, on the same
device and batch: loading must be faster than that. `kept` is what a way keeps in memory after 30 batches.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from voxtal.cli.common import print_table
from voxtal.config import VoxelsConfig, build_config
from voxtal.data.batches import densify
from voxtal.data.dataset import DensityDataset, SparseBatch, VoxelDataset
from voxtal.data.voxelize import voxelize
from voxtal.parallel.communicator import SerialCommunicator
from voxtal.parallel.data_parallel import DataParallel
from voxtal.representations.density import DensityGrid, render_density, render_species
from voxtal.representations.ionic_radii import ionic_radii
from voxtal.representations.lattice import LatticeGrid, encode_lattices
from voxtal.representations.sites import SitesGrid, encode_sites
from voxtal.training.autoencoder_data import data_of
from voxtal.training.autoencoder_task import AutoencoderTask
from voxtal.training.device import Arithmetic

Load = Callable[[np.ndarray], Tensor]


def regenerated_sites(dataset: VoxelDataset, rows: np.ndarray, grid: SitesGrid, device: str) -> Tensor:
    atoms = dataset.atoms(rows)
    index, values = encode_sites(atoms.positions, atoms.batch_index, grid)
    return densify(_sparse(index, values, len(rows), grid.size), device, torch.float32)


def sites_on_device(dataset: VoxelDataset, rows: np.ndarray, grid: SitesGrid, device: str) -> Tensor:
    atoms = dataset.atoms(rows)
    positions = torch.from_numpy(atoms.positions).to(device)
    image = torch.from_numpy(atoms.batch_index).to(device)
    patch = torch.arange(-grid.reach, grid.reach + 1, device=device)
    points = torch.round(positions / grid.spacing).long()[:, :, None] + patch
    x, y, z = torch.exp((points * grid.spacing - positions[:, :, None]) ** 2 / (-2 * grid.sigma**2)).unbind(1)
    values = x[:, :, None, None] * y[:, None, :, None] * z[:, None, None, :]
    values = torch.where(values >= grid.cutoff, values, 0)
    i, j, k = (points % grid.size).unbind(1)
    planes = (image[:, None, None] * grid.size + i[:, :, None]) * grid.size + j[:, None, :]
    place = planes[:, :, :, None] * grid.size + k[:, None, None, :]
    dense = torch.zeros(len(rows) * grid.size**3, device=device)
    return dense.index_add_(0, place.ravel(), values.ravel()).view(len(rows), 1, *(grid.size,) * 3)


def cells_of(dataset: VoxelDataset | DensityDataset, rows: np.ndarray) -> np.ndarray:
    return np.stack([shard["cells"][i] for shard, i in dataset._located(rows, dataset._first_structure)])


def regenerated_lattices(dataset: VoxelDataset, rows: np.ndarray, grid: LatticeGrid, device: str) -> Tensor:
    index, values = encode_lattices(cells_of(dataset, rows).astype(np.float64), grid)
    return densify(_sparse(index, values, len(rows), grid.size), device, torch.float32)


def lattices_on_device(dataset: VoxelDataset, rows: np.ndarray, grid: LatticeGrid, device: str) -> Tensor:
    """Minimum image over the 27 neighbours: right for the reduced cells of compact placement only."""
    metric = torch.from_numpy(cells_of(dataset, rows)).to(device)
    metric = metric @ metric.mT
    axis = torch.arange(grid.size, device=device) / grid.size - 0.5
    steps = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
    images = torch.cartesian_prod(*[torch.arange(-1, 2, device=device, dtype=torch.float32)] * 3)
    offsets = steps[:, None] - images
    squared = torch.einsum("vki,bij,vkj->bvk", offsets, metric, offsets).amin(dim=2)
    values = torch.exp(squared / (-2 * grid.sigma**2))
    values = torch.where(values >= grid.cutoff, values, 0)
    return values.view(len(rows), 1, *(grid.size,) * 3)


def density_atoms(dataset: DensityDataset, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    located = dataset._located(rows, dataset._first_structure)
    return [(*shard.of("atoms", i, "numbers", "frac_coords"), shard["cells"][i]) for shard, i in located]


def read_density(dataset: DensityDataset, rows: np.ndarray, device: str) -> Tensor:
    """Density and species maps."""
    maps = dataset.maps(rows)
    torch.from_numpy(maps.species).to(device)
    return torch.from_numpy(maps.density[:, None]).to(device)


def regenerated_density(dataset: DensityDataset, rows: np.ndarray, grid: DensityGrid, device: str) -> Tensor:
    """Density and species maps."""
    density, species = [], []
    for numbers, frac, cell in density_atoms(dataset, rows):
        sites = numbers, ionic_radii(numbers), frac.astype(np.float64), cell.astype(np.float64), grid
        density.append(render_density(*sites))
        species.append(render_species(*sites))
    torch.from_numpy(np.stack(species)).to(device)
    return torch.from_numpy(np.stack(density)[:, None]).to(device)


def density_on_device(dataset: DensityDataset, rows: np.ndarray, grid: DensityGrid, device: str) -> Tensor:
    """Density maps alone; the species maps would come on top."""
    parts = density_atoms(dataset, rows)
    counts = [len(numbers) for numbers, _, _ in parts]
    owner = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(counts)).to(device)
    numbers = np.concatenate([part[0] for part in parts])
    radii = torch.from_numpy(ionic_radii(numbers).astype(np.float32)).to(device)
    frac = torch.from_numpy(np.concatenate([part[1] for part in parts])).to(device)
    cells = torch.from_numpy(np.stack([part[2] for part in parts])).to(device)
    centres = torch.from_numpy(grid.centres.astype(np.float32)).to(device)
    axes = (centres - frac[:, :, None])[..., None] * cells[owner][:, :, None, :]
    a, b, c = axes.unbind(1)
    vectors = a[:, :, None, None] + b[:, None, :, None] + c[:, None, None]
    height = torch.from_numpy(numbers.astype(np.float32)).to(device) / ((2 * np.pi) ** 1.5 * radii**3)
    values = height[:, None, None, None] * torch.exp((vectors**2).sum(dim=-1) / (-2 * radii**2)[:, None, None, None])
    dense = torch.zeros(len(rows), *values.shape[1:], device=device)
    return dense.index_add_(0, owner, values)[:, None]


def _sparse(index: np.ndarray, values: np.ndarray, images: int, size: int) -> SparseBatch:
    return SparseBatch(index // size**3, index % size**3, values, (images, size, size, size))


def published(folder: Path, n: int, make: Load, device: str) -> Load:
    """Dense files of the first ``n`` images, and what reads a random batch of them."""
    folder.mkdir()
    for i in range(n):
        np.save(folder / f"{i}.npy", make(np.array([i]))[0, 0].cpu().numpy())
    return lambda rows: torch.from_numpy(np.stack([np.load(folder / f"{row % n}.npy") for row in rows])[:, None]).to(
        device
    )


def images_per_second(load: Load, batches: list[np.ndarray], device: str) -> float:
    """Median over the batches; the first one warms up."""
    seconds = []
    for rows in batches:
        started = time.perf_counter()
        load(rows)
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return len(batches[0]) / float(np.median(seconds[1:]))


def private_megabytes() -> float:
    """Memory of this process alone; pages of the shards belong to the page cache."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024


def step_rate(kind: str, dataset: VoxelDataset, preset: str, batch: int, device: str) -> float:
    """Images per second of the preset's own training steps, loading included."""
    config = build_config({"preset": preset, "train": {"device": device}})
    settings = config.train.sites_ae if kind == "sites" else config.train.lattice_ae
    arithmetic = Arithmetic.of(config.train)
    rows = np.arange(dataset.n_images if kind == "sites" else dataset.n_structures)
    grid = config.voxels.sites_grid if kind == "sites" else config.voxels.lattice_grid
    task = AutoencoderTask(
        f"{preset}-{kind}-ae",
        {
            "grid": grid,
            "width": settings.width if preset == "paper" else {"sites": 32, "lattice": 16}[kind],
            "latent": settings.latent,
        },
        settings.model_copy(update={"batch_size": batch}),
        1000,
        data_of(f"{preset}-{kind}-ae", dataset, 0, arithmetic),
        rows,
        arithmetic,
        DataParallel(),
        0,
    )
    rng, seconds = np.random.default_rng(0), []
    for index in range(4):
        started = time.perf_counter()
        task.step(index, rng)
        seconds.append(time.perf_counter() - started)
    return batch / float(np.median(seconds[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device, batch = arguments.device, arguments.batch
    rng = np.random.default_rng(0)
    table = []
    with tempfile.TemporaryDirectory() as scratch:
        for preset in ("laptop", "paper"):
            config = build_config({"preset": preset})
            folders = {name: Path(scratch) / f"{preset}-{name}" for name in ("sites", "density")}
            voxelize(arguments.structures, folders["sites"], config.voxels, SerialCommunicator())
            voxelize(arguments.structures, folders["density"], config.density, SerialCommunicator())
            voxels, maps = VoxelDataset(folders["sites"]), DensityDataset(folders["density"])
            for kind, n, ways in (
                ("sites", voxels.n_images, _site_ways(voxels, config.voxels, device)),
                ("lattice", voxels.n_structures, _lattice_ways(voxels, config.voxels, device)),
                ("density", maps.n_structures, _density_ways(maps, device)),
            ):
                batches = [rng.integers(0, n, batch) for _ in range(arguments.batches)]
                dense = published(Path(scratch) / f"{preset}-{kind}-dense", min(n, 500), ways["read"], device)
                step = "-" if kind == "density" else f"{step_rate(kind, voxels, preset, batch, device):,.0f}"
                for name, load in {"published": dense, **ways}.items():
                    gc.collect()
                    before = private_megabytes()
                    rate = images_per_second(load, batches, device)
                    table.append((preset, kind, name, f"{rate:,.0f}", step, f"{private_megabytes() - before:.0f}"))
    print_table(
        f"Images per second, batches of {batch}, on {device}",
        ("preset", "image", "way", "loaded/s", "step/s", "kept, MB"),
        table,
    )


def _site_ways(dataset: VoxelDataset, settings: VoxelsConfig, device: str) -> dict[str, Load]:
    grid = SitesGrid.of(settings)
    return {
        "read": lambda rows: densify(dataset.sites_sparse(rows), device, torch.float32),
        "regenerate on the CPU": lambda rows: regenerated_sites(dataset, rows, grid, device),
        "regenerate on the device": lambda rows: sites_on_device(dataset, rows, grid, device),
    }


def _lattice_ways(dataset: VoxelDataset, settings: VoxelsConfig, device: str) -> dict[str, Load]:
    grid = LatticeGrid.of(settings)
    ways: dict[str, Load] = {
        "read": lambda rows: densify(dataset.lattice_sparse(rows), device, torch.float32),
        "regenerate on the CPU": lambda rows: regenerated_lattices(dataset, rows, grid, device),
    }
    if settings.placement == "compact":
        ways["regenerate on the device"] = lambda rows: lattices_on_device(dataset, rows, grid, device)
    return ways


def _density_ways(dataset: DensityDataset, device: str) -> dict[str, Load]:
    grid = DensityGrid.of(dataset.settings)
    return {
        "read": lambda rows: read_density(dataset, rows, device),
        "regenerate on the CPU": lambda rows: regenerated_density(dataset, rows, grid, device),
        "regenerate M alone on the device": lambda rows: density_on_device(dataset, rows, grid, device),
    }


if __name__ == "__main__":
    main()
