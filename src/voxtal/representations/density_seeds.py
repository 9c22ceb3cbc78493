"""Where atoms may be in a species map: its connected components, or the balls that explain it best."""

from __future__ import annotations

import numpy as np

from voxtal.representations.density import DensityGrid
from voxtal.representations.ionic_radii import ionic_radii
from voxtal.units import MIN_DISTANCE_ANGSTROM

MAX_ROUNDS = 12
"""Layers of overlapping balls that are peeled off one species; structures need three or four."""


def component_sites(species: np.ndarray, grid: DensityGrid) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (n,) and fractional coordinates (n, 3) of the centroids of connected voxels of one species.

    Right and quick where no two ions of one element overlap and none is cut into pieces by others.
    """
    from scipy import ndimage

    numbers, centroids = [np.empty(0, np.int64)], [np.empty((0, 3))]
    occupied = np.flatnonzero(species)
    elements = species.reshape(-1)[occupied]
    for number in elements_in(elements):
        labels, n = ndimage.label(species == number)
        voxels = occupied[elements == number]
        label = labels.reshape(-1)[voxels] - 1
        sums = [np.bincount(label, index, n) for index in np.unravel_index(voxels, species.shape)]
        centroids.append(np.stack(sums, axis=1) / np.bincount(label, minlength=n)[:, None])
        numbers.append(np.full(n, number))
    return np.concatenate(numbers), grid.fractional(np.concatenate(centroids))


def ball_sites(
    species: np.ndarray, cell: np.ndarray, grid: DensityGrid, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (n,) and fractional coordinates (n, 3) of balls of known radius that cover the species map.

    An ion's voxels are all within its radius, and no voxel within its radius is empty. So a ball scores one for each
    voxel of its species that no other ball covers and minus one for each empty voxel; the best ones are taken
    until what is left scores less than ``threshold`` of a whole ball. Overlapping ions of one element come
    apart, and pieces of one ion stay together.
    """
    numbers, found = [np.empty(0, np.int64)], [np.empty((0, 3))]
    for number in elements_in(species):
        radius = float(ionic_radii(np.array([number]))[0])
        indices = _cover(species == number, species == 0, radius, cell, grid, threshold)
        numbers.append(np.full(len(indices), number))
        found.append(indices)
    return np.concatenate(numbers), grid.fractional(np.concatenate(found))


def elements_in(species: np.ndarray) -> list[int]:
    """Atomic numbers that occur in a species map, rising."""
    return (1 + np.flatnonzero(np.bincount(species.reshape(-1), minlength=2)[1:])).tolist()


def _cover(
    own: np.ndarray, empty: np.ndarray, radius: float, cell: np.ndarray, grid: DensityGrid, threshold: float
) -> np.ndarray:
    """(n, 3) voxels at the centres of the balls."""
    from scipy import fft

    distances = _distances_about(max(radius, MIN_DISTANCE_ANGSTROM), cell, grid)
    spacing = np.cbrt(abs(np.linalg.det(cell))) * grid.step
    ball = np.clip((radius - distances) / spacing + 0.5, 0, 1).astype(np.float32)
    grown = distances <= max(radius + 0.5 * spacing, MIN_DISTANCE_ANGSTROM)
    half = np.array(ball.shape) // 2
    shape = tuple(fft.next_fast_len(int(n), real=True) for n in np.array(own.shape) + ball.shape)
    kernel = fft.rfftn(ball, shape)
    inner = tuple(slice(h, h + grid.size) for h in half)
    left, found = own.copy(), []
    candidates = np.argwhere(own)
    least = max(0.5, threshold * ball.sum())
    for _ in range(MAX_ROUNDS):
        image = left.astype(np.float32) - empty
        scores = fft.irfftn(fft.rfftn(image, shape) * kernel, shape)[inner][tuple(candidates.T)]
        taken = _apart(candidates, scores, least, radius, cell, grid)
        if not len(taken):
            break
        found.append(candidates[taken])
        for centre in candidates[taken]:
            _erase(left, centre, grown)
        candidates = candidates[scores >= least]  # scores only fall
    return np.concatenate([np.empty((0, 3), np.int64), *found])


def _apart(
    candidates: np.ndarray, scores: np.ndarray, least: float, radius: float, cell: np.ndarray, grid: DensityGrid
) -> list[int]:
    """The best of the ``candidates`` whose balls do not touch, so that none changes the score of another."""
    order = np.flatnonzero(scores >= least)
    order = order[np.argsort(-np.round(scores[order], 2), kind="stable")]
    taken: list[int] = []
    while len(order):
        best = order[0]
        taken.append(int(best))
        steps = (candidates[order] - candidates[best]) * grid.step @ cell
        order = order[np.einsum("ni,ni->n", steps, steps) > (2 * radius + 2 * grid.step * cell.diagonal().max()) ** 2]
    return taken


def _distances_about(radius: float, cell: np.ndarray, grid: DensityGrid) -> np.ndarray:
    """Distances, angstrom, of the voxels in the block that holds a ball, from the block's middle."""
    heights = np.linalg.norm(np.linalg.inv(cell), axis=0)
    half = np.minimum(np.ceil(radius * heights / grid.step).astype(int) + 1, grid.size // 2)
    offsets = np.stack(np.meshgrid(*(np.arange(-h, h + 1) for h in half), indexing="ij"), axis=-1)
    return np.asarray(np.linalg.norm(offsets * grid.step @ cell, axis=-1))


def _erase(left: np.ndarray, centre: np.ndarray, ball: np.ndarray) -> None:
    half = np.array(ball.shape) // 2
    first, last = np.maximum(centre - half, 0), np.minimum(centre + half + 1, left.shape)
    box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    inside = tuple(slice(a, b) for a, b in zip(first - centre + half, last - centre + half, strict=True))
    left[box] &= ~ball[inside]
