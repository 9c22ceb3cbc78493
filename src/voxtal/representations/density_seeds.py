"""Where atoms may be in a species map: its connected components, or the balls that explain it best."""

from __future__ import annotations

import numpy as np

from voxtal.representations.density import DensityGrid
from voxtal.representations.ionic_radii import ionic_radii
from voxtal.units import MIN_DISTANCE_ANGSTROM

MAX_ROUNDS = 12
"""Layers of overlapping balls that are peeled off one species; structures need three or four."""

SINGLE_ION = 0.4, 1.3
"""Sizes, in balls, between which a component is one ion, cut by its neighbours and by the grid."""

SMALL_BALL = 8
"""Voxels; a smaller ion may have voxels that touch at corners only, and its size says nothing."""


def component_sites(species: np.ndarray, grid: DensityGrid) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (n,) and fractional coordinates (n, 3) of the centroids of connected voxels of one species.

    Right and quick where no two ions of one element overlap and none is cut into pieces by others.
    """
    numbers, _, centroids = _components(species)
    return numbers, grid.fractional(centroids)


def likely_sites(
    species: np.ndarray, cell: np.ndarray, grid: DensityGrid, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (n,) and fractional coordinates (n, 3) by components, or by balls for elements in doubt.

    An element is in doubt if one of its components is too large or too small for a single ion.
    """
    elements = np.array(elements_in(species))
    balls = 4 / 3 * np.pi * ionic_radii(elements) ** 3 / (abs(np.linalg.det(cell)) * grid.step**3)
    small = elements[balls < SMALL_BALL]
    numbers, sizes, centroids = _components(species)
    if len(small):
        touching = _components(np.where(np.isin(species, small), species, 0), connectivity=3)
        large = ~np.isin(numbers, small)
        numbers, sizes, centroids = (
            np.concatenate([a[large], b]) for a, b in zip((numbers, sizes, centroids), touching, strict=True)
        )
    ball = balls[np.searchsorted(elements, numbers)]
    wrong = (sizes < SINGLE_ION[0] * ball) | (sizes > SINGLE_ION[1] * ball)
    doubtful = np.unique(numbers[wrong & (ball >= SMALL_BALL)])
    sure = ~np.isin(numbers, doubtful)
    more, frac = ball_sites(species, cell, grid, threshold, doubtful.tolist())
    return np.concatenate([numbers[sure], more]), np.concatenate([grid.fractional(centroids[sure]), frac])


def ball_sites(
    species: np.ndarray, cell: np.ndarray, grid: DensityGrid, threshold: float, elements: list[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (n,) and fractional coordinates (n, 3) of balls of known radius that cover the species map.

    An ion's voxels are all within its radius, and no voxel within its radius is empty. So a ball scores one for each
    voxel of its species that no other ball covers and minus one for each empty voxel; the best ones are taken
    until what is left scores less than ``threshold`` of a whole ball. Overlapping ions of one element come
    apart, and pieces of one ion stay together. ``elements`` are those to look for, all in the map by default.
    """
    numbers, found = [np.empty(0, np.int64)], [np.empty((0, 3))]
    for number in elements_in(species) if elements is None else elements:
        radius = float(ionic_radii(np.array([number]))[0])
        indices = _cover(species == number, species == 0, radius, cell, grid, threshold)
        numbers.append(np.full(len(indices), number))
        found.append(indices)
    return np.concatenate(numbers), grid.fractional(np.concatenate(found))


def _components(species: np.ndarray, connectivity: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atomic numbers (n,), voxels (n,) and centroids (n, 3) of connected voxels of one species, by rising number."""
    from skimage.measure import label

    occupied = np.flatnonzero(species)
    labels = label(species, connectivity=connectivity).reshape(-1)[occupied] - 1
    n = int(labels.max(initial=-1)) + 1
    sizes = np.bincount(labels, minlength=n)
    numbers = np.zeros(n, np.int64)
    numbers[labels] = species.reshape(-1)[occupied]
    sums = [np.bincount(labels, index, n) for index in np.unravel_index(occupied, species.shape)]
    order = np.argsort(numbers, kind="stable")
    return numbers[order], sizes[order], (np.stack(sums, axis=1) / sizes[:, None])[order]


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
    corner, box = _box_about(own, half)
    left, empty = own[box].copy(), empty[box]
    shape = tuple(fft.next_fast_len(int(n), real=True) for n in np.array(left.shape) + half)
    kernel = fft.rfftn(ball, shape)
    candidates, found = np.argwhere(left), []
    least = max(0.5, threshold * ball.sum())
    for _ in range(MAX_ROUNDS):
        image = left.astype(np.float32) - empty
        scores = fft.irfftn(fft.rfftn(image, shape) * kernel, shape)[tuple((candidates + half).T)]
        taken = _apart(candidates, scores, least, radius, cell, grid)
        if not len(taken):
            break
        found.append(candidates[taken] + corner)
        for centre in candidates[taken]:
            _erase(left, centre, grown)
        candidates = candidates[scores >= least]  # scores only fall
    return np.concatenate([np.empty((0, 3), np.int64), *found])


def _box_about(own: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, tuple[slice, ...]]:
    """First voxel (3,) and slices of the block that holds all balls about voxels of ``own``."""
    occupied = [np.flatnonzero(own.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    first = np.maximum([axis[0] for axis in occupied] - half, 0)
    last = np.minimum([axis[-1] for axis in occupied] + half + 1, own.shape)
    return first, tuple(slice(a, b) for a, b in zip(first, last, strict=True))


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
