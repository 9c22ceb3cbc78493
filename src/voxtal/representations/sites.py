"""Sites voxels: the atoms of one element as Gaussians on a periodic cubic grid.

CCDCGAN, section Representation: an atom at p adds exp(-d^2 / 2 sigma^2) to every grid point, d the
minimum-image distance in the box; what is below the cut is zero per atom, then the atoms are summed.
Point (i, j, k) lies at (i, j, k) * box / G and is ``image[i, j, k]``.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from voxtal.config import VoxelsConfig
from voxtal.errors import UserError
from voxtal.representations.reasons import Undecodable
from voxtal.units import MIN_DISTANCE_ANGSTROM

THRESHOLD = 0.3
"""Smallest height (1 is one atom) that is taken as an atom."""


@dataclass(frozen=True)
class SitesGrid:
    """A cubic grid of ``size``^3 points in a box, and the Gaussian of an atom; lengths in angstrom."""

    size: int
    box: float
    sigma: float
    cutoff: float

    def __post_init__(self) -> None:
        if 2 * self.reach + 1 > self.size:
            raise UserError(
                f"voxels.sites_sigma_angstrom = {self.sigma}: an atom's Gaussian is wider than the box of "
                f"{self.box} angstrom; take a smaller one, or a larger voxels.box_angstrom."
            )

    @classmethod
    def of(cls, voxels: VoxelsConfig) -> SitesGrid:
        return cls(voxels.sites_grid, voxels.box_angstrom, voxels.sites_sigma_angstrom, voxels.cutoff)

    @property
    def spacing(self) -> float:
        """Distance of neighbouring points, angstrom."""
        return self.box / self.size

    @cached_property
    def reach(self) -> int:
        """Points that an atom's Gaussian reaches to each side of the nearest one."""
        radius = self.sigma * np.sqrt(-2 * np.log(self.cutoff))
        return int(np.ceil(radius / self.spacing - 0.5))

    @cached_property
    def patch(self) -> np.ndarray:
        """(P,): steps of the patch along one axis."""
        return np.arange(-self.reach, self.reach + 1)


def encode_sites(positions: np.ndarray, channels: np.ndarray, grid: SitesGrid) -> tuple[np.ndarray, np.ndarray]:
    """Non-zero voxels of one image per element.

    Parameters
    ----------
    positions
        (n, 3) Cartesian coordinates in the box, angstrom; what lies outside wraps.
    channels
        (n,) image that each atom belongs to, counted from 0.

    Returns
    -------
    tuple
        Flat indices (m,) int64, sorted: ``channel * G^3 + (x * G + y) * G + z``; and values (m,) float32.
    """
    nearest = np.rint(positions / grid.spacing).astype(np.int64)
    points = nearest[:, :, None] + grid.patch
    gaussians = np.exp((points * grid.spacing - positions[:, :, None]) ** 2 / (-2 * grid.sigma**2))
    values = gaussians[:, 0, :, None, None] * gaussians[:, 1, None, :, None] * gaussians[:, 2, None, None, :]
    index = _flat(points, grid.size) + (channels * grid.size**3)[:, None, None, None]
    kept = values >= grid.cutoff
    return sum_by_index(index[kept], values[kept])


def _flat(points: np.ndarray, size: int) -> np.ndarray:
    """(n, P, P, P) flat indices of the patches whose points along each axis are ``points`` (n, 3, P)."""
    x, y, z = np.moveaxis(points % size, 1, 0)
    return (x[:, :, None, None] * size + y[:, None, :, None]) * size + z[:, None, None, :]


def sum_by_index(index: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct ``index`` and the sums of ``values`` there, as float32."""
    order = np.argsort(index, kind="stable")
    index = index[order]
    first = np.flatnonzero(np.diff(index, prepend=-1))
    return index[first], np.add.reduceat(values[order], first).astype(np.float32)


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
    windows = flat[_flat(points[:, :, None] + grid.patch, grid.size)]
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
    return np.unique(_flat(points, grid.size))


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
