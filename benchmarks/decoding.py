"""Ways to decode sites and lattice voxels, on real structures with noise and with the published step at 0.5.

    python benchmarks/decoding.py STRUCTURES.h5 ... [--structures 200] [--preset laptop] [--placement compact]

Evenly spaced structures of every file are encoded (no network), their dense float32 images disturbed, and decoded in
every way. Noise: Gaussian, on every voxel, clipped below at 0 as a sigmoid would. Step: 1 above 0.5, else 0, what
the published loss drives a network to. Half: rounded to half precision, as shards store them. Columns, each of all
structures unless said otherwise:

strict, CDVAE    reproduced, by the two matchers (another composition than the original's is no match)
counts           images with as many atoms as there are
site RMS         angstrom, over the atoms of images with the right count and every atom within 0.5 angstrom
edge, angle      median over the cells read of the largest relative error of an edge, and of an angle in degrees
no cell          structures whose lattice image could not be read
ms               CPU time of all decoding per structure
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Lattice, Structure
from scipy import ndimage

from voxtal.cli.common import print_table, progress
from voxtal.config import VoxelsConfig, build_config
from voxtal.representations.assembly import assemble
from voxtal.representations.lattice import LatticeGrid
from voxtal.representations.lattice_decoding import decode_lattice
from voxtal.representations.placement import cell_parameters, place, standard_cell
from voxtal.representations.reasons import Undecodable, Unencodable
from voxtal.representations.sites import SitesGrid
from voxtal.representations.sites_decoding import decode_sites
from voxtal.representations.voxels import dense, encode_structure
from voxtal.structures.matching import CDVAE, STRICT, Matcher
from voxtal.structures.structure_set import StructureSet

NOISES: tuple[float | str, ...] = (0.0, "half", 0.01, 0.05, 0.1, "step")
THRESHOLD = 0.3


def published_sites(image: np.ndarray, grid: SitesGrid) -> np.ndarray:
    """Grid points not below 0.02 that are as high as their 18 neighbours in the slightly smoothed image."""
    smooth = ndimage.gaussian_filter(image, sigma=0.15)
    neighbours = ndimage.generate_binary_structure(3, 2)
    highest = ndimage.maximum_filter(smooth, footprint=neighbours, mode="wrap") == smooth
    background = ndimage.binary_erosion(smooth < 0.02, structure=neighbours, border_value=1)
    return np.argwhere(highest & ~background) * grid.spacing


def maxima(image: np.ndarray) -> np.ndarray:
    """(n, 3) grid points above the threshold that are as high as their 26 neighbours."""
    return np.argwhere((image > THRESHOLD) & (ndimage.maximum_filter(image, size=3, mode="wrap") == image))


def window(image: np.ndarray, point: np.ndarray, reach: int) -> np.ndarray:
    line = np.arange(-reach, reach + 1)
    return image[np.ix_(*((point[:, None] + line) % len(image)))]


def grey_centroids(image: np.ndarray, grid: SitesGrid) -> np.ndarray:
    """Means of the 125 grid points around each maximum, weighted with the voxels."""
    line, found = np.arange(-2, 3), []
    for point in maxima(image):
        weights = window(image, point, 2)
        sums = [weights.sum(axis=axes) @ line for axes in ((1, 2), (0, 2), (0, 1))]
        found.append(point + np.array(sums) / weights.sum())
    return np.array(found).reshape(-1, 3) * grid.spacing % grid.box


def log_parabolas(image: np.ndarray, grid: SitesGrid) -> np.ndarray:
    """Tops of the parabolas through the logarithms of each maximum and its neighbours along each axis."""
    found = []
    for point in maxima(image):
        cube = np.log(np.maximum(window(image, point, 1), grid.cutoff))
        before, after = (np.array([cube[i, 1, 1], cube[1, i, 1], cube[1, 1, i]]) for i in (0, 2))
        bend = np.maximum(2 * cube[1, 1, 1] - before - after, 1e-3)
        found.append(point + np.clip((after - before) / (2 * bend), -0.6, 0.6))
    return np.array(found).reshape(-1, 3) * grid.spacing % grid.box


def counted_parabolas(image: np.ndarray, grid: SitesGrid) -> np.ndarray:
    """As many of the highest maxima as the density, less the background far from all of them, makes atoms."""
    peaks = np.zeros(image.shape, dtype=bool)
    peaks[tuple(maxima(image).T)] = True
    far = ~ndimage.maximum_filter(peaks, size=2 * grid.reach + 3, mode="wrap")
    background = image[far].mean() if far.any() else 0.0
    one = np.exp((grid.patch * grid.spacing) ** 2 / (-2 * grid.sigma**2)).sum() ** 3
    count = max(0, round(float((image - background).sum() / one)))
    heights = image[tuple(maxima(image).T)]
    return log_parabolas(image, grid)[np.argsort(-heights, kind="stable")[:count]]


def published_cell(image: np.ndarray, grid: LatticeGrid) -> np.ndarray:
    """Edges and face diagonals, each from the lowest non-zero voxel along it."""
    line, middle = np.arange(grid.size), grid.size // 2

    def length(values: np.ndarray) -> float:
        lowest = values[values > 0].min()
        steps = abs(int(np.flatnonzero(values == lowest)[0]) - middle)
        return float(np.sqrt(-2 * grid.sigma**2 * np.log(lowest)) * grid.size / steps)

    still = np.full(grid.size, middle)
    try:
        with np.errstate(all="raise"):
            a, b, c = (length(image[at]) for at in ((line, still, still), (still, line, still), (still, still, line)))
            ab, bc, ca = (length(image[at]) for at in ((line, line, still), (still, line, line), (line, still, line)))
            cosines = [(d * d - p * p - q * q) / (2 * p * q) for p, q, d in ((b, c, bc), (c, a, ca), (a, b, ab))]
            return standard_cell(np.array([a, b, c]), np.degrees(np.arccos(cosines)))
    except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
        raise Undecodable(f"published reading: {error}") from None


def log_least_squares(image: np.ndarray, grid: LatticeGrid) -> np.ndarray:
    """-2 sigma^2 ln v = f G f over all voxels above 0.06 within a quarter of the cell, weighted with v^2."""
    axis = (np.arange(grid.size) - grid.size // 2) / grid.size
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    used = (image > 0.06) & (np.max(np.abs([x, y, z]), axis=0) <= 0.25)
    x, y, z, values = x[used], y[used], z[used], np.minimum(image[used], 1).astype(np.float64)
    terms = np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], axis=1)
    target = -2 * grid.sigma**2 * np.log(values) * values
    a, b, c, d, e, f = np.linalg.lstsq(terms * values[:, None], target, rcond=None)[0]
    try:
        return np.linalg.cholesky(np.array([[a, d, e], [d, b, f], [e, f, c]]))
    except np.linalg.LinAlgError:
        raise Undecodable("no positive definite metric") from None


Sites = Callable[[np.ndarray, SitesGrid], np.ndarray]
Cell = Callable[[np.ndarray, LatticeGrid], np.ndarray]
WAYS: dict[str, tuple[Sites, Cell]] = {
    "published: integer peaks, one voxel per edge": (published_sites, published_cell),
    "grey centroids, log least squares": (grey_centroids, log_least_squares),
    "log-parabolas, log least squares": (log_parabolas, log_least_squares),
    "the same, counts from density": (counted_parabolas, log_least_squares),
    "voxtal: joint least squares": (lambda image, grid: decode_sites(image, grid)[0], decode_lattice),
}


@dataclass(frozen=True)
class Sample:
    """A structure as placed, its clean images, and what the matchers compare it by."""

    positions: dict[int, np.ndarray]
    cell: np.ndarray
    sites: dict[int, np.ndarray]
    lattice: np.ndarray
    reduced: list[Any]

    def disturbed(self, noise: float | str, seed: int) -> tuple[dict[int, np.ndarray], np.ndarray]:
        rng = np.random.default_rng(seed)

        def disturb(image: np.ndarray) -> np.ndarray:
            if noise == "half":
                return image.astype(np.float16).astype(np.float32)
            if noise == "step":
                return (image > 0.5).astype(np.float32)
            scatter = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(noise)
            return np.maximum(image + scatter, 0) if noise else image

        return {z: disturb(image) for z, image in self.sites.items()}, disturb(self.lattice)


@dataclass
class Score:
    n: int = 0
    strict: int = 0
    cdvae: int = 0
    images: int = 0
    counted: int = 0
    no_cell: int = 0
    seconds: float = 0.0
    squared: list[float] = field(default_factory=list)
    edges: list[float] = field(default_factory=list)
    angles: list[float] = field(default_factory=list)

    def row(self) -> tuple[str, ...]:
        rms = f"{np.sqrt(np.mean(self.squared)):.4f} ({len(self.squared)})" if self.squared else "-"
        edge, angle = (f"{np.median(x):.4f}" if x else "-" for x in (self.edges, self.angles))
        return (
            f"{self.strict / self.n:.1%}",
            f"{self.cdvae / self.n:.1%}",
            f"{self.counted / self.images:.1%}",
            rms,
            edge,
            angle,
            str(self.no_cell),
            f"{1e3 * self.seconds / self.n:.2f}",
        )


MATCHERS = [Matcher(STRICT), Matcher(CDVAE)]


def samples(paths: list[Path], n: int, voxels: VoxelsConfig) -> Iterator[Sample]:
    for path in paths:
        structures = StructureSet.read(path)
        for row in np.unique(np.linspace(0, len(structures) - 1, n // len(paths)).astype(int)):
            numbers, frac_coords, cell = structures.arrays(int(row))
            try:
                encoded = encode_structure(numbers, frac_coords, cell, voxels)
            except Unencodable:
                continue
            positions, cell = place(frac_coords, cell, voxels.box_angstrom, voxels.placement)
            images = {}
            for j, z in enumerate(encoded.elements.tolist()):
                part = slice(encoded.sites_offsets[j], encoded.sites_offsets[j + 1])
                images[z] = dense(encoded.sites_index[part], encoded.sites_values[part], voxels.sites_grid)
            yield Sample(
                {z: positions[numbers == z] % voxels.box_angstrom for z in images},
                cell,
                images,
                dense(encoded.lattice_index, encoded.lattice_values, voxels.lattice_grid),
                [matcher.reduce(structures.structure(int(row))) for matcher in MATCHERS],
            )


def decode(way: tuple[Sites, Cell], images: dict[int, np.ndarray], lattice: np.ndarray, voxels: VoxelsConfig) -> Any:
    """Positions by element (none where an image could not be read), cell or none, and the seconds taken."""
    sites, began = {}, time.process_time()
    for z, image in images.items():
        try:
            sites[z] = way[0](image, SitesGrid.of(voxels))
        except Undecodable:
            sites[z] = np.empty((0, 3))
    try:
        cell = way[1](lattice, LatticeGrid.of(voxels))
        assemble(cell, sites)
    except Undecodable:
        cell = None
    return sites, cell, time.process_time() - began


def add(score: Score, sample: Sample, sites: dict[int, np.ndarray], cell: np.ndarray | None, box: float) -> None:
    score.n += 1
    right = True
    for z, expected in sample.positions.items():
        score.images += 1
        counted = len(sites[z]) == len(expected)
        score.counted += counted
        right &= counted
        if counted:
            steps = sites[z][:, None] - expected
            distances = np.linalg.norm(steps - box * np.rint(steps / box), axis=-1).min(axis=0)
            if distances.max() < 0.5:
                score.squared += (distances**2).tolist()
    if cell is None:
        score.no_cell += 1
        return
    lengths, angles = cell_parameters(cell)
    true_lengths, true_angles = cell_parameters(sample.cell)
    score.edges.append(float(np.abs(lengths / true_lengths - 1).max()))
    score.angles.append(float(np.abs(angles - true_angles).max()))
    if right:
        numbers, frac_coords, _ = assemble(cell, sites)
        structure = Structure(Lattice(cell), numbers.tolist(), frac_coords)
        strict, cdvae = (m.matches(known, structure) for m, known in zip(MATCHERS, sample.reduced, strict=True))
        score.strict += strict
        score.cdvae += cdvae


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path, nargs="+")
    parser.add_argument("--structures", dest="n", type=int, default=200)
    parser.add_argument("--preset", choices=("laptop", "paper"), default="laptop")
    parser.add_argument("--placement", choices=("compact", "paper"))
    arguments = parser.parse_args()
    placement = {"placement": arguments.placement} if arguments.placement else {}
    voxels = build_config({"preset": arguments.preset, "voxels": placement}).voxels
    scores = {(noise, name): Score() for noise in NOISES for name in WAYS}
    with progress("decode", arguments.n) as advance:
        for seed, sample in enumerate(samples(arguments.structures, arguments.n, voxels)):
            for noise in NOISES:
                images = sample.disturbed(noise, seed)
                for name, way in WAYS.items():
                    score = scores[noise, name]
                    sites, cell, seconds = decode(way, *images, voxels)
                    score.seconds += seconds
                    add(score, sample, sites, cell, voxels.box_angstrom)
            advance(1, "")
    any_score = next(iter(scores.values()))
    print_table(
        f"{any_score.n} structures, {any_score.images} images, {voxels.sites_grid}^3 / sigma "
        f"{voxels.sites_sigma_angstrom} and {voxels.lattice_grid}^3 / sigma {voxels.lattice_sigma_angstrom} A, "
        f"placement {voxels.placement}",
        ("noise", "decoder", "strict", "CDVAE", "counts", "site RMS (atoms)", "edge", "angle", "no cell", "ms"),
        [(str(noise), name, *score.row()) for (noise, name), score in scores.items()],
    )


if __name__ == "__main__":
    main()
