"""Atoms from sites voxels: maxima start a joint least-squares fit of Gaussians to the whole image.

The error that is minimised is that of all voxels, those far from every atom too. It needs only the voxels within
the cut of an atom: elsewhere the model is zero. The normal equations are those of whole Gaussians on a fine grid,
whose sums over voxels are known in closed form; they steer the steps only, never the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from voxtal.representations.reasons import Undecodable
from voxtal.representations.sites import SitesGrid, flat_patches
from voxtal.representations.steps import is_step
from voxtal.units import MIN_DISTANCE_ANGSTROM

THRESHOLD = 0.3
"""Smallest height (1 is one atom) that is taken as an atom."""

MAX_ATOMS = 64
"""Atoms of one element that are fitted together; an image with more maxima is no structure's."""

MAX_GIVEN_UP = 8
"""Gaussians that a fit may give up; what needs more is a haze, which would take seconds to fit."""

MAX_HIDDEN_ATOMS = 24
MAX_HIDDEN_CANDIDATES = 64
MAX_FIT_STEPS = 20

LAST_STEP_ANGSTROM = 3e-4
"""A step as short as this was the last: on clean images the next would be a thousand times shorter."""

STEP_HEIGHT = 1.6
"""Gain of the filter that makes Gaussians of balls of ones."""

SAME_PLACE_ANGSTROM = 0.1
"""An atom that is left over within this of one that was found is its twin: both lie beside the place."""

COUPLED = 0.02
"""Atoms whose Gaussians overlap less than this (1 where they coincide) take their steps independently."""


def decode_sites(image: np.ndarray, grid: SitesGrid, threshold: float = THRESHOLD) -> tuple[np.ndarray, np.ndarray]:
    """Find the atoms in one sites image.

    Local maxima start the search; heights and positions of all Gaussians are then fitted together (Levenberg-
    Marquardt), what is left over is searched for atoms hidden under others, and Gaussians that turn out lower
    than ``threshold`` are given up. An image of zeros and ones (cut at 1/2, as the published loss drives a network
    to) is made smooth first.

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
    flat = np.asarray(image, dtype=np.float32).reshape(-1)
    if not np.isfinite(np.dot(flat, flat)):
        raise Undecodable("sites voxel is not finite")
    above = np.flatnonzero(flat > threshold)
    if is_step(flat[above]):
        flat = _softened(flat, grid)
        above = np.flatnonzero(flat > threshold)
    target = _Target(flat, np.zeros(len(flat)), grid, _kernel(grid))
    fit = _settled(target, *_maxima(target, above, threshold), threshold)
    for _ in range(MAX_HIDDEN_ATOMS):
        hidden = _hidden(target, fit, threshold)
        if hidden is None:
            break
        with_hidden = _settled(target, _with_one_more(target, fit, hidden), np.append(fit.heights, 0.5), threshold)
        if with_hidden.heights.sum() < fit.heights.sum() + 0.75 * threshold:
            break  # one atom split in two, not another atom
        fit = with_hidden
        if len(fit.heights) > MAX_ATOMS:
            raise Undecodable(f"more than {MAX_ATOMS} atoms in one sites voxel")
    return fit.positions % grid.box % grid.box, fit.heights


def _softened(flat: np.ndarray, grid: SitesGrid) -> np.ndarray:
    """An image of zeros and ones (G^3,) as nearly the sum of Gaussians that it was cut from.

    The ball where a Gaussian is above 1/2 has a variance of 0.28 sigma^2 along each axis; a filter adds what is
    missing. The height is a little below an atom's, so that a ball that happens to hold many grid points is not
    taken for two.
    """
    from scipy import ndimage

    width = 0.85 * grid.sigma / grid.spacing
    soft = ndimage.gaussian_filter(flat.reshape((grid.size,) * 3), width, mode="wrap", truncate=3)
    return STEP_HEIGHT * soft.reshape(-1)


@dataclass(frozen=True)
class _Kernel:
    """What every fit on a grid needs.

    Attributes
    ----------
    steps
        (P^3, 4): 1 and the three steps, in points, of the patch around an atom.
    matched
        (27,): its product with a cube of voxels is the height of the Gaussian in the middle that fits best. At
        sigma = 1.1 voxels the other voxels would add a tenth to what it knows.
    norm
        Sum of a Gaussian's squares over all voxels.
    """

    steps: np.ndarray
    matched: np.ndarray
    norm: float


@lru_cache(maxsize=8)
def _kernel(grid: SitesGrid) -> _Kernel:
    steps = np.stack(np.meshgrid(*[grid.patch] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    squared = np.stack(np.meshgrid(*[_CUBE**2] * 3, indexing="ij"), axis=-1).reshape(-1, 3).sum(axis=1)
    cube = np.exp(squared * grid.spacing**2 / (-2 * grid.sigma**2))
    return _Kernel(
        np.concatenate([np.ones((len(steps), 1)), steps], axis=1),
        (cube / (cube**2).sum()).astype(np.float32),
        (np.pi**0.5 * grid.sigma / grid.spacing) ** 3,
    )


_CUBE = np.array([-1, 0, 1])


@lru_cache(maxsize=16)
def _flat_steps(reach: int, size: int) -> np.ndarray:
    line = np.arange(-reach, reach + 1)
    return ((line[:, None, None] * size + line[:, None]) * size + line).reshape(-1)


def _around(points: np.ndarray, line: np.ndarray, size: int) -> np.ndarray:
    """(n, len(line)^3) flat indices of the cubes with the steps ``line`` along each axis around ``points`` (n, 3)."""
    reach = len(line) // 2
    index = ((points[:, 0] * size + points[:, 1]) * size + points[:, 2])[:, None] + _flat_steps(reach, size)
    at_face = ((points < reach) | (points >= size - reach)).any(axis=1)
    if at_face.any():
        index[at_face] = flat_patches(points[at_face, :, None] + line, size).reshape(-1, len(line) ** 3)
    return index


@dataclass(frozen=True)
class _Target:
    """An image to fit: its voxels (G^3,), and as many zeros to sum the Gaussians in."""

    flat: np.ndarray
    zeros: np.ndarray
    grid: SitesGrid
    kernel: _Kernel


@dataclass(frozen=True)
class _Fit:
    """Gaussians, and how they fit an image.

    Attributes
    ----------
    index, residual
        (n, P^3) voxels around each Gaussian, and what the sum of all Gaussians leaves there.
    shapes
        (n, P^3) the Gaussians with height 1.
    error
        Squared residual of the whole image, less that of no Gaussians.
    """

    positions: np.ndarray
    heights: np.ndarray
    offsets: np.ndarray
    index: np.ndarray
    residual: np.ndarray
    shapes: np.ndarray
    error: float


def _fit_of(target: _Target, positions: np.ndarray, heights: np.ndarray) -> _Fit:
    grid, zeros = target.grid, target.zeros
    nearest = np.rint(positions / grid.spacing)
    offsets = nearest * grid.spacing - positions
    squared = (offsets[:, :, None] + grid.patch * grid.spacing) ** 2
    gaussians = np.exp(squared / (-2 * grid.sigma**2))
    n, size = len(positions), len(grid.patch)
    planes = (gaussians[:, 0, :, None] * gaussians[:, 1, None, :]).reshape(n, size**2, 1)
    shapes = (planes * gaussians[:, 2, None, :]).reshape(n, size**3)
    shapes *= shapes >= grid.cutoff
    index = _around(nearest.astype(np.int64), grid.patch, grid.size)
    observed = target.flat[index]
    weighted = heights[:, None] * shapes
    np.add.at(zeros, index.ravel(), weighted.ravel())
    residual = observed - zeros[index]
    zeros[index] = 0
    error = -np.vdot(weighted, residual + observed)
    return _Fit(positions, heights, offsets, index, residual, shapes, float(error))


def _fitted(target: _Target, positions: np.ndarray, heights: np.ndarray) -> _Fit:
    """Least squares over heights and positions of all Gaussians together (Levenberg-Marquardt).

    Heights are kept at or below 1, an atom's: what is more belongs to another atom.
    """
    spacing = target.grid.spacing
    fit = _fit_of(target, positions, heights)
    damping = 1e-6
    for _ in range(MAX_FIT_STEPS):
        step = _step(target, fit, damping)
        step[:, 1:] = np.clip(step[:, 1:], -spacing, spacing)
        trial = _fit_of(target, fit.positions + step[:, 1:], np.clip(fit.heights + step[:, 0], 0, 1))
        last = max(abs(step[:, 1:]).max(), abs(trial.heights - fit.heights).max() * spacing) < LAST_STEP_ANGSTROM
        if trial.error <= fit.error:
            fit = trial
            damping = max(damping / 10, 1e-6)
        else:
            damping = max(damping * 10, 1e-2)
        if last or damping > 1e3:
            break
    return fit


def _step(target: _Target, fit: _Fit, damping: float) -> np.ndarray:
    """(n, 4): the damped Gauss-Newton step of heights and positions."""
    grid, norm, heights = target.grid, target.kernel.norm, np.maximum(fit.heights, 1e-3)
    moments = (fit.residual * fit.shapes) @ target.kernel.steps
    towards = moments[:, 1:] * grid.spacing + moments[:, :1] * fit.offsets
    gradient = np.concatenate([moments[:, :1], towards * (heights / grid.sigma**2)[:, None]], axis=1)
    apart = _steps_between(fit.positions, grid.box)
    overlap = _overlap(apart, grid.sigma)
    n = len(heights)
    if n == 1 or (np.triu(overlap, 1) < COUPLED).all():
        curvature = np.repeat(norm * heights[:, None] ** 2 / (2 * grid.sigma**2), 4, axis=1)
        curvature[:, 0] = norm
        return gradient / (curvature * (1 + damping))
    normal = np.empty((n, 4, n, 4))
    slope = apart / (2 * grid.sigma**2)
    normal[:, 0, :, 0] = overlap
    normal[:, 0, :, 1:] = overlap[:, :, None] * slope * heights[None, :, None]
    normal[:, 1:, :, 0] = np.moveaxis(normal[:, 0, :, 1:], (0, 1, 2), (2, 0, 1))
    bend = np.eye(3) / (2 * grid.sigma**2) - slope[:, :, :, None] * slope[:, :, None, :]
    pairs = (overlap * heights[:, None] * heights)[:, :, None, None]
    normal[:, 1:, :, 1:] = np.moveaxis(pairs * bend, 2, 1)
    matrix = norm * normal.reshape(4 * n, 4 * n)
    matrix[np.diag_indices(4 * n)] *= 1 + damping
    return np.linalg.solve(matrix, gradient.ravel()).reshape(n, 4)


def _settled(target: _Target, positions: np.ndarray, heights: np.ndarray, threshold: float) -> _Fit:
    """Fit, drop a Gaussian that is too low or the lower of two that coincide, and fit again until none is."""
    for _ in range(MAX_GIVEN_UP + 1):
        if not len(positions):
            return _fit_of(target, positions, heights)
        fit = _fitted(target, positions, heights)
        distances = np.sqrt((_steps_between(fit.positions, target.grid.box) ** 2).sum(axis=-1))
        pairs = np.argwhere(np.triu(distances < MIN_DISTANCE_ANGSTROM, 1))
        among = np.unique(pairs[0]) if len(pairs) else np.arange(len(fit.heights))
        lowest = among[np.argmin(fit.heights[among])]
        if not len(pairs) and fit.heights[lowest] >= threshold:
            return fit
        positions, heights = np.delete(fit.positions, lowest, axis=0), np.delete(fit.heights, lowest)
    raise Undecodable("sites voxel is no sum of atoms")


def _maxima(target: _Target, above: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 3) and heights (n,) to start from: maxima among ``above`` that no higher one explains."""
    flat, grid, kernel = target.flat, target.grid, target.kernel
    if flat[above].sum() > MAX_ATOMS * 2**1.5 * kernel.norm:
        raise Undecodable(f"more than {MAX_ATOMS} atoms' worth of density in one sites voxel")
    points = np.stack(np.unravel_index(above, (grid.size,) * 3), axis=1)
    cubes = flat[_around(points, _CUBE, grid.size)]
    matched = cubes @ kernel.matched
    # Of equal neighbours the first is the maximum, or a clean tie would count twice.
    peaks = np.flatnonzero((cubes.argmax(axis=1) == 13) & (matched > threshold))
    if len(peaks) > 4 * MAX_ATOMS:
        raise Undecodable(f"more than {MAX_ATOMS} atoms in one sites voxel")
    points, unexplained = points[peaks], matched[peaks]
    positions = (points + _parabola(np.maximum(cubes[peaks], grid.cutoff))) * grid.spacing
    overlap = _overlap(_steps_between(points * grid.spacing, grid.box), grid.sigma)
    taken = []
    for peak in np.argsort(-unexplained, kind="stable"):
        if unexplained[peak] > threshold:
            taken.append(peak)
            unexplained = unexplained - min(unexplained[peak], 1) * overlap[peak]
    if len(taken) > MAX_ATOMS:
        raise Undecodable(f"more than {MAX_ATOMS} atoms in one sites voxel")
    return positions[taken], np.ones(len(taken))


def _parabola(cubes: np.ndarray) -> np.ndarray:
    """(n, 3) offsets, in points, of the tops of parabolas through the logarithms along each axis."""
    logs = np.log(cubes)
    before, after = logs[:, [4, 10, 12]], logs[:, [22, 16, 14]]
    bend = np.maximum(2 * logs[:, [13]] - before - after, 1e-3)
    return np.clip((after - before) / (2 * bend), -0.6, 0.6)


def _hidden(target: _Target, fit: _Fit, threshold: float) -> np.ndarray | None:
    """Position (3,) of the highest Gaussian left over near those found, where one is high enough."""
    grid, zeros = target.grid, target.zeros
    residual = fit.residual.ravel()
    left = np.flatnonzero(residual > threshold / 2)
    if not len(left):
        return None
    left = fit.index.ravel()[left[np.argsort(-residual[left], kind="stable")[:MAX_HIDDEN_CANDIDATES]]]
    points = np.stack(np.unravel_index(left, (grid.size,) * 3), axis=1)
    cubes = _around(points, _CUBE, grid.size)
    np.add.at(zeros, fit.index.ravel(), (fit.heights[:, None] * fit.shapes).ravel())
    matched = (target.flat[cubes] - zeros[cubes] - _background(target.flat)) @ target.kernel.matched
    zeros[fit.index] = 0
    best = int(np.argmax(matched))
    return points[best] * grid.spacing if matched[best] > threshold / 2 else None


def _with_one_more(target: _Target, fit: _Fit, hidden: np.ndarray) -> np.ndarray:
    """Positions (n + 1, 3) to start from with another atom at ``hidden`` (3,).

    Where it coincides with one that was found, this is the middle of two so close that they have one maximum. There no
    gradient moves them apart, so they start on the axis along which most is left over.
    """
    positions = np.vstack([fit.positions, hidden])
    away = np.linalg.norm(_steps_between(positions, target.grid.box)[-1, :-1], axis=1)
    twin = int(np.argmin(away))
    if away[twin] < SAME_PLACE_ANGSTROM:
        steps = target.kernel.steps[:, 1:]
        axes = np.linalg.eigh((steps * fit.residual[twin][:, None]).T @ steps)[1]
        positions[-1] = positions[twin] - axes[:, -1] * target.grid.sigma / 2
        positions[twin] += axes[:, -1] * target.grid.sigma / 2
    return positions


def _background(flat: np.ndarray) -> float:
    """Mean of the image far from its atoms, from a sample: noise cut off at zero leaves one."""
    sample = flat[::61]
    low = sample[sample < 0.25]
    return float(low.mean()) if len(low) else 0.0


def _steps_between(positions: np.ndarray, box: float) -> np.ndarray:
    """(n, n, 3) shortest steps to each of ``positions`` (n, 3) from each in the periodic box: [i, j] = i - j."""
    steps = positions[:, None] - positions
    return steps - box * np.rint(steps / box)


def _overlap(apart: np.ndarray, sigma: float) -> np.ndarray:
    """(n, n) sums of products of Gaussians that are ``apart`` (n, n, 3), relative to that of one with itself."""
    return np.exp((apart**2).sum(axis=-1) / (-4 * sigma**2))
