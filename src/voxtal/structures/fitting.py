"""Whether one reduced crystal can be laid onto another: StructureMatcher's answer, several times sooner.

The same tests as ``pymatgen.core.structure_matcher.StructureMatcher.fit`` (doi:10.1016/j.commatsci.2012.10.028) makes
of two structures of the same atoms, for all choices of cell and all translations at once; what is left is assigned
as there, by pymatgen's own routines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

_NUMBERS_AT_ONCE = 1_000_000
"""Numbers that are compared together; bounds the memory at some 20 MB."""

_SLACK = 1e-6
"""Relative rounding on which no rejection may depend."""


@dataclass(frozen=True)
class MatcherSettings:
    """Tolerances of StructureMatcher: fractional length, site (in (V/atoms)^(1/3)) and angle in degrees."""

    ltol: float
    stol: float
    angle_tol: float


@dataclass(frozen=True)
class Reduced:
    """A structure's primitive Niggli cell, made once and compared often.

    Attributes
    ----------
    numbers
        (n,) atomic numbers, rising.
    frac_coords
        (n, 3) fractional coordinates.
    cell
        (3, 3) lattice vectors as rows, angstrom.
    """

    numbers: np.ndarray
    frac_coords: np.ndarray
    cell: np.ndarray

    @cached_property
    def structure(self) -> Any:
        """As a pymatgen ``Structure``."""
        from pymatgen.core import Lattice, Structure

        return Structure(Lattice(self.cell), self.numbers.tolist(), self.frac_coords)

    @cached_property
    def scaled(self) -> np.ndarray:
        """The cell, scaled to a volume of one per atom."""
        return np.asarray(self.cell * (len(self.numbers) / abs(np.linalg.det(self.cell))) ** (1 / 3))

    @cached_property
    def lengths(self) -> np.ndarray:
        """(3,) edges of the scaled cell."""
        return np.linalg.norm(self.scaled, axis=1)

    @cached_property
    def angles(self) -> np.ndarray:
        """(3,) its angles, in degrees."""
        cosines = (self.scaled @ self.scaled.T) / np.outer(self.lengths, self.lengths)
        return np.asarray(_degrees(cosines[[1, 0, 0], [2, 2, 1]]))

    @cached_property
    def minima(self) -> np.ndarray:
        """(3,) rising: no i independent vectors of the scaled lattice are all shorter than the i-th of these.

        Edges of a Minkowski-reduced cell, which a Niggli cell is, have this property. Should these not be reduced, it
        is zeros.
        """
        a, b, c = self.scaled[np.argsort(self.lengths)]
        planar = [b + x * a for x in (-1, 1)]
        spatial = [c + x * a + y * b for x, y in product((-1, 0, 1), repeat=2)]
        reduced = _shortest(planar) >= (1 - _SLACK) * _shortest([b]) and (
            _shortest(spatial) >= (1 - _SLACK) * _shortest([c])
        )
        return np.sort(self.lengths) if reduced else np.zeros(3)

    @cached_property
    def elements(self) -> list[slice]:
        """Where the atoms of each element are, those of the rarest one first."""
        starts = [*np.flatnonzero(np.diff(self.numbers, prepend=-1)).tolist(), len(self.numbers)]
        found = [slice(first, last) for first, last in pairwise(starts)]
        return sorted(found, key=lambda part: part.stop - part.start)


def lattices_may_fit(minima: np.ndarray, target: Reduced, settings: MatcherSettings) -> np.ndarray:
    """(m,) bool: False only where :func:`fits` cannot be true, from the ``minima`` (m, 3) of other crystals.

    A lattice that fits has three independent vectors that are at most 1 + ltol times as long as the target's edges.
    """
    longest = (1 + settings.ltol + _SLACK) * np.sort(target.lengths)
    return np.asarray((minima <= longest).all(axis=1))


def fits(crystal: Reduced, target: Reduced, settings: MatcherSettings) -> bool:
    """Whether ``crystal`` in some choice of cell has the target's lattice and sites, within the tolerances.

    It is asymmetric as StructureMatcher is, which finds cells of the first structure like the second one's.
    """
    if not np.array_equal(crystal.numbers, target.numbers):
        return False
    if not lattices_may_fit(crystal.minima[None], target, settings)[0]:
        return False
    return any(_sites_fit(crystal, target, steps, settings) for steps in _cells_like(crystal, target, settings))


def _cells_like(crystal: Reduced, target: Reduced, settings: MatcherSettings) -> Iterator[np.ndarray]:
    """Cells (m, 3, 3) of the crystal with nearly the target's edges and angles, as steps along its own cell."""
    longest = target.lengths.max() * (1 + settings.ltol)
    reach = np.floor(longest * np.linalg.norm(np.linalg.inv(crystal.scaled), axis=0) + _SLACK).astype(int)
    steps = np.stack(np.meshgrid(*(np.arange(-k, k + 1) for k in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    vectors = steps @ crystal.scaled
    lengths = np.linalg.norm(vectors, axis=1)
    near = [
        np.flatnonzero((lengths < edge * (1 + settings.ltol)) & (lengths > edge / (1 + settings.ltol)))
        for edge in target.lengths
    ]
    if not all(len(found) for found in near):
        return
    units = [vectors[found] / lengths[found, None] for found in near]
    pairs = (1, 2), (0, 2), (0, 1)
    alpha, beta, gamma = (
        np.abs(_degrees(units[i] @ units[j].T) - angle) <= settings.angle_tol
        for (i, j), angle in zip(pairs, target.angles, strict=True)
    )
    at_once = max(1, _NUMBERS_AT_ONCE // alpha.size)
    for first in range(0, len(near[0]), at_once):
        rows = slice(first, first + at_once)
        a, b, c = np.nonzero(gamma[rows, :, None] & beta[rows, None, :] & alpha)
        found = np.stack([steps[near[0][rows][a]], steps[near[1][b]], steps[near[2][c]]], axis=1)
        found = found[np.abs(np.abs(np.linalg.det(found)) - 1) < 0.5]
        size = max(1, _NUMBERS_AT_ONCE // (3 * len(crystal.numbers) ** 3))
        yield from (found[i : i + size] for i in range(0, len(found), size))


def _sites_fit(crystal: Reduced, target: Reduced, steps: np.ndarray, settings: MatcherSettings) -> bool:
    """Whether a translation lays the sites on the target's, in one of the cells ``steps`` (m, 3, 3)."""
    vectors = steps @ crystal.scaled
    lengths = np.linalg.norm(vectors, axis=2)
    units = vectors / lengths[:, :, None]
    first, second = [1, 0, 0], [2, 2, 1]
    angles = (_degrees((units[:, first] * units[:, second]).sum(axis=2)) + target.angles) / 2
    lengths = (lengths + target.lengths) / 2
    metric = np.repeat(np.eye(3)[None], len(steps), axis=0)
    metric[:, first, second] = metric[:, second, first] = np.cos(np.radians(angles))
    metric *= lengths[:, :, None] * lengths[:, None, :]
    sizes = (np.sqrt(np.abs(np.linalg.det(metric))) / len(crystal.numbers)) ** (1 / 3)
    reach = 2 * settings.stol * sizes[:, None] * np.sqrt(np.diagonal(np.linalg.inv(metric), axis1=1, axis2=2))
    sites = np.matmul(crystal.frac_coords, np.linalg.inv(steps)) % 1.0
    rarest = crystal.elements[0]
    shifts = sites[:, rarest] - target.frac_coords[rarest.start]
    cell, shift = np.divmod(np.arange(shifts.shape[0] * shifts.shape[1]), shifts.shape[1])
    for element in crystal.elements:
        moved = target.frac_coords[element] + shifts[cell, shift][:, None]
        apart = moved[:, :, None] - sites[cell][:, None, element]
        apart -= np.rint(apart)
        near = (np.abs(apart) <= reach[cell][:, None, None]).all(axis=3).any(axis=2).all(axis=1)
        cell, shift = cell[near], shift[near]
        if not len(cell):
            return False
    different = (crystal.numbers[:, None] != target.numbers).astype(np.int64)
    return any(
        _largest_displacement(
            sites[i], target.frac_coords + shifts[i, j], lengths[i], angles[i], different, sizes[i], settings
        )
        < settings.stol
        for i, j in zip(cell.tolist(), shift.tolist(), strict=True)
    )


def _largest_displacement(
    sites: np.ndarray,
    moved: np.ndarray,
    lengths: np.ndarray,
    angles: np.ndarray,
    different: np.ndarray,
    size: float,
    settings: MatcherSettings,
) -> float:
    """Of the sites from their partners, the mean taken off, over ``size``; partners as StructureMatcher picks them."""
    from pymatgen.core import Lattice
    from pymatgen.util.coord_cython import pbc_shortest_vectors

    lattice = Lattice.from_parameters(*lengths, *angles)
    reciprocal = np.array(lattice.get_lll_reduced_lattice().reciprocal_lattice.abc)
    reach = reciprocal * settings.stol * size / np.pi
    vectors, squared = pbc_shortest_vectors(lattice, moved, sites, different, return_d2=True, lll_frac_tol=reach)
    rows, partners = linear_sum_assignment(squared)
    shortest = vectors[rows, partners]
    return float(np.linalg.norm(shortest - shortest.mean(axis=0), axis=1).max() / size)


def _degrees(cosines: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))


def _shortest(vectors: list[np.ndarray]) -> float:
    return min(float(vector @ vector) for vector in vectors)
