"""What ICSG3D reports of its networks: recall of species maps, distances of sites, errors of cells (table 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def nonzero_recall(predicted: np.ndarray, species: np.ndarray) -> np.ndarray:
    """Share of each map's voxels in ions that have their element, (b,), of species maps (b, N, N, N)."""
    inside = np.asarray(species) != 0
    right = inside & (np.asarray(predicted) == species)
    return np.asarray(right.sum((1, 2, 3)) / np.maximum(inside.sum((1, 2, 3)), 1))


def nonzero_precision(predicted: np.ndarray, species: np.ndarray) -> np.ndarray:
    """Share of the voxels in predicted ions that have their element, (b,); 0 where no ion is predicted."""
    return nonzero_recall(species, predicted)


def earth_mover_distance(found: np.ndarray, true: np.ndarray) -> float:
    """Mean distance of sites (n, 3) to those (m, 3) that each is assigned to, in their unit.

    As the authors' code has it: the assignment of the smaller number of sites with the least sum, no periodic images,
    elements not looked at.
    """
    from scipy.optimize import linear_sum_assignment

    distances = np.linalg.norm(found[:, None] - true[None], axis=-1)
    return float(distances[linear_sum_assignment(distances)].mean())


@dataclass(frozen=True)
class Reconstruction:
    """How one structure came back from its code.

    Attributes
    ----------
    cell_errors
        (3,) differences of the lengths a, b, c, angstrom.
    sites_error
        Earth mover's distance of the sites, angstrom.
    missing
        Sites too few or too many.
    """

    cell_errors: np.ndarray
    sites_error: float
    missing: int


def compared(found: tuple[np.ndarray, np.ndarray], true: tuple[np.ndarray, np.ndarray]) -> Reconstruction:
    """Of fractional coordinates (n, 3) and cell (3, 3; rows, angstrom), each shifted so that the smallest are 0."""
    (sites, cell), (true_sites, true_cell) = found, true
    lengths, true_lengths = (np.linalg.norm(matrix, axis=1) for matrix in (cell, true_cell))
    here, there = ((frac - frac.min(axis=0)) @ matrix for frac, matrix in ((sites, cell), (true_sites, true_cell)))
    return Reconstruction(
        np.abs(lengths - true_lengths), earth_mover_distance(here, there), abs(len(sites) - len(true_sites))
    )
