"""How fast `voxelize` is beside the published dense way, on one rank and on two, and what it takes of disk and memory.

    python benchmarks/voxelize.py STRUCTURES.h5 [--dense 5] [--rows 10000]

STRUCTURES.h5 is what `voxtal import` writes. Every run is the command itself, from the packed structures to the
finished shards and index; its own clock leaves the start of Python and MPI out. The dense way is CCDCGAN's: every
distance from an atom to all 64^3 (32^3) grid points by ASE's minimum image, for a few evenly spaced structures; it
writes nothing.
"""

from __future__ import annotations

import argparse
import pickle
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
from ase.geometry import get_distances

from voxtal.cli.common import print_table
from voxtal.config import build_config
from voxtal.data.dataset import DensityDataset, VoxelDataset
from voxtal.data.layouts import SITES
from voxtal.data.shards import summarize_shard
from voxtal.data.voxelize import index_arrays, write_index
from voxtal.parallel.launch import local_environment, mpirun
from voxtal.structures.structure_set import StructureSet

SIGMA, CUT, BOX = 0.26, 0.02, 15.0


def dense_structure(numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray) -> int:
    """Sites and lattice voxels as published; how many are not zero."""
    cart = frac_coords @ cell
    cart += BOX / 2 - cart.mean(axis=0)
    images: dict[int, np.ndarray] = {}
    for number, position in zip(numbers.tolist(), cart, strict=True):
        image = images.setdefault(number, np.zeros((64,) * 3))
        image += dense_gaussian(position, np.eye(3) * BOX, 64)
    lattice = dense_gaussian(np.full(3, 0.5) @ cell, cell, 32)
    return int(sum(np.count_nonzero(image) for image in [*images.values(), lattice]))


def dense_gaussian(position: np.ndarray, cell: np.ndarray, size: int) -> np.ndarray:
    axis = np.arange(size) / size
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3) @ cell
    _, distances = get_distances(position[None], grid, cell=cell, pbc=True)
    values = np.exp(distances[0] ** 2 / (-2 * SIGMA**2))
    return np.where(values >= CUT, values, 0).reshape((size,) * 3)


def run(structures: Path, folder: Path, ranks: int, *options: str) -> tuple[float, float]:
    """Structures per second by the command's own clock, and the largest resident memory of a rank, MB."""
    program = (
        "import resource, sys\n"
        "from voxtal.cli.voxelize import main\n"
        "try: main()\n"
        "finally: sys.__stderr__.write(f'peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\\n')\n"
    )
    launcher = [mpirun() or "mpirun", "-n", str(ranks)] if ranks > 1 else []
    command = [*launcher, sys.executable, "-c", program, str(structures), "-o", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=local_environment(), check=True)
    peaks = [int(peak) for peak in re.findall(r"^peak (\d+)$", done.stderr, re.MULTILINE)]
    return float(re.findall(r"([\d.]+) structures/s", done.stdout)[0]), max(peaks) / 1024


def bytes_needed(folder: Path, density: bool) -> tuple[float, float]:
    """Bytes per structure on disk, and what the non-zero voxels alone need as index and value."""
    dataset = DensityDataset(folder) if density else VoxelDataset(folder)
    disk = sum(path.stat().st_size for path in folder.glob("*.h5"))
    needed = 0
    for path in sorted(folder.glob("shard-*.h5")):
        with h5py.File(path, "r") as file:
            for group in ("species",) if density else ("sites", "lattice"):
                needed += sum(file[group][name].nbytes for name in file[group] if name != "offsets")
            if density:
                needed += np.count_nonzero(file["density"][()]) * file["density"].dtype.itemsize
    return disk / dataset.n_structures, needed / dataset.n_structures


def index_cost(folder: Path, preset: str) -> tuple[int, float, float]:
    """Structures of an index over the shards in ``folder`` repeated, seconds to make it, bytes gathered for each."""
    one = [summarize_shard(path, SITES) for path in sorted(folder.glob("shard-*.h5"))]
    rows = sum(len(summary.tables["rows"]) for summary in one)
    many = one * -(-1_000_000 // rows)
    gathered = len(pickle.dumps(many[: len(one)])) / rows
    started = time.perf_counter()
    write_index(folder / "many.h5", index_arrays(many), build_config({"preset": preset}).voxels)
    return rows * (len(many) // len(one)), time.perf_counter() - started, gathered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("--dense", type=int, default=5, help="structures for the dense way")
    parser.add_argument("--rows", type=int, default=10_000, help="rows of the set, repeated if it has fewer")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind; the fastest counts")
    arguments = parser.parse_args()
    whole = StructureSet.read(arguments.structures)
    sample = np.linspace(0, len(whole) - 1, arguments.dense).astype(int)
    started = time.perf_counter()
    for i in sample:
        dense_structure(*whole.arrays(int(i)))
    dense_seconds = (time.perf_counter() - started) / len(sample)
    with tempfile.TemporaryDirectory() as scratch:
        structures = Path(scratch) / "structures.h5"
        rows = np.arange(arguments.rows) % len(whole)
        ids = np.array([f"{whole.ids[row]}-{k}" for k, row in enumerate(rows)])
        subset = whole.subset(rows)
        StructureSet(ids, subset.offsets, subset.numbers, subset.frac_coords, subset.cells).write(structures)
        speed, size = [], []
        for name, density, options in (
            ("sites and lattice, paper", False, ("--set", "preset=paper")),
            ("sites and lattice, laptop", False, ()),
            ("density and species, paper", True, ("--representation", "density", "--set", "preset=paper")),
            ("density and species, laptop", True, ("--representation", "density")),
        ):
            rates: dict[int, list[float]] = {1: [], 2: []}
            for repeat in range(arguments.repeats):
                for ranks in (1, 2):
                    folder = Path(scratch) / f"{name}-{repeat}-{ranks}"
                    rate, peak = run(structures, folder, ranks, *options)
                    rates[ranks].append(rate)
            disk, needed = bytes_needed(folder, density)
            if name == "sites and lattice, paper":
                structures_of_index, seconds, gathered = index_cost(folder, "paper")
            one, two = max(rates[1]), max(rates[2])
            ratio = f"{one * dense_seconds:,.0f}" if name == "sites and lattice, paper" else "-"
            speed.append((name, f"{one:,.0f}", f"{two:,.0f}", f"{two / one:.2f}", ratio))
            size.append((name, f"{disk:,.0f}", f"{disk / needed:.3f}", f"{peak:.0f}"))
    dense = f"dense way: {dense_seconds:.2f} s a structure, n = {len(sample)}"
    print_table(
        f"Structures per second, {arguments.rows} rows ({dense})",
        ("voxels", "1 rank", "2 ranks", "2 ranks / 1", "1 rank / dense"),
        speed,
    )
    columns = ("voxels", "bytes a structure", "/ bytes of the non-zero voxels", "largest rank, MB")
    print_table("Size, and resident memory of a rank with its shard", columns, size)
    print(
        f"Rank 0 makes the index of {structures_of_index:,} structures (paper grid) in {seconds:.2f} s, "
        f"from {gathered:.0f} bytes a structure that the ranks send."
    )


if __name__ == "__main__":
    main()
