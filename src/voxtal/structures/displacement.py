"""How far atoms moved between two states of one crystal, such as before and after a relaxation."""

from __future__ import annotations

import numpy as np

from voxtal.structures.validity import reduced_cell


def rms_displacement(
    frac_coords: np.ndarray, cell: np.ndarray, other_frac_coords: np.ndarray, other_cell: np.ndarray
) -> float:
    """Root mean square displacement of the atoms, angstrom.

    Fractional coordinates are compared, so a change of the cell alone moves no atom; displacements are measured in
    the mean of the two cells, to the nearest image, and a motion common to all atoms is taken off.

    Parameters
    ----------
    frac_coords, other_frac_coords : (n, 3) float
        Fractional coordinates of the same atoms in the same order, n >= 1.
    cell, other_cell : (3, 3) float
        Lattice vectors as rows, angstrom; not singular.
    """
    mean_cell = (np.asarray(cell, dtype=np.float64) + other_cell) / 2
    short_cell = reduced_cell(mean_cell)
    steps = (np.asarray(other_frac_coords) - frac_coords) @ mean_cell @ np.linalg.inv(short_cell)
    steps -= steps[0]  # first guess of the common motion, exact to within one atom's own
    for _ in range(2):
        steps -= np.rint(steps)
        steps -= steps.mean(axis=0)
    return float(np.sqrt(np.mean(np.sum((steps @ short_cell) ** 2, axis=1))))
