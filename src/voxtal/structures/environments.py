"""How the elements of a crystal stand to each other, whatever they are and however large it is."""

from __future__ import annotations

import numpy as np

from voxtal.structures.validity import reduced_cell

FEATURES = 2
"""Numbers for each pair of elements."""

_REACH = 2.2
"""Longest distance that is told apart, in cube roots of the volume of an atom."""
_SAME = 1e-6
"""Angstrom: an atom and itself."""
_NEAR = 1.35
"""Atoms up to this distance are neighbours: all 12 or 14 of close-packed and body-centred crystals."""


def environments(numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Distances and numbers of neighbours between the elements of a crystal, free of scale.

    Returns
    -------
    np.ndarray
        (k, k, 2) float32 for the k elements by rising atomic number: the shortest distance between an atom of the one
        and an atom of the other, images included, in cube roots of the volume of an atom; and how many atoms of the
        other an atom of the one has near it, a mean, as log(1 + n).
    """
    unit = float(abs(np.linalg.det(cell)) / len(numbers)) ** (1 / 3)
    first, second, distance = _distances(frac_coords, cell, _REACH * unit)
    elements, place = np.unique(numbers, return_inverse=True)
    k, pair = len(elements), (place[first], place[second])
    shortest = np.full((k, k), _REACH)
    np.minimum.at(shortest, pair, distance / unit)
    near = np.zeros((k, k))
    np.add.at(near, pair, distance < _NEAR * unit)
    near /= np.bincount(place)[:, None]
    return np.stack([shortest, np.log1p(near)], axis=2).astype(np.float32)


def _distances(frac_coords: np.ndarray, cell: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of atoms up to ``reach`` apart, each in both directions, and their distances; images included."""
    reduced = reduced_cell(cell)
    frac = frac_coords @ (cell @ np.linalg.inv(reduced))
    most = np.ceil(reach * np.linalg.norm(np.linalg.inv(reduced), axis=0) + 0.5).astype(int)
    shifts = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in most), indexing="ij"), axis=-1).reshape(-1, 3)
    between = frac[None] - frac[:, None]
    between -= np.round(between)
    distances = np.linalg.norm((between[:, :, None] + shifts) @ reduced, axis=3)
    first, second, image = np.nonzero((distances <= reach) & (distances > _SAME))
    return first, second, distances[first, second, image]
