"""Where the atoms of structures go in the box of the sites voxels, and how their cells are oriented.

One orientation is used everywhere: a along x, b in the xy plane (y > 0), c with z > 0. It is the one that
:func:`standard_cell` rebuilds from edges and angles, so a decoded cell and decoded sites fit together.
(It is ASE's and VESTA's; pymatgen's ``Lattice.from_parameters`` puts c along z instead.)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import spglib

from voxtal.representations.ragged import entries_of, offsets_of
from voxtal.representations.reasons import Unencodable
from voxtal.structures.validity import NO_ATOMS, NOT_FINITE, TOO_SMALL, reduced_cell
from voxtal.units import MIN_VOLUME_ANGSTROM3

NEIGHBOUR_OFFSETS = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
"""(27, 3): the cells around one; enough for nearest images in a reduced cell."""

_ITSELF = len(NEIGHBOUR_OFFSETS) // 2

PAIRS_AT_ONCE = 10_000
"""Pairs of atoms whose images are compared together; bounds the memory at some 20 MB."""

TIE_ANGSTROM = 1e-4
"""Images and centres that differ by less are equally good, and the first is taken: noise decides nothing."""


def cell_from_metric(metric: np.ndarray) -> np.ndarray:
    """The cell (3, 3; rows, angstrom) in the standard orientation with metric tensor ``metric`` (3, 3).

    Raises
    ------
    numpy.linalg.LinAlgError
        The metric is not positive definite.
    """
    return np.linalg.cholesky(metric)


def standard_cell(lengths: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """The cell (3, 3; rows) in the standard orientation from edges (angstrom) and angles (degrees)."""
    cosines = np.cos(np.radians(np.asarray(angles, dtype=np.float64)))
    shape = np.array([[1, cosines[2], cosines[1]], [cosines[2], 1, cosines[0]], [cosines[1], cosines[0], 1]])
    return cell_from_metric(shape * np.outer(lengths, lengths))


def cell_parameters(cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges (3,) in angstrom and angles alpha, beta, gamma (3,) in degrees of ``cell`` (3, 3)."""
    lengths = np.linalg.norm(cell, axis=1)
    unit = cell / lengths[:, None]
    cosines = [unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]]
    return lengths, np.degrees(np.arccos(np.clip(cosines, -1, 1)))


@dataclass(frozen=True)
class Placed:
    """Structures in the box.

    Attributes
    ----------
    positions
        (atoms, 3) Cartesian coordinates in the box, angstrom; NaN where there is a reason.
    cells
        (s, 3, 3) the cells that they repeat with: rows, angstrom, in the standard orientation; NaN likewise.
    shortest
        (s,) shortest distance of two atoms, images of one atom among them, angstrom; NaN likewise.
    reasons
        (s,) str objects: why it is no crystal; empty where it is one.
    """

    positions: np.ndarray
    cells: np.ndarray
    shortest: np.ndarray
    reasons: np.ndarray


def place(frac_coords: np.ndarray, cell: np.ndarray, box: float, placement: str) -> tuple[np.ndarray, np.ndarray]:
    """:func:`place_all` for one structure: Cartesian coordinates (n, 3) in the box, and the cell (3, 3).

    Raises
    ------
    Unencodable
        The structure is no crystal.
    """
    offsets = np.array([0, len(frac_coords)])
    placed = place_all(offsets, np.asarray(frac_coords), np.asarray(cell)[None], box, placement)
    if placed.reasons[0]:
        raise Unencodable(placed.reasons[0])
    return placed.positions, placed.cells[0]


def place_all(offsets: np.ndarray, frac_coords: np.ndarray, cells: np.ndarray, box: float, placement: str) -> Placed:
    """Turn structures into the standard orientation and move their centroids to the middle of the box.

    ``paper`` takes the atoms as listed (CCDCGAN, section Representation, doi:10.1016/j.actamat.2022.117898); those
    that reach out of the box wrap when they are encoded. ``compact`` takes the Niggli cell first and, of every atom,
    the image nearest to one of them, the one that leaves the smallest extent.

    Parameters
    ----------
    offsets
        (s + 1,) structure i has the atoms ``offsets[i]:offsets[i + 1]``.
    frac_coords
        (atoms, 3) fractional coordinates.
    cells
        (s, 3, 3) lattice vectors as rows, angstrom.
    box
        Edge of the cubic box, angstrom.
    placement
        ``paper`` or ``compact``.
    """
    reasons = _no_crystal(offsets, frac_coords, cells)
    rows = np.flatnonzero(reasons == "")
    atoms = entries_of(offsets, rows)
    counts = np.diff(offsets)[rows]
    own = offsets_of(counts)
    frac, cell = _right_handed(frac_coords[atoms].astype(np.float64), cells[rows].astype(np.float64), counts)
    reduced_frac, reduced = _reduced(frac, cell, counts)
    compact, listed = oriented(reduced), oriented(cell)
    clusters, distances = _clusters(own, reduced_frac, compact)
    chosen, cart_coords = (compact, clusters) if placement == "compact" else (listed, _times(frac, listed, counts))
    positions, placed_cells = np.full(frac_coords.shape, np.nan), np.full(cells.shape, np.nan)
    shortest = np.full(len(cells), np.nan)
    if len(rows):
        means = np.add.reduceat(cart_coords, own[:-1]) / counts[:, None]
        positions[atoms] = cart_coords - np.repeat(means, counts, axis=0) + box / 2
        placed_cells[rows], shortest[rows] = chosen, distances
    return Placed(positions, placed_cells, shortest, reasons)


def _no_crystal(offsets: np.ndarray, frac_coords: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """(s,) what shows before atoms are compared, in the order of :func:`voxtal.structures.validity.why_invalid`."""
    finite_atoms = np.isfinite(frac_coords).all(axis=1)
    infinite = np.concatenate([[0], np.cumsum(~finite_atoms)])
    finite = (infinite[offsets[1:]] == infinite[offsets[:-1]]) & np.isfinite(cells).all(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        small = ~(np.abs(np.linalg.det(cells)) >= MIN_VOLUME_ANGSTROM3)
    conditions = [np.diff(offsets) == 0, ~finite, small]
    return np.select(conditions, [NO_ATOMS, NOT_FINITE, TOO_SMALL], "").astype(object)


def _times(vectors: np.ndarray, matrices: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Row vectors (atoms, 3) times the matrix (3, 3) of their structure."""
    return np.matmul(vectors[:, None], np.repeat(matrices, counts, axis=0))[:, 0]


def _right_handed(frac: np.ndarray, cells: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same crystals in right-handed cells, so that turning them never mirrors them."""
    sign = np.where(np.linalg.det(cells) < 0, -1.0, 1.0)
    return frac * np.repeat(sign, counts)[:, None], cells * sign[:, None, None]


def oriented(cells: np.ndarray) -> np.ndarray:
    """Right-handed cells (..., 3, 3) turned into the standard orientation."""
    a, b, c = np.moveaxis(np.asarray(cells), -2, 0)
    normal, across = np.cross(a, b), np.cross(a, c)
    edge, area = np.linalg.norm(a, axis=-1), np.linalg.norm(normal, axis=-1)
    turned = np.zeros(np.shape(cells))
    turned[..., 0, 0] = edge
    turned[..., 1, 0] = (a * b).sum(axis=-1) / edge
    turned[..., 1, 1] = area / edge
    turned[..., 2, 0] = (a * c).sum(axis=-1) / edge
    turned[..., 2, 1] = (normal * across).sum(axis=-1) / (edge * area)
    turned[..., 2, 2] = (normal * c).sum(axis=-1) / area
    return turned


def _reduced(frac: np.ndarray, cells: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fractional coordinates and Niggli cells of the same crystals, not turned."""
    if not len(cells):
        return frac, cells
    found = [spglib.niggli_reduce(cell, eps=1e-5) for cell in cells]
    reduced = np.stack([cell if niggli is None else niggli for cell, niggli in zip(cells, found, strict=True)])
    change = np.rint(reduced @ np.linalg.inv(cells))
    failed = (np.abs(np.linalg.det(change) - 1) > 0.1) | np.array([niggli is None for niggli in found])
    for i in np.flatnonzero(failed):  # a cell so flat that spglib gives up
        change[i] = np.rint(reduced_cell(cells[i]) @ np.linalg.inv(cells[i]))
    return _times(frac, np.linalg.inv(change), counts), change @ cells


def _clusters(offsets: np.ndarray, frac: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every structure gathered about its best centre (atoms, 3), angstrom, and its shortest distance (s,)."""
    gathered, shortest = np.empty_like(frac), np.empty(len(cells))
    for rows, n in _of_equal_count(np.diff(offsets)):
        atoms = offsets[rows][:, None] + np.arange(n)
        gathered[atoms], shortest[rows] = compact_images(frac[atoms], cells[rows])
    return gathered, shortest


def _of_equal_count(counts: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Rows with the same number of atoms, as many as are compared together, and that number."""
    for n in np.unique(counts).tolist():
        rows = np.flatnonzero(counts == n)
        step = max(1, PAIRS_AT_ONCE // n**2)
        yield from ((rows[i : i + step], n) for i in range(0, len(rows), step))


def compact_images(frac: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One image per atom, the nearest to a common centre atom, and the shortest distance between any two atoms.

    Every atom is tried as the centre; the one whose cluster lies within the smallest sphere about its
    centroid wins, the first of equals.

    Parameters
    ----------
    frac
        (m, n, 3) fractional coordinates of m structures of n atoms.
    cells
        (m, 3, 3) their cells, reduced.

    Returns
    -------
    tuple
        Cartesian coordinates (m, n, 3) and distances (m,), angstrom; images of one atom count as two atoms.
    """
    m, n = frac.shape[:2]
    steps = frac[:, None] - frac[:, :, None]
    steps -= np.floor(steps + 0.5 + 1e-6)
    steps = steps.reshape(m, n * n, 3)
    metric = cells @ np.swapaxes(cells, 1, 2)
    # |f + k|^2 = f G f + 2 f G k + k G k for the steps f and the neighbours k
    projected = steps @ metric
    between_cells = np.einsum("ki,mij,kj->mk", NEIGHBOUR_OFFSETS, metric, NEIGHBOUR_OFFSETS)
    squared = projected @ (2.0 * NEIGHBOUR_OFFSETS.T)
    squared += between_cells[:, None]
    squared += np.einsum("mpi,mpi->mp", projected, steps)[:, :, None]
    nearest = np.sqrt(np.maximum(squared.min(axis=2), 0))
    first = np.argmax(squared < (nearest[:, :, None] + TIE_ANGSTROM) ** 2, axis=2)
    clusters = ((steps + NEIGHBOUR_OFFSETS[first]) @ cells).reshape(m, n, n, 3)
    radii = np.linalg.norm(clusters - clusters.mean(axis=2, keepdims=True), axis=-1).max(axis=2)
    centre = np.argmax(radii < radii.min(axis=1, keepdims=True) + TIE_ANGSTROM, axis=1)
    nearest[:, :: n + 1] = np.sqrt(np.delete(between_cells, _ITSELF, axis=1).min(axis=1))[:, None]
    return clusters[np.arange(m), centre], nearest.min(axis=1)


def outside_box(positions: np.ndarray, box: float, margin: float) -> np.ndarray:
    """Whether each position (n, 3) lies within ``margin`` of the box's faces, or beyond: (n,) bool."""
    beyond = (positions < margin) | (positions > box - margin)
    return np.asarray(beyond.any(axis=1))
