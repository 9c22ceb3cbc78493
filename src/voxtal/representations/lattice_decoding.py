"""The cell from a lattice voxel, by least squares over all voxels that know something of it.

A lattice voxel is the same at f and -f: the two are averaged first, and half of the voxels remain.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from voxtal.representations.lattice import LatticeGrid
from voxtal.representations.placement import cell_from_metric
from voxtal.representations.reasons import Undecodable
from voxtal.representations.steps import STEP, is_step, step_radius

FLOOR = 0.03
"""Voxels that should be lower than this are not used for decoding: the cut at 0.02 makes a step there."""

JOINED = 0.25
"""Voxels as high as this that touch each other make the region that the first metric is taken from."""

MAX_STEPS = 25
FREE_STEPS = 5
"""Steps during which the voxels in use change with the metric."""

CONVERGED = 1e-6
"""Relative change of the metric below which it is taken as found."""

UNEXPLAINED = 0.5
"""A fit that leaves more than this share of the squared voxels is of something else than a Gaussian."""

STEP_SOFTNESS = (0.3, 0.1, 0.05)
"""Widths of the edge, in voxels, at which an image of zeros and ones is fitted, one after the other."""

STEP_TRUST = 0.01
"""Weight of the second moments where zeros and ones leave the metric open, as along an edge of one voxel."""


def decode_lattice(image: np.ndarray, grid: LatticeGrid) -> np.ndarray:
    """The cell (3, 3; rows, angstrom; standard orientation) that fits a lattice voxel best.

    -2 sigma^2 ln v = f G f is linear in the metric tensor: weighted least squares over the voxels about the
    middle give a first G. Gauss-Newton steps on v itself follow, whose noise no logarithm has bent. An image of
    zeros and ones (cut at 1/2, as the published loss drives a network to) has only an edge: it is fitted instead.

    Parameters
    ----------
    image
        (N, N, N) lattice voxel.

    Raises
    ------
    Undecodable
        No positive definite metric fits, the image is no Gaussian, or it is not finite.
    """
    values = np.asarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise Undecodable("lattice voxel is not finite")
    half, near = _folded(values), _near_middle(values)
    if is_step(half[near]):
        metric = _stepped(_second_moments(half, near, grid), half, grid)
    else:
        metric = _refined(_first_metric(half, near, grid), half, grid)
    try:
        return cell_from_metric(_symmetric(metric))
    except np.linalg.LinAlgError:
        raise Undecodable("metric of the lattice voxel is not positive definite") from None


_ROW, _COLUMN = np.array([0, 1, 2, 0, 0, 1]), np.array([0, 1, 2, 1, 2, 2])


@lru_cache(maxsize=8)
def _terms(size: int) -> np.ndarray:
    """(m, 6): coefficients of G00, G11, G22, G01, G02, G12 in f G f, for the voxels of :func:`_folded`."""
    axis = np.arange(1 - size // 2, size // 2) / size
    fractional = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    products = fractional[:, _ROW] * fractional[:, _COLUMN] * np.array([1, 1, 1, 2, 2, 2])
    return np.ascontiguousarray(products[: len(products) // 2])


@lru_cache(maxsize=8)
def _quarter(size: int) -> np.ndarray:
    """Voxels of :func:`_folded` within a quarter of the cell: there no other image is nearer if it is reduced."""
    return np.flatnonzero((_terms(size)[:, :3] <= 1 / 16).all(axis=1))


def _folded(values: np.ndarray) -> np.ndarray:
    """(m,) means of the voxels at f and at -f, the middle one and those on the faces left out."""
    inner = values[1:, 1:, 1:].reshape(-1)
    m = len(inner) // 2
    return 0.5 * (inner[:m] + inner[:m:-1]).astype(np.float64)


def _near_middle(values: np.ndarray) -> np.ndarray:
    """Those voxels of :func:`_folded` that touch the middle one or are joined to it by high ones."""
    from scipy import ndimage

    middle, reach = len(values) // 2, len(values) // 4
    inner = slice(middle - reach, middle + reach + 1)
    labels, _ = ndimage.label(values[inner, inner, inner] > JOINED)
    label = labels[reach, reach, reach]
    if label == 0:
        raise Undecodable("nothing in the middle of the lattice voxel")
    joined = labels == label
    joined[reach - 1 : reach + 2, reach - 1 : reach + 2, reach - 1 : reach + 2] = True
    return _quarter(len(values))[joined.reshape(-1)[: joined.size // 2]]


def _first_metric(half: np.ndarray, near: np.ndarray, grid: LatticeGrid) -> np.ndarray:
    """(6,) metric by weighted least squares on the logarithms of the voxels about the middle."""
    values = np.clip(half[near], grid.cutoff, 1)
    squared = -2 * grid.sigma**2 * np.log(values)
    return _least_squares(_terms(grid.size)[near] * values[:, None], squared * values)


def _refined(metric: np.ndarray, half: np.ndarray, grid: LatticeGrid) -> np.ndarray:
    """Gauss-Newton on the voxel values, over the voxels whose nearest image is certain."""
    all_terms = _terms(grid.size)
    for iteration in range(MAX_STEPS):
        if iteration < FREE_STEPS:
            used = np.flatnonzero(all_terms @ metric < _trusted_radius(metric, grid) ** 2)
            terms, values = all_terms[used], half[used]
        model = np.exp(terms @ metric / (-2 * grid.sigma**2))
        jacobian = terms * (model / (-2 * grid.sigma**2))[:, None]
        left = values - model
        step = _least_squares(jacobian, left)
        metric = metric + step
        if np.abs(step).max() < CONVERGED * np.abs(metric).max():
            break
    _trusted_radius(metric, grid)
    if left @ left > UNEXPLAINED * (model @ model):
        raise Undecodable("lattice voxel is no Gaussian")
    return metric


def _second_moments(half: np.ndarray, near: np.ndarray, grid: LatticeGrid) -> np.ndarray:
    """(6,) metric of the ellipsoid with the second moments of the voxels about the middle."""
    terms, values = _terms(grid.size)[near], half[near]
    sums = 2 * values @ terms / np.array([1, 1, 1, 2, 2, 2])
    moments = _symmetric(sums / (2 * values.sum() + 1)) + np.eye(3) / (6 * grid.size**2)
    return np.linalg.inv(moments)[_ROW, _COLUMN] * step_radius(grid.sigma) ** 2 / 5


def _stepped(metric: np.ndarray, half: np.ndarray, grid: LatticeGrid) -> np.ndarray:
    """The ellipsoid that divides the ones from the zeros: logistic regression on f G f, ever sharper.

    A sharp edge prefers no metric among those that divide the voxels alike; a soft one prefers the middle of them,
    but too small an ellipsoid.
    """
    radius2 = step_radius(grid.sigma) ** 2
    used = np.flatnonzero(_terms(grid.size) @ metric < min(4 * radius2, _trusted_radius(metric, grid) ** 2))
    terms, values = _terms(grid.size)[used], half[used]
    if (values > STEP).all():
        raise Undecodable("the lattice voxel is full")
    start = metric
    voxel = 2 * np.sqrt(radius2 * start[:3].mean()) / grid.size
    for softness in STEP_SOFTNESS:
        metric = _divided(metric, start, terms, values, radius2, softness * voxel)
    _trusted_radius(metric, grid)
    return metric


def _divided(
    metric: np.ndarray, start: np.ndarray, terms: np.ndarray, values: np.ndarray, radius2: float, width: float
) -> np.ndarray:
    """Newton's method for the metric (6,) whose edge at ``radius2``, so wide, divides the ``values`` best."""
    trust = STEP_TRUST / start[:3].mean() ** 2

    def loss(trial: np.ndarray) -> float:
        inside = (radius2 - terms @ trial) / width
        return float((np.logaddexp(0, inside) - values * inside).sum() + trust / 2 * ((trial - start) ** 2).sum())

    error = loss(metric)
    for _ in range(MAX_STEPS):
        share = 1 / (1 + np.exp(np.clip((terms @ metric - radius2) / width, -50, 50)))
        curvature = (terms.T * (share * (1 - share) / width**2)) @ terms + trust * np.eye(6)
        step = np.linalg.solve(curvature, terms.T @ (share - values) / width + trust * (start - metric))
        while (trial := loss(metric + step)) > error and np.abs(step).max() > CONVERGED * metric.max():
            step = step / 2
        if trial > error:
            break
        metric, gained, error = metric + step, error - trial, trial
        if gained < 1e-4:
            break
    return metric


def _least_squares(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.solve(matrix.T @ matrix, matrix.T @ target)
    except np.linalg.LinAlgError:
        raise Undecodable("too few voxels about the middle of the lattice voxel") from None


def _trusted_radius(metric: np.ndarray, grid: LatticeGrid) -> float:
    """Within it the nearest image is the one in the middle cell, and the Gaussian is above the floor."""
    a, b, c, d, e, f = metric.tolist()
    minors = (b * c - f * f, a * c - e * e, a * b - d * d)
    volume2 = a * minors[0] - d * (d * c - f * e) + e * (d * f - b * e)
    if not (a > 0 and minors[2] > 0 and volume2 > 0):
        raise Undecodable("metric of the lattice voxel is not positive definite")
    half_height = 0.5 * (volume2 / max(minors)) ** 0.5
    return min(half_height, grid.sigma * (-2 * np.log(FLOOR)) ** 0.5)


def _symmetric(six: np.ndarray) -> np.ndarray:
    matrix = np.empty((3, 3))
    matrix[_ROW, _COLUMN] = matrix[_COLUMN, _ROW] = six
    return matrix
