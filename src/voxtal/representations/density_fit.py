"""Least-squares fit of sites to a density map: widths are the elements', positions move, heights may."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from voxtal.representations.density import DensityGrid, amplitudes

MAX_STEPS = 40
FINAL_STEP_ANGSTROM = 1e-4
"""The fit converges quadratically on clean maps: after a step as short as this it is done."""


@dataclass(frozen=True)
class Neighbourhood:
    """Voxels about a site that are compared: ``steps`` (m, 3) in units of which ``half`` reach ``radii`` ionic radii.

    Voxels beyond add little to what is known of a Gaussian's position.
    """

    radii: float
    half: int
    steps: np.ndarray


def _block(half: int) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(-half, half + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


def _sparse_block() -> np.ndarray:
    """The middle, its six neighbours, and the 26 points two steps off."""
    block = _block(2)
    return block[(block % 2 == 0).all(axis=1) | (np.abs(block).sum(axis=1) == 1)]


FEW = Neighbourhood(1.0, 1, _block(1))
"""All that a clean map needs when the sites are nearly right."""

WIDE = Neighbourhood(1.6, 2, _sparse_block())
"""Draws sites in from farther away."""

MANY = Neighbourhood(1.6, 2, _block(2))
"""Averages noise out."""

_LONGEST_STEP_RADII = 0.1
"""Longer steps carry hydrogen to the wrong side of its oxygen."""

_LEAST_GAIN = 1e-2
"""A fit of the right sites gains factors with each step; one that gains less has too few sites or too many."""


def fit_sites(
    density: np.ndarray,
    numbers: np.ndarray,
    radii: np.ndarray,
    sites: np.ndarray,
    cell: np.ndarray,
    grid: DensityGrid,
    around: Neighbourhood,
    free_heights: bool = False,
    stiffness: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Move sites to where their Gaussians together come nearest to ``density`` (Levenberg-Marquardt).

    Parameters
    ----------
    sites
        (n, 3) fractional coordinates in the box of a lower triangular ``cell``.
    around
        Which voxels are compared.
    free_heights
        Let the heights vary too: sites where there is no atom sink to 0.
    stiffness
        What moving a site by 1 angstrom adds to the sum of squares; holds sites that noise would carry away.

    Returns
    -------
    tuple
        Sites (n, 3) and heights (n,), of which 1 is the element's own.
    """
    voxels = _voxels_around(sites, radii, cell, grid, around)
    observed = density[tuple(voxels.T)].astype(np.float64)
    where = grid.fractional(voxels) @ cell
    full = amplitudes(numbers, radii)
    start = positions = sites @ cell
    heights = np.ones(len(sites))
    n_free = 4 if free_heights else 3
    stiff = np.tile([stiffness] * 3 + [0.0] * (n_free - 3), len(sites))

    def evaluate(positions: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        left, slopes = _residual(observed, where, positions, heights * full, radii, free_heights)
        return left, slopes, float(left @ left + stiffness * ((positions - start) ** 2).sum())

    left, slopes, error = evaluate(positions, heights)
    damping = 1e-4
    for _ in range(MAX_STEPS):
        normal = slopes.T @ slopes
        gradient = slopes.T @ left
        moved = np.zeros((len(sites), n_free))
        moved[:, :3] = positions - start
        gradient -= stiff * moved.reshape(-1)
        diagonal = normal.diagonal() + stiff
        normal.flat[:: len(normal) + 1] = diagonal * (1 + damping) + 1e-9 * diagonal.max() + 1e-30
        step = np.linalg.solve(normal, gradient).reshape(-1, n_free)
        step[:, :3] /= np.maximum(np.abs(step[:, :3]).max(axis=1) / (_LONGEST_STEP_RADII * radii), 1)[:, None]
        trial = positions + step[:, :3]
        trial_heights = np.clip(heights + step[:, 3] / full, 0, 2) if free_heights else heights
        trial_left, trial_slopes, trial_error = evaluate(trial, trial_heights)
        short = np.abs(step[:, :3]).max() < FINAL_STEP_ANGSTROM
        if trial_error < error:
            done = short or error - trial_error < _LEAST_GAIN * error
            positions, heights, left, slopes, error = trial, trial_heights, trial_left, trial_slopes, trial_error
            damping = max(damping / 10, 1e-12)
            if done:
                break
        elif short or damping > 1e3:
            break
        else:
            damping *= 10
    return positions @ np.linalg.inv(cell), heights


def _voxels_around(
    sites: np.ndarray, radii: np.ndarray, cell: np.ndarray, grid: DensityGrid, around: Neighbourhood
) -> np.ndarray:
    """(m, 3) voxels about each site, as far apart as its radius and the cell allow."""
    heights = np.linalg.norm(np.linalg.inv(cell), axis=0)
    strides = np.rint(around.radii * radii[:, None] * heights / grid.step / around.half).clip(1)
    voxels = np.rint(grid.index(sites))[:, None] + strides[:, None] * around.steps
    voxels = voxels.reshape(-1, 3).astype(np.int64)
    return voxels[((voxels >= 0) & (voxels < grid.size)).all(axis=1)]


def _residual(
    observed: np.ndarray,
    where: np.ndarray,
    positions: np.ndarray,
    heights: np.ndarray,
    radii: np.ndarray,
    free_heights: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """What the model leaves (m,), and the model's derivatives (m, n * 3 or 4) by positions, angstrom, and heights."""
    narrow = -0.5 / radii**2
    # |v - p|^2 expanded: one matrix product instead of an array (m, n, 3)
    squared = where @ (-2 * positions.T)
    squared += np.einsum("mi,mi->m", where, where)[:, None]
    squared += np.einsum("ni,ni->n", positions, positions)
    squared *= narrow
    shapes = np.exp(squared, out=squared)
    slopes = np.empty((len(where), len(positions), 4 if free_heights else 3))
    if free_heights:
        slopes[:, :, 3] = shapes
    left = observed - shapes @ heights
    shapes = shapes * (heights / radii**2)
    for axis in range(3):
        np.subtract(where[:, axis, None], positions[:, axis], out=slopes[:, :, axis])
        slopes[:, :, axis] *= shapes
    return left, slopes.reshape(len(where), len(positions) * slopes.shape[2])
