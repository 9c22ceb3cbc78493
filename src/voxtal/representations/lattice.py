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
from voxtal.representations.reasons import Unencodable

MAX_PATCH_POINTS = 4_000_000
"""A cell so flat that its patch has more grid points than this is not encoded (about 100 MB)."""


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
    """Non-zero voxels of ``cell`` (3, 3; rows, angstrom): sorted flat indices (m,), values (m,) float32.

    The steps around the pseudo-atom are not wrapped before the distance is taken, so that the minimum image
    is exact in cells of any skew.

    Raises
    ------
    Unencodable
        The cell is flat, or so large that its neighbouring grid points lie beyond the Gaussian.
    """
    metric = cell @ cell.T
    _check_resolved(metric, grid)
    reach = np.floor(grid.size * grid.radius * np.linalg.norm(np.linalg.inv(cell), axis=0)).astype(np.int64)
    if np.prod(2.0 * reach + 1) > MAX_PATCH_POINTS:
        raise Unencodable("cell too flat for the lattice voxel")
    steps = [np.arange(-r, r + 1) for r in reach]
    squared = _quadratic_form(np.ix_(*steps), metric) / grid.size**2
    values = np.exp(squared / (-2 * grid.sigma**2))
    x, y, z = ((step + grid.size // 2) % grid.size for step in steps)
    index = (x[:, None, None] * grid.size + y[:, None]) * grid.size + z
    kept = values >= grid.cutoff
    image = np.zeros(grid.size**3, dtype=np.float32)
    np.maximum.at(image, index[kept], values[kept].astype(np.float32))
    flat = np.flatnonzero(image)
    return flat, image[flat]


def _check_resolved(metric: np.ndarray, grid: LatticeGrid) -> None:
    """Every edge, and of every face a diagonal, must show in the voxels: six numbers make a cell."""
    edges = np.diag(metric)
    diagonals = [edges[i] + edges[j] - 2 * abs(metric[i, j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    if max(*edges, *diagonals) > (grid.radius * grid.size) ** 2:
        raise Unencodable("cell too large for the lattice voxel")


def _quadratic_form(steps: tuple[np.ndarray, ...], metric: np.ndarray) -> np.ndarray:
    """f G f for the broadcastable components ``steps`` of f."""
    x, y, z = steps
    (a, d, e), (_, b, f), (_, _, c) = metric
    return a * x * x + b * y * y + c * z * z + 2 * (d * x * y + e * x * z + f * y * z)
