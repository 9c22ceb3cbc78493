"""ICSG3D's maps: how fast they are made, and how well crystals come back from them, the published ways beside ours.

    python benchmarks/density.py STRUCTURES.h5 [STRUCTURES.h5 ...] [--structures 100] [--seed 0]

Structures are drawn at random from each set, as listed there. CPU time of one process; set OMP_NUM_THREADS=1.
Reproduction: the share that pymatgen's StructureMatcher at its defaults gives back, out of all that were drawn. Atom
counts and site errors are taken in the maps' own frame: worst is over all sites of all structures with the right atoms.
Noise of s: normal, s times the map's maximum in every voxel, and a share s of voxels labelled as another of the map's
species. The cell is the true one, for the published watershed too, but for the geometry "orthogonal", whose
maps hold no angles: there the angles are 90 degrees.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Lattice, Structure
from scipy.optimize import linear_sum_assignment

from voxtal.cli.common import print_table
from voxtal.representations.density import DensityGrid, DensityMaps, binary_map, encode_density, placed_sites
from voxtal.representations.density_decoding import decode_density
from voxtal.representations.density_seeds import component_sites
from voxtal.representations.ionic_radii import ionic_radii
from voxtal.representations.placement import cell_parameters
from voxtal.representations.reasons import Undecodable
from voxtal.representations.watershed import decode_watershed
from voxtal.structures.matching import Matcher
from voxtal.structures.structure_set import StructureSet

Sites = tuple[np.ndarray, np.ndarray]
NOISE = 0.0, 0.01, 0.05, 0.1
SLOW_STRUCTURES = 3
"""So many are enough for the published encoding, seconds each."""


def slow_encode(numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray, grid: DensityGrid) -> None:
    """Every voxel and every site in loops, as published."""
    sites, box_cell = placed_sites(frac_coords, cell, grid)
    radii = ionic_radii(numbers)
    density, species = np.zeros((grid.size,) * 3), np.zeros((grid.size,) * 3)
    for voxel in np.ndindex(*density.shape):
        distances = np.linalg.norm((grid.centres[list(voxel)] - sites) @ box_cell, axis=1)
        density[voxel] = (numbers / radii**3 * np.exp(-(distances**2) / (2 * radii**2))).sum() / (2 * np.pi) ** 1.5
        for site in np.argsort(distances):
            if distances[site] <= radii[site]:
                species[voxel] = numbers[site]
                break


def per_second(encode: Callable[..., Any], structures: list[Any], grid: DensityGrid, repeats: int) -> float:
    best = np.inf
    for _ in range(repeats):
        began = time.process_time()
        for arrays in structures:
            encode(*arrays, grid)
        best = min(best, time.process_time() - began)
    return len(structures) / best


def noisy(maps: DensityMaps, noise: float, seed: int) -> DensityMaps:
    random = np.random.default_rng(seed)
    density = maps.density + random.normal(0, noise * maps.density.max(), maps.density.shape).astype(np.float32)
    labels, species = np.unique(np.append(maps.species, 0)), maps.species.copy()
    wrong = random.random(species.shape) < noise
    moved = np.searchsorted(labels, species[wrong]) + random.integers(1, len(labels), wrong.sum())
    species[wrong] = labels[moved % len(labels)]
    return DensityMaps(density, species, maps.cell, maps.sites)


def by_watershed(maps: DensityMaps, grid: DensityGrid) -> Sites:
    return decode_watershed(maps.species, binary_map(maps.species), maps.cell, grid)[:2]


def by_components(maps: DensityMaps, grid: DensityGrid) -> Sites:
    return component_sites(maps.species, grid)


def by_fit(maps: DensityMaps, grid: DensityGrid) -> Sites:
    decoded = decode_density(maps.density, maps.species, maps.cell, grid)
    return decoded.numbers, decoded.frac_coords


DECODERS = {"published watershed": by_watershed, "components per species": by_components, "fit (ours)": by_fit}


def squared_errors(found: Sites, numbers: np.ndarray, sites: np.ndarray, cell: np.ndarray) -> np.ndarray | None:
    """Squared distance of each site from its own, none where elements or counts differ."""
    if sorted(found[0].tolist()) != sorted(numbers.tolist()):
        return None
    steps = found[1][:, None] - sites
    steps -= np.rint(steps)
    squared = ((steps @ cell) ** 2).sum(axis=-1) + 1e6 * (found[0][:, None] != numbers)
    return squared[linear_sum_assignment(squared)]


def score(
    structures: list[Any],
    grid: DensityGrid,
    noise: float,
    seed: int,
    decode: Callable[[DensityMaps, DensityGrid], Sites],
) -> tuple[object, ...]:
    """Reproduction, share with the right atoms, mean error of the count, site RMS and worst, and ms a map."""
    matcher = Matcher()
    right, counts, squared, seconds = 0, [], [], 0.0
    for k, (numbers, frac_coords, cell) in enumerate(structures):
        clean = encode_density(numbers, frac_coords, cell, grid)
        maps = noisy(clean, noise, seed + k) if noise else clean
        began = time.process_time()
        try:
            found = decode(maps, grid)
        except Undecodable:
            found = np.empty(0, np.int64), np.empty((0, 3))
        seconds += time.process_time() - began
        counts.append(abs(len(found[0]) - len(numbers)))
        errors = squared_errors(found, numbers, placed_sites(frac_coords, cell, grid)[0], maps.cell)
        if errors is not None:
            squared.append(errors)
        if 0 < len(found[0]) <= 2 * len(numbers):
            original = Structure(Lattice(cell), numbers.tolist(), frac_coords)
            right += matcher.matches(original, Structure(Lattice(maps.cell), found[0].tolist(), found[1]))
    sites = np.sqrt(np.concatenate(squared)) if squared else np.array([np.nan])
    n = len(structures)
    rms = float(np.sqrt(np.mean(sites**2)))
    return (
        f"{right}/{n}",
        f"{len(squared)}/{n}",
        f"{np.mean(counts):.2f}",
        f"{rms:.1e}" if rms < 0.01 else f"{rms:.3f}",
        f"{sites.max():.1e}" if sites.max() < 0.01 else f"{sites.max():.3f}",
        f"{1000 * seconds / n:.1f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, nargs="+", metavar="STRUCTURES.h5")
    parser.add_argument("--structures", type=int, default=100, help="drawn from each set")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    true, orthogonal = DensityGrid(32, 0.25, "true"), DensityGrid(32, 0.25, "orthogonal")
    drawn: dict[str, list[Any]] = {}
    for path in arguments.sets:
        whole = StructureSet.read(path)
        rows = np.random.default_rng(arguments.seed).permutation(len(whole))[: arguments.structures]
        drawn[path.stem] = [whole.arrays(int(row)) for row in rows]
    speeds = []
    for name, structures in drawn.items():
        slow = per_second(slow_encode, structures[:SLOW_STRUCTURES], true, 1)
        for grid in (true, orthogonal):
            ours = per_second(encode_density, structures, grid, 3)
            speeds.append((name, grid.geometry, f"{slow:.2f}", f"{ours:.0f}", f"{ours / slow:.0f}", len(structures)))
    print_table(
        f"M and S together, structures/s; loops over voxels and sites on {SLOW_STRUCTURES} structures",
        ("set", "geometry", "loops", "ours", "ratio", "n"),
        speeds,
    )
    rows = []
    for name, structures in drawn.items():
        skewed = [s for s in structures if np.abs(cell_parameters(s[2])[1] - 90).max() > 1e-3]
        right_angled = [s for s in structures if np.abs(cell_parameters(s[2])[1] - 90).max() <= 1e-3]
        groups = [("right angles", right_angled, true), ("skewed", skewed, true), ("skewed", skewed, orthogonal)]
        for kind, group, grid in groups:
            for noise in NOISE if group and grid is true else NOISE[:1] if group else ():
                for decoder, decode in DECODERS.items():
                    scored = score(group, grid, noise, arguments.seed, decode)
                    rows.append((name, kind, grid.geometry, noise, decoder, *scored))
                    print(*rows[-1], sep="  ", flush=True)
    print_table(
        "Decoding; reproduction by the strict matcher",
        ("set", "cells", "geometry", "noise", "decoder", "reproduced", "right atoms", "|dN|", "RMS A", "worst A", "ms"),
        rows,
    )


if __name__ == "__main__":
    main()
