"""Sites voxels: the atoms of one element as Gaussians on a periodic cubic grid.

CCDCGAN, section Representation: an atom at p adds exp(-d^2 / 2 sigma^2) to every grid point, d the
minimum-image distance in the box; what is below the cut is zero per atom, then the atoms are summed.
Point (i, j, k) lies at (i, j, k) * box / G and is ``image[i, j, k]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from voxtal.config import VoxelsConfig
from voxtal.errors import UserError


@dataclass(frozen=True)
class SitesGrid:
    """A cubic grid of ``size``^3 points in a box, and the Gaussian of an atom; lengths in angstrom."""

    size: int
    box: float
    sigma: float
    cutoff: float

    def __post_init__(self) -> None:
        if 2 * self.reach + 1 > self.size:
            raise UserError(
                f"voxels.sites_sigma_angstrom = {self.sigma}: an atom's Gaussian is wider than the box of "
                f"{self.box} angstrom; take a smaller one, or a larger voxels.box_angstrom."
            )

    @classmethod
    def of(cls, voxels: VoxelsConfig) -> SitesGrid:
        return cls(voxels.sites_grid, voxels.box_angstrom, voxels.sites_sigma_angstrom, voxels.cutoff)

    @property
    def spacing(self) -> float:
        """Distance of neighbouring points, angstrom."""
        return self.box / self.size

    @cached_property
    def reach(self) -> int:
        """Points that an atom's Gaussian reaches to each side of the nearest one."""
        radius = self.sigma * np.sqrt(-2 * np.log(self.cutoff))
        return int(np.ceil(radius / self.spacing - 0.5))

    @cached_property
    def patch(self) -> np.ndarray:
        """(P,): steps of the patch along one axis."""
        return np.arange(-self.reach, self.reach + 1)


def encode_sites(positions: np.ndarray, channels: np.ndarray, grid: SitesGrid) -> tuple[np.ndarray, np.ndarray]:
    """Non-zero voxels of one image per element.

    Parameters
    ----------
    positions
        (n, 3) Cartesian coordinates in the box, angstrom; what lies outside wraps.
    channels
        (n,) image that each atom belongs to, counted from 0.

    Returns
    -------
    tuple
        Flat indices (m,) int64, sorted: ``channel * G^3 + (x * G + y) * G + z``; and values (m,) float32.
    """
    nearest = np.rint(positions / grid.spacing).astype(np.int64)
    points = nearest[:, :, None] + grid.patch
    gaussians = np.exp((points * grid.spacing - positions[:, :, None]) ** 2 / (-2 * grid.sigma**2))
    values = gaussians[:, 0, :, None, None] * gaussians[:, 1, None, :, None] * gaussians[:, 2, None, None, :]
    index = flat_patches(points, grid.size) + (channels * grid.size**3)[:, None, None, None]
    kept = values >= grid.cutoff
    return sum_by_index(index[kept], values[kept])


def flat_patches(points: np.ndarray, size: int) -> np.ndarray:
    """(n, P, P, P) flat indices of the patches whose points along each axis are ``points`` (n, 3, P)."""
    x, y, z = np.moveaxis(points % size, 1, 0)
    return (x[:, :, None, None] * size + y[:, None, :, None]) * size + z[:, None, None, :]


def sum_by_index(index: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct ``index`` and the sums of ``values`` there, as float32."""
    order = np.argsort(index, kind="stable")
    index = index[order]
    first = np.flatnonzero(np.diff(index, prepend=-1))
    return index[first], np.add.reduceat(values[order], first).astype(np.float32)
