"""Lattice voxels: the cell as one Gaussian in the middle of a grid over fractional coordinates.

CCDCGAN, section Representation: a pseudo-atom at (1/2, 1/2, 1/2); the grid point (i, j, k) lies at fractional
(i, j, k) / N, is ``image[i, j, k]`` and holds exp(-d^2 / 2 sigma^2), d the Cartesian minimum-image distance;
what is below the cut is zero. With f the fractional step from the middle, d^2 = f G f: the image knows the
metric tensor G, hence edges and angles, and nothing of the orientation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from voxtal.config import VoxelsConfig
from voxtal.errors import UserError
from voxtal.representations.ragged import counted
from voxtal.representations.reasons import Unencodable

MAX_PATCH_POINTS = 4_000_000
"""A cell so flat that its patch has more grid points than this is not encoded (about 100 MB)."""

CELLS_AT_ONCE = 64
"""Cells whose voxels are made together: few enough for the arrays to stay in the processor's cache."""


@dataclass(frozen=True)
class LatticeGrid:
    """``size``^3 points over the cell, and the Gaussian (sigma in angstrom) of the pseudo-atom."""

    size: int
    sigma: float
    cutoff: float

    def __post_init__(self) -> None:
        if self.size % 2:
            raise UserError(f"voxels.lattice_grid = {self.size}: take an even number, which has a middle point.")

    @classmethod
    def of(cls, voxels: VoxelsConfig) -> LatticeGrid:
        return cls(voxels.lattice_grid, voxels.lattice_sigma_angstrom, voxels.cutoff)

    @property
    def radius(self) -> float:
        """Distance at which the Gaussian reaches the cut, angstrom."""
        return float(self.sigma * np.sqrt(-2 * np.log(self.cutoff)))


def encode_lattice(cell: np.ndarray, grid: LatticeGrid) -> tuple[np.ndarray, np.ndarray]:
    """Non-zero voxels of one ``cell`` (3, 3; rows, angstrom): rising flat indices (m,), values (m,) float32.

    Raises
    ------
    Unencodable
        See :func:`why_unencodable`.
    """
    cells = np.asarray(cell, dtype=np.float64)[None]
    if reason := why_unencodable(cells, grid)[0]:
        raise Unencodable(reason)
    return encode_lattices(cells, grid)


def why_unencodable(cells: np.ndarray, grid: LatticeGrid) -> np.ndarray:
    """(s,) str objects: why ``cells`` (s, 3, 3) cannot be encoded; empty for those that can.

    Every edge, and of every face a diagonal, must show in the voxels: six numbers make a cell. And a cell must not
    be so flat that its patch fills the memory.
    """
    metric = cells @ np.swapaxes(cells, 1, 2)
    edges = np.diagonal(metric, axis1=1, axis2=2)
    i, j = np.array([0, 0, 1]), np.array([1, 2, 2])
    diagonals = edges[:, i] + edges[:, j] - 2 * np.abs(metric[:, i, j])
    longest = np.maximum(edges.max(axis=1), diagonals.max(axis=1))
    too_large = longest > (grid.radius * grid.size) ** 2
    too_flat = np.prod(2.0 * _reach(cells, grid) + 1, axis=1) > MAX_PATCH_POINTS
    reasons = ["cell too large for the lattice voxel", "cell too flat for the lattice voxel"]
    return np.select([too_large, too_flat], reasons, "").astype(object)


def encode_lattices(cells: np.ndarray, grid: LatticeGrid) -> tuple[np.ndarray, np.ndarray]:
    """Non-zero voxels of many cells (s, 3, 3; rows, angstrom).

    The steps around the pseudo-atom are not wrapped before the distance is taken, so that the minimum image
    is exact in cells of any skew.

    Returns
    -------
    tuple
        Flat indices (m,) int64, rising: ``cell * N^3 + (x * N + y) * N + z``; and values (m,) float32.
    """
    index, values = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for first in range(0, len(cells), CELLS_AT_ONCE):
        own_index, own_values = _encode_some(cells[first : first + CELLS_AT_ONCE], grid)
        index.append(own_index + first * grid.size**3)
        values.append(own_values)
    return np.concatenate(index), np.concatenate(values)


def _encode_some(cells: np.ndarray, grid: LatticeGrid) -> tuple[np.ndarray, np.ndarray]:
    """Line by line along z: on each, |f|^2 = c (z - z0)^2 + rest is at most radius^2 between two roots."""
    n = grid.size
    metric = cells @ np.swapaxes(cells, 1, 2) / n**2
    reach = _reach(cells, grid)
    deep = 2 * reach[:, 1] + 1
    lines = (2 * reach[:, 0] + 1) * deep
    cell, place = np.repeat(np.arange(len(cells)), lines), counted(lines)
    x = place // deep[cell] - reach[cell, 0]
    y = place - (x + reach[cell, 0]) * deep[cell] - reach[cell, 1]
    (a, d, e), (_, b, f), (_, _, c) = np.moveaxis(metric, 0, -1)
    middle = -(e / c)[cell] * x - (f / c)[cell] * y
    rest = (a[cell] * x + 2 * d[cell] * y) * x + b[cell] * y * y - c[cell] * middle**2
    within = np.flatnonzero(rest <= grid.radius**2)
    cell, x, y, middle, rest = (array[within] for array in (cell, x, y, middle, rest))
    half = np.sqrt((grid.radius**2 - rest) / c[cell])
    low, high = middle - half, middle + half
    first = np.ceil(low)
    counts = np.maximum(np.floor(high) - first + 1, 0).astype(np.int64)
    steps = counted(counts)
    along = steps.astype(np.float32) + np.repeat((first - middle).astype(np.float32), counts)
    scale = -1 / (2 * grid.sigma**2)
    exponents = along * along * np.repeat((scale * c[cell]).astype(np.float32), counts)
    values = np.exp(exponents + np.repeat((scale * rest).astype(np.float32), counts))
    row = ((cell * n + (x + n // 2) % n) * n + (y + n // 2) % n) * n
    z = (steps + np.repeat(first.astype(np.int64) + n // 2, counts)) % n
    return _largest_by_index(np.repeat(row, counts) + z, values, len(cells) * n**3)


def _reach(cells: np.ndarray, grid: LatticeGrid) -> np.ndarray:
    """(s, 3) steps along each axis within which all non-zero voxels lie."""
    heights = np.linalg.norm(np.linalg.inv(cells), axis=1)
    return np.floor(grid.size * grid.radius * heights).astype(np.int64)


def _largest_by_index(index: np.ndarray, values: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Rising distinct ``index``, below ``points``, and the largest of ``values`` there: the nearest image's."""
    if 8 * len(index) > points:  # small cells, which many images reach: faster than sorting
        image = np.zeros(points, dtype=np.float32)
        np.maximum.at(image, index, values)
        flat = np.flatnonzero(image > 0)
        return flat, image[flat]
    order = np.argsort(index, kind="stable")  # fast on what is rising already, as it is but for wrapping
    index = index[order]
    first = np.flatnonzero(np.diff(index, prepend=-1))
    return index[first], np.maximum.reduceat(values[order], first) if len(first) else values
