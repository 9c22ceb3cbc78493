"""What ICSG3D reports of its networks: recall of species maps, distances of sites, errors of cells
(doi:10.1021/acs.jcim.0c00464, Fig. 4 and table 5)."""

from __future__ import annotations

import numpy as np

Sites = tuple[np.ndarray, np.ndarray]
"""Fractional coordinates (n, 3) in the box of the maps and the cell (3, 3; rows, angstrom)."""


def voxel_counts(predicted: np.ndarray, species: np.ndarray) -> np.ndarray:
    """Voxels of species maps (b, N, N, N), as (b, 3) int64: in an ion and with its element, in an ion, in a predicted
    one."""
    inside, found = np.asarray(species) != 0, np.asarray(predicted) != 0
    right = inside & (np.asarray(predicted) == species)
    return np.stack([part.sum((1, 2, 3)) for part in (right, inside, found)], axis=1).astype(np.int64)


def voxel_scores(counts: np.ndarray) -> np.ndarray:
    """Recall, precision and F1 of the classes that are not the background, (..., 3), of :func:`voxel_counts` (..., 3).

    Each is 0 where it would be 0 / 0. Of one map's counts they are the map's, of a sum the pooled ones.
    """
    right, inside, found = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    pairs = (right, inside), (right, found), (2 * right, inside + found)
    return np.stack([_ratio(above, below) for above, below in pairs], axis=-1)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(np.asarray(below, dtype=np.float64)), where=below > 0)


def earth_mover_distance(found: Sites, true: Sites) -> float:
    """Mean distance, angstrom, of sites to those that they are assigned to; at least one of each.

    As the authors' code has it: the assignment of the smaller number of sites with the least sum, elements not looked
    at. But a decoded site is taken at the periodic image that is nearest to the true one, along each axis: one at the
    box's zero would otherwise be an edge away for a rounding error. Where no site is half an edge away, both are equal.
    """
    from scipy.optimize import linear_sum_assignment

    (here, cell), (there, true_cell) = found, true
    steps = here[:, None] - there[None]
    images = there[None] + steps - np.round(steps)
    distances = np.linalg.norm(images @ cell - (there @ true_cell)[None], axis=-1)
    return float(distances[linear_sum_assignment(distances)].mean())


def length_errors(cell: np.ndarray, true_cell: np.ndarray) -> np.ndarray:
    """(3,) absolute differences of the lengths a, b, c, angstrom, of two cells (3, 3; rows)."""
    lengths, true_lengths = (np.linalg.norm(matrix, axis=1) for matrix in (cell, true_cell))
    return np.asarray(np.abs(lengths - true_lengths))
