"""Where the atoms of a structure go in the box of the sites voxels, and how its cell is oriented.

One orientation is used everywhere: a along x, b in the xy plane (y > 0), c with z > 0. It is the one that
:func:`standard_cell` rebuilds from edges and angles, so a decoded cell and decoded sites fit together.
(It is ASE's and VESTA's; pymatgen's ``Lattice.from_parameters`` puts c along z instead.)
"""

from __future__ import annotations

import itertools

import numpy as np
import spglib

from voxtal.representations.reasons import Unencodable
from voxtal.units import MIN_VOLUME_ANGSTROM3

NEIGHBOUR_OFFSETS = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
"""(27, 3): the cells around one; enough for nearest images in a reduced cell."""

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


def place(frac_coords: np.ndarray, cell: np.ndarray, box: float, placement: str) -> tuple[np.ndarray, np.ndarray]:
    """Turn a structure into the standard orientation and move its centroid to the middle of the box.

    ``paper`` takes the atoms as listed (CCDCGAN, section Representation); those that reach out of the box
    wrap when they are encoded. ``compact`` takes the Niggli cell first and, of every atom, the image nearest
    to one of them, the one that leaves the smallest extent.

    Parameters
    ----------
    frac_coords
        (n, 3) fractional coordinates.
    cell
        (3, 3) lattice vectors as rows, angstrom.
    box
        Edge of the cubic box, angstrom.
    placement
        ``paper`` or ``compact``.

    Returns
    -------
    tuple
        Cartesian coordinates (n, 3) in the box and the cell (3, 3) that they repeat with, both in angstrom.

    Raises
    ------
    Unencodable
        The cell is singular.
    """
    frac_coords, cell = right_handed(frac_coords, cell)
    if placement == "compact":
        frac_coords, cell = niggli(frac_coords, cell)
    cell = oriented(cell)
    cart_coords = compact_images(frac_coords, cell) if placement == "compact" else frac_coords @ cell
    return cart_coords - cart_coords.mean(axis=0) + box / 2, cell


def right_handed(frac_coords: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same crystal in a right-handed cell, so that turning it never mirrors it."""
    volume = np.linalg.det(cell)
    if not abs(volume) > MIN_VOLUME_ANGSTROM3:
        raise Unencodable("singular cell")
    return (frac_coords, cell) if volume > 0 else (-frac_coords, -cell)


def oriented(cell: np.ndarray) -> np.ndarray:
    """A right-handed cell turned into the standard orientation."""
    return cell_from_metric(cell @ cell.T)


def niggli(frac_coords: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fractional coordinates (n, 3) and cell (3, 3) of the same crystal in its Niggli cell, not turned."""
    reduced = spglib.niggli_reduce(cell, eps=1e-5)
    if reduced is None:
        raise Unencodable("no Niggli cell")
    change = np.rint(np.linalg.solve(cell.T, reduced.T).T)
    if abs(np.linalg.det(change) - 1) > 0.1:
        raise Unencodable("no Niggli cell")
    return frac_coords @ np.linalg.inv(change), change @ cell


def compact_images(frac_coords: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Cartesian coordinates (n, 3) of one image per atom: the nearest to a common centre atom.

    Every atom is tried as the centre; the one whose cluster lies within the smallest sphere about its
    centroid wins, the first of equals. ``cell`` must be reduced.
    """
    steps = frac_coords[None] - frac_coords[:, None]
    steps -= np.floor(steps + 0.5 + 1e-6)
    images = (steps @ cell)[:, :, None] + NEIGHBOUR_OFFSETS @ cell
    distances = np.sqrt((images**2).sum(axis=-1))
    nearest = np.argmax(distances < distances.min(axis=-1, keepdims=True) + TIE_ANGSTROM, axis=-1)
    clusters = np.take_along_axis(images, nearest[:, :, None, None], axis=2)[:, :, 0]
    radii = np.linalg.norm(clusters - clusters.mean(axis=1, keepdims=True), axis=-1).max(axis=1)
    return clusters[np.argmax(radii < radii.min() + TIE_ANGSTROM)]


def outside_box(cart_coords: np.ndarray, box: float, margin: float) -> bool:
    """Whether any of the coordinates (n, 3) lies within ``margin`` of the box's faces, or beyond."""
    return bool(cart_coords.min() < margin or cart_coords.max() > box - margin)
