"""The cell from a lattice voxel, by least squares over all voxels that know something of it."""

from __future__ import annotations

import numpy as np

from voxtal.representations.lattice import LatticeGrid
from voxtal.representations.placement import cell_from_metric
from voxtal.representations.reasons import Undecodable

FLOOR = 0.03
"""Voxels that should be lower than this are not used for decoding: the cut at 0.02 makes a step there."""


def decode_lattice(image: np.ndarray, grid: LatticeGrid) -> np.ndarray:
    """The cell (3, 3; rows, angstrom; standard orientation) that fits a lattice voxel best.

    -2 sigma^2 ln v = f G f is linear in the metric tensor: weighted least squares over the voxels about the
    middle give a first G. Gauss-Newton steps on v itself follow, whose noise no logarithm has bent.

    Parameters
    ----------
    image
        (N, N, N) lattice voxel.

    Raises
    ------
    Undecodable
        No positive definite metric fits, or the image is not finite.
    """
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise Undecodable("lattice voxel is not finite")
    middle = _middle(values)
    axis = (np.arange(grid.size) - grid.size // 2) / grid.size
    fractional = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    terms = _metric_terms(fractional)
    flat = values.ravel()
    metric = _refined(_first_metric(flat[middle], terms[middle], grid), flat, terms, grid)
    return cell_from_metric(metric)


_ROW, _COLUMN = np.array([0, 1, 2, 0, 0, 1]), np.array([0, 1, 2, 1, 2, 2])
MAX_FIRST_VOXELS = 200
MAX_STEPS = 25


def _metric_terms(fractional: np.ndarray) -> np.ndarray:
    """(m, 6): coefficients of G00, G11, G22, G01, G02, G12 in f G f."""
    return fractional[:, _ROW] * fractional[:, _COLUMN] * np.array([1, 1, 1, 2, 2, 2])


def _middle(values: np.ndarray) -> np.ndarray:
    """Flat indices of the highest voxels connected to the middle, and of those next to them."""
    from scipy import ndimage

    middle = values.shape[0] // 2
    labels, _ = ndimage.label(values > 0.25)
    label = labels[middle, middle, middle]
    if label == 0:
        raise Undecodable("nothing in the middle of the lattice voxel")
    region = ndimage.binary_dilation(labels == label, structure=np.ones((3, 3, 3)))
    flat = np.flatnonzero(region.ravel() & (values.ravel() > 2 * FLOOR))
    return flat[np.argsort(-values.ravel()[flat], kind="stable")[:MAX_FIRST_VOXELS]]


def _first_metric(values: np.ndarray, terms: np.ndarray, grid: LatticeGrid) -> np.ndarray:
    squared = -2 * grid.sigma**2 * np.log(np.minimum(values, 1))
    solution, *_ = np.linalg.lstsq(terms * values[:, None], squared * values, rcond=None)
    return _symmetric(solution)


def _refined(metric: np.ndarray, flat: np.ndarray, terms: np.ndarray, grid: LatticeGrid) -> np.ndarray:
    """Gauss-Newton on the voxel values, over the voxels whose nearest image is certain."""
    for _ in range(MAX_STEPS):
        squared = terms @ metric[_ROW, _COLUMN]
        used = squared < _trusted_radius(metric, grid) ** 2
        model = np.exp(squared[used] / (-2 * grid.sigma**2))
        jacobian = terms[used] * (model / (-2 * grid.sigma**2))[:, None]
        step, *_ = np.linalg.lstsq(jacobian, flat[used] - model, rcond=None)
        metric = metric + _symmetric(step)
        if np.abs(step).max() < 1e-9 * np.abs(metric).max():
            break
    _trusted_radius(metric, grid)
    return metric


def _trusted_radius(metric: np.ndarray, grid: LatticeGrid) -> float:
    """Within it the nearest image is the one in the middle cell, and the Gaussian is above the floor."""
    try:
        cell = cell_from_metric(metric)
    except np.linalg.LinAlgError:
        raise Undecodable("metric of the lattice voxel is not positive definite") from None
    half_height = 0.5 / np.linalg.norm(np.linalg.inv(cell), axis=0).max()
    return min(float(half_height), float(grid.sigma * np.sqrt(-2 * np.log(FLOOR))))


def _symmetric(six: np.ndarray) -> np.ndarray:
    matrix = np.empty((3, 3))
    matrix[_ROW, _COLUMN] = matrix[_COLUMN, _ROW] = six
    return matrix
