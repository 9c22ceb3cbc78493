"""Atoms from sites voxels: maxima start a joint least-squares fit of Gaussians."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from voxtal.representations.reasons import Undecodable
from voxtal.representations.sites import SitesGrid, flat_patches
from voxtal.units import MIN_DISTANCE_ANGSTROM

THRESHOLD = 0.3
"""Smallest height (1 is one atom) that is taken as an atom."""


def decode_sites(image: np.ndarray, grid: SitesGrid, threshold: float = THRESHOLD) -> tuple[np.ndarray, np.ndarray]:
    """Find the atoms in one sites image.

    Local maxima start the search; heights and positions of all Gaussians are then fitted together (Levenberg-
    Marquardt on the voxels around them), what is left over is searched for atoms hidden under others, and
    Gaussians that turn out lower than ``threshold`` are given up.

    Parameters
    ----------
    image
        (G, G, G) one element's image.
    threshold
        Smallest height of an atom; a whole one has 1.

    Returns
    -------
    tuple
        Positions (n, 3) in [0, box), angstrom, and fitted heights (n,).

    Raises
    ------
    Undecodable
        The image is not finite, holds more than ``MAX_ATOMS`` atoms' worth of density or maxima, or is no sum of
        Gaussians.
    """
    flat = np.asarray(image, dtype=np.float64).ravel()
    if not np.isfinite(flat).all():
        raise Undecodable("sites voxel is not finite")
    positions = _maxima(flat, grid, threshold) * grid.spacing
    if len(positions) > MAX_ATOMS or (len(positions) and _atoms_of_density(flat, grid, threshold) > MAX_ATOMS):
        raise Undecodable(f"more than {MAX_ATOMS} atoms in one sites voxel")
    heights = np.ones(len(positions))
    positions, heights = _settle(flat, positions, heights, grid, threshold)
    for _ in range(MAX_HIDDEN_ATOMS):
        hidden = _hidden(flat, positions, heights, grid, threshold)
        if hidden is None:
            break
        more = np.vstack([positions, hidden]), np.append(heights, 0.5)
        settled = _settle(flat, *more, grid, threshold)
        if settled[1].sum() < heights.sum() + 0.75 * threshold:
            break  # one atom split in two, not another atom
        positions, heights = settled
    return positions % grid.box % grid.box, heights


MAX_ATOMS = 64
"""Atoms of one element that are fitted together; an image with more maxima is no structure's."""

MAX_GIVEN_UP = 8
"""Gaussians that a fit may give up; what needs more is a haze, which would take seconds to fit."""

MAX_HIDDEN_ATOMS = 8
MAX_FIT_STEPS = 20

FIT_RADIUS_SIGMAS = 2.25
"""Voxels beyond add almost nothing to what is known of a Gaussian's height and position."""

_NEIGHBOURS = np.array([step for step in itertools.product((-1, 0, 1), repeat=3) if step != (0, 0, 0)])


def _maxima(flat: np.ndarray, grid: SitesGrid, threshold: float) -> np.ndarray:
    """(n, 3) grid points above the threshold and their 26 neighbours that look like an atom."""
    above = np.flatnonzero(flat > threshold)
    points = np.stack(np.unravel_index(above, (grid.size,) * 3), axis=1)
    around = (points[:, None] + _NEIGHBOURS) % grid.size
    neighbours = flat[np.ravel_multi_index(tuple(np.moveaxis(around, -1, 0)), (grid.size,) * 3)]
    # Of equal neighbours the first in flat order is the maximum, or a clean tie would count twice.
    values, earlier = flat[above][:, None], np.arange(26) < 13
    points = points[np.where(earlier, values > neighbours, values >= neighbours).all(axis=1)]
    return points[_matched_height(flat, points, grid) > threshold]


def _atoms_of_density(flat: np.ndarray, grid: SitesGrid, threshold: float) -> float:
    """How many atoms the density above the threshold would make at least."""
    one = np.exp((grid.patch * grid.spacing) ** 2 / (-2 * grid.sigma**2)).sum() ** 3
    return float(flat[flat > threshold].sum() / one)


def _matched_height(flat: np.ndarray, points: np.ndarray, grid: SitesGrid) -> np.ndarray:
    """(n,) height of the Gaussian at each grid point that fits best: noise of single voxels averages out."""
    profile = np.exp((grid.patch * grid.spacing) ** 2 / (-2 * grid.sigma**2))
    kernel = profile[:, None, None] * profile[:, None] * profile
    windows = flat[flat_patches(points[:, :, None] + grid.patch, grid.size)]
    return (windows * kernel).sum(axis=(1, 2, 3)) / (kernel**2).sum()


@dataclass(frozen=True)
class _Model:
    """Sum of Gaussians on the voxels (m,) around them, and derivatives (m, n, 4) by height and position."""

    voxels: np.ndarray
    value: np.ndarray
    jacobian: np.ndarray


def _model(voxels: np.ndarray, positions: np.ndarray, heights: np.ndarray, grid: SitesGrid) -> _Model:
    points = np.stack(np.unravel_index(voxels, (grid.size,) * 3), axis=1) * grid.spacing
    steps = points[:, None] - positions
    steps -= grid.box * np.rint(steps / grid.box)
    shapes = np.exp((steps**2).sum(axis=-1) / (-2 * grid.sigma**2))
    shapes = np.where(shapes >= grid.cutoff, shapes, 0)
    slopes = (heights * shapes)[:, :, None] * steps / grid.sigma**2
    return _Model(voxels, shapes @ heights, np.concatenate([shapes[:, :, None], slopes], axis=2))


def _around(positions: np.ndarray, grid: SitesGrid) -> np.ndarray:
    """Sorted flat indices of the voxels around ``positions`` that know something of them."""
    reach = int(np.ceil(FIT_RADIUS_SIGMAS * grid.sigma / grid.spacing - 0.5))
    points = np.rint(positions / grid.spacing).astype(np.int64)[:, :, None] + np.arange(-reach, reach + 1)
    return np.unique(flat_patches(points, grid.size))


def _settle(
    flat: np.ndarray, positions: np.ndarray, heights: np.ndarray, grid: SitesGrid, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fit, drop a Gaussian that is too low or the lower of two that coincide, and fit again until none is."""
    given_up = 0
    while len(positions):
        if given_up > MAX_GIVEN_UP:
            raise Undecodable("sites voxel is no sum of atoms")
        positions, heights = _fit(flat, positions, heights, grid)
        pairs = np.argwhere(np.triu(_distances(positions, grid.box) < MIN_DISTANCE_ANGSTROM, 1))
        among = np.unique(pairs[0]) if len(pairs) else np.arange(len(heights))
        lowest = among[np.argmin(heights[among])]
        if not len(pairs) and heights[lowest] >= threshold:
            break
        positions, heights = np.delete(positions, lowest, axis=0), np.delete(heights, lowest)
        given_up += 1
    return positions, heights


def _fit(
    flat: np.ndarray, positions: np.ndarray, heights: np.ndarray, grid: SitesGrid
) -> tuple[np.ndarray, np.ndarray]:
    """Least squares over heights and positions of all Gaussians together (Levenberg-Marquardt).

    Heights are kept at or below 1, an atom's: what is more belongs to another atom.
    """
    voxels = _around(positions, grid)
    observed = flat[voxels]
    damping = 1e-3
    model = _model(voxels, positions, heights, grid)
    error = ((observed - model.value) ** 2).sum()
    for _ in range(MAX_FIT_STEPS):
        jacobian = model.jacobian.reshape(len(voxels), -1)
        normal = jacobian.T @ jacobian
        gradient = jacobian.T @ (observed - model.value)
        scale = np.diag(normal) + 1e-9
        step = np.linalg.solve(normal + damping * np.diag(scale), gradient).reshape(-1, 4)
        step[:, 1:] = np.clip(step[:, 1:], -grid.spacing, grid.spacing)
        trial_heights = np.clip(heights + step[:, 0], 0, 1)
        trial_positions = positions + step[:, 1:]
        trial = _model(voxels, trial_positions, trial_heights, grid)
        trial_error = ((observed - trial.value) ** 2).sum()
        if trial_error < error:
            gained, small = error - trial_error, np.abs(step).max() < 1e-4
            positions, heights, model, error = trial_positions, trial_heights, trial, trial_error
            damping = max(damping / 10, 1e-9)
            if small or gained < 1e-5 * error:
                break
        elif trial_error < (1 + 1e-5) * error or damping > 1e3:
            break
        else:
            damping *= 10
    return positions, heights


def _hidden(
    flat: np.ndarray, positions: np.ndarray, heights: np.ndarray, grid: SitesGrid, threshold: float
) -> np.ndarray | None:
    """Position (3,) of the highest Gaussian left over near those found, where one is high enough."""
    if not len(positions):
        return None
    voxels = _around(positions, grid)
    residual = flat.copy()
    residual[voxels] -= _model(voxels, positions, heights, grid).value
    candidates = voxels[residual[voxels] > threshold / 2]
    if not len(candidates):
        return None
    points = np.stack(np.unravel_index(candidates, (grid.size,) * 3), axis=1)
    matched = _matched_height(residual, points, grid)
    best = int(np.argmax(matched))
    return points[best] * grid.spacing if matched[best] > threshold / 2 else None


def _distances(positions: np.ndarray, box: float) -> np.ndarray:
    """(n, n) distances between ``positions`` (n, 3) in the periodic box."""
    steps = positions[:, None] - positions
    steps -= box * np.rint(steps / box)
    return np.sqrt((steps**2).sum(axis=-1))
