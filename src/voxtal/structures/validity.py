"""Is it a crystal at all: finite numbers, a cell with volume, no atoms on top of each other."""

from __future__ import annotations

import numpy as np

from voxtal.units import MIN_DISTANCE_ANGSTROM, MIN_VOLUME_ANGSTROM3

NO_ATOMS = "no atoms"
NOT_FINITE = "not finite"
TOO_SMALL = f"volume below {MIN_VOLUME_ANGSTROM3} A^3"
TOO_CLOSE = f"atoms closer than {MIN_DISTANCE_ANGSTROM} A"

_REDUCTION_STEPS = 200
_NEIGHBOURS = (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)


def why_invalid(numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray) -> str | None:
    """Why this is no valid crystal, or None where it is one.

    Parameters
    ----------
    numbers : (n,) int
        Atomic numbers.
    frac_coords : (n, 3) float
        Fractional coordinates.
    cell : (3, 3) float
        Lattice vectors as rows, angstrom.
    """
    if len(numbers) == 0:
        return NO_ATOMS
    if not (np.isfinite(frac_coords).all() and np.isfinite(cell).all()):
        return NOT_FINITE
    if not abs(np.linalg.det(cell)) >= MIN_VOLUME_ANGSTROM3:
        return TOO_SMALL
    if shortest_distance(frac_coords, cell) < MIN_DISTANCE_ANGSTROM:
        return TOO_CLOSE
    return None


def shortest_distance(frac_coords: np.ndarray, cell: np.ndarray) -> float:
    """Shortest distance between two atoms, angstrom; images of one and the same atom count too.

    Exact for cells of any skew: the cell is reduced first, and the range of images is widened until no
    image outside of it can be nearer than what was found.

    Parameters
    ----------
    frac_coords : (n, 3) float
        Fractional coordinates, n >= 1.
    cell : (3, 3) float
        Lattice vectors as rows, angstrom; not singular.
    """
    cell = np.asarray(cell, dtype=np.float64)
    reduced = reduced_cell(cell)
    frac = np.asarray(frac_coords, dtype=np.float64).reshape(-1, 3) @ (cell @ np.linalg.inv(reduced))
    first, second = np.triu_indices(len(frac), 1)
    offsets = frac[first] - frac[second]
    offsets = (offsets - np.round(offsets)) @ reduced
    heights = 1.0 / np.linalg.norm(np.linalg.inv(reduced), axis=0)
    reach = np.ones(3, dtype=int)
    while True:
        shortest = _shortest_within(offsets, reduced, reach)
        # An offset lies within half a cell of the origin, so image m is at least (|m| - 1/2) heights away.
        needed = np.floor(shortest / heights + 0.5).astype(int)
        if (needed <= reach).all():
            return shortest
        reach = np.maximum(needed, reach)


def _shortest_within(offsets: np.ndarray, cell: np.ndarray, reach: np.ndarray) -> float:
    grids = np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij")
    images = np.stack(grids, axis=-1).reshape(-1, 3) @ cell
    lengths = np.einsum("ij,ij->i", images, images)
    squared = lengths[lengths > 0].min()
    if len(offsets):
        pairs = 2 * offsets @ images.T
        pairs += lengths
        pairs += np.einsum("ij,ij->i", offsets, offsets)[:, None]
        squared = min(squared, pairs.min())
    return float(np.sqrt(max(squared, 0.0)))


def reduced_cell(cell: np.ndarray) -> np.ndarray:
    """Lattice vectors as short as subtracting whole multiples of each other makes them, (3, 3), rows."""
    vectors = np.array(cell, dtype=np.float64)
    for _ in range(_REDUCTION_STEPS):
        changed = False
        for i, j in _NEIGHBOURS:
            multiple = np.rint(vectors[i] @ vectors[j] / (vectors[j] @ vectors[j]))
            shorter = vectors[i] - multiple * vectors[j]
            if shorter @ shorter < (1 - 1e-9) * (vectors[i] @ vectors[i]):
                vectors[i] = shorter
                changed = True
        if not changed:
            break
    return vectors
