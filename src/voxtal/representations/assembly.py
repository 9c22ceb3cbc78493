"""From decoded sites and a decoded cell to a crystal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def assemble(
    cell: np.ndarray, positions_by_element: Mapping[int, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms in a periodic cell, ordered by atomic number.

    Atoms that coincide are kept: whether the result is a structure is for validity to say.

    Parameters
    ----------
    cell
        (3, 3) lattice vectors as rows, angstrom.
    positions_by_element
        Atomic number -> (n, 3) Cartesian coordinates, angstrom, in the orientation of ``cell``.

    Returns
    -------
    tuple
        Atomic numbers (n,) uint8, fractional coordinates (n, 3) in [0, 1), and ``cell``.
    """
    elements = sorted(positions_by_element)
    counts = [len(positions_by_element[z]) for z in elements]
    numbers = np.repeat(np.array(elements, dtype=np.uint8), counts)
    empty = np.empty((0, 3))
    positions = np.concatenate([empty, *(positions_by_element[z] for z in elements)])
    frac_coords = np.linalg.solve(cell.T, positions.T).T % 1.0
    frac_coords[frac_coords >= 1] = 0.0  # -1e-17 % 1 is 1
    return numbers, frac_coords, cell
