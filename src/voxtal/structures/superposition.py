"""Two crystals in the same orientation and the same choice of cell: do their atoms coincide?"""

from __future__ import annotations

import numpy as np

MAX_DISPLACEMENT_ANGSTROM = 0.01
MAX_STRAIN = 1e-3


def displacements(
    numbers: np.ndarray,
    frac_coords: np.ndarray,
    cell: np.ndarray,
    other_numbers: np.ndarray,
    other_frac_coords: np.ndarray,
    other_cell: np.ndarray,
) -> np.ndarray | None:
    """How far the atoms of one crystal lie from those of another that is nearly equal, else None.

    Nearly equal: the cells differ by a strain of at most :data:`MAX_STRAIN` (edges, then, by 0.1%) and the atoms, once
    one crystal has been moved as a whole, by at most :data:`MAX_DISPLACEMENT_ANGSTROM`.

    Such crystals, if no two atoms of either are closer than 0.5 A, are equal for StructureMatcher with
    ``primitive_cell=False`` at any length tolerance from 0.2%, angle tolerance from 0.2 degrees and site tolerance
    from 0.1. For it tries every choice of cell whose edges and angles agree within the tolerances, and this one's do.
    And it moves one crystal so that two atoms coincide; these lie within 0.01 A of where they should, so that all
    others then lie within 0.02 A of their partners, which are their nearest atoms; taking off the mean displacement
    leaves less than 0.04 A. Spheres of 0.25 A about the atoms do not overlap, so (V / atoms)^(1/3) is at least 0.44 A,
    and 0.1 of it more than that. The reduction to primitive cells, where it is asked for, comes before this: it sees
    nearly the same atoms twice, and takes them for different only if a pseudo-translation of theirs is at its limit
    of 0.25 A.

    Parameters
    ----------
    numbers, other_numbers
        (n,) atomic numbers, in any order.
    frac_coords, other_frac_coords
        (n, 3) fractional coordinates.
    cell, other_cell
        (3, 3) lattice vectors as rows, angstrom.

    Returns
    -------
    array or None
        (n, 3) displacements of the first crystal's atoms, angstrom, their mean taken off.
    """
    if not np.array_equal(np.sort(numbers), np.sort(other_numbers)):
        return None
    if not np.linalg.norm(np.linalg.solve(cell, other_cell) - np.eye(3), 2) <= MAX_STRAIN:
        return None
    mean_cell = (cell + other_cell) / 2
    same = numbers[:, None] == other_numbers
    rarest = int(np.argmin(same.sum(axis=1)))
    steps = other_frac_coords - frac_coords[:, None]
    shifts = steps[rarest, same[rarest]]
    for shift in shifts[np.argsort(np.linalg.norm(shifts - np.rint(shifts), axis=1), kind="stable")]:
        moved = steps - shift
        vectors = (moved - np.rint(moved)) @ mean_cell  # exact for those that are far shorter than the cell is high
        distances = np.where(same, np.linalg.norm(vectors, axis=2), np.inf)
        partners = np.argmin(distances, axis=1)
        if distances.min(axis=1).max() > 2 * MAX_DISPLACEMENT_ANGSTROM or len(set(partners.tolist())) < len(partners):
            continue
        found = vectors[np.arange(len(partners)), partners]
        found -= found.mean(axis=0)
        if np.linalg.norm(found, axis=1).max() <= MAX_DISPLACEMENT_ANGSTROM:
            return np.asarray(found)
    return None
