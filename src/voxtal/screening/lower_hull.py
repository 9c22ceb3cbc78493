"""The lower convex hull of energies over composition, and heights above it, for tables of any length.

Phases are rows of one table: fractions of the elements, shape (n, k), and energies per atom, shape (n,). A hull is an
array of facets, shape (m, k): the rows of the k phases into which whatever lies within the facet decomposes. The rows
in a hull's facets determine it, so a hull that grows is computed again from those and the new rows alone.
"""

from __future__ import annotations

import numpy as np

FORMATION_TOLERANCE_EV_PER_ATOM = 1e-11
"""Compounds that are not lower than this against the elements are not on a hull."""

_SMALLEST_FACET = 1e-14
"""Facets of a smaller determinant are upright, or slivers that Qhull makes of flat facets."""
_INSIDE = -1e-9
"""A composition lies in a facet when none of its shares of the corners is below this."""
_NUMBERS_AT_ONCE = 4_000_000


def lower_hull(fractions: np.ndarray, energies: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
    """Facets of the lower hull.

    Parameters
    ----------
    fractions : ndarray, (n, k)
        Fractions of the k elements; each row sums to one.
    energies : ndarray, (n,)
        eV/atom, against anything, so long as it is the same for all.
    among : ndarray of int, optional
        Rows that are considered, all if not given: the rows in the last hull's facets and new ones, to let it grow.
        Must hold a row of every pure element.

    Returns
    -------
    ndarray of int, (m, k)
        Rows of the table in each facet; between them the facets cover every composition.
    """
    from scipy.spatial import ConvexHull

    rows = np.arange(len(energies)) if among is None else np.asarray(among, dtype=np.int64)
    k = fractions.shape[1]
    corners = np.array([_lowest_pure(fractions, energies, rows, element) for element in range(k)])
    formation = energies - fractions @ energies[corners]
    low = rows[formation[rows] < -FORMATION_TOLERANCE_EV_PER_ATOM]
    if len(low) == 0:
        return corners[None, :]
    points = np.concatenate([corners, _lowest_of_composition(fractions, formation, low)])
    # The apex stands high above the middle: every facet of the upper hull ends in it, and k + 1 points are never flat.
    apex = np.full(k, 1.0 / k)
    apex[-1] = 1.0
    coordinates = np.column_stack([fractions[points, 1:], formation[points]])
    simplices = ConvexHull(np.vstack([coordinates, apex])).simplices
    facets = points[simplices[(simplices < len(points)).all(axis=1)]]
    return facets[np.abs(np.linalg.det(fractions[facets])) > _SMALLEST_FACET]


def heights(
    fractions: np.ndarray, energies: np.ndarray, facets: np.ndarray, of: np.ndarray | None = None
) -> np.ndarray:
    """Signed energy above a hull: negative for rows that lie below it and are not part of it.

    Parameters
    ----------
    fractions, energies : ndarray
        The table, as for :func:`lower_hull`.
    facets : ndarray of int, (m, k)
        The hull.
    of : ndarray of int, optional
        Rows whose heights are wanted, all if not given.

    Returns
    -------
    ndarray
        eV/atom, one for each row.
    """
    rows = np.arange(len(energies)) if of is None else np.asarray(of, dtype=np.int64)
    matrices = fractions[facets]
    to_shares = np.ascontiguousarray(np.linalg.inv(matrices).transpose(2, 1, 0))  # (corner, element, facet)
    size = np.abs(np.linalg.det(matrices))
    corner_energies = energies[facets]
    out = np.empty(len(rows))
    at_once = max(1, _NUMBERS_AT_ONCE // facets.size)
    for start in range(0, len(rows), at_once):
        some = rows[start : start + at_once]
        shares = fractions[some] @ to_shares  # (corner, row, facet)
        worst = shares.min(axis=0)
        # The largest facet that holds the composition: slivers are inverted less exactly. Else the nearest one.
        holding = np.where(worst >= _INSIDE, size, -np.inf).argmax(axis=1)
        facet = np.where(worst.max(axis=1) >= _INSIDE, holding, worst.argmax(axis=1))
        on_hull = (shares[:, np.arange(len(some)), facet].T * corner_energies[facet]).sum(axis=1)
        out[start : start + at_once] = energies[some] - on_hull
    return out


def _lowest_pure(fractions: np.ndarray, energies: np.ndarray, rows: np.ndarray, element: int) -> int:
    pure = rows[fractions[rows, element] > 1 - 1e-12]
    assert len(pure), "a hull needs an entry of every element"
    return int(pure[energies[pure].argmin()])


def _lowest_of_composition(fractions: np.ndarray, energies: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The row of the lowest energy of each composition, the first one among equals."""
    rows = rows[np.argsort(energies[rows], kind="stable")]
    _, first = np.unique(np.round(fractions[rows], 12) + 0.0, axis=0, return_index=True)
    return np.sort(rows[first])
