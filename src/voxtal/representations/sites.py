"""Sites voxels: the atoms of one element as Gaussians on a periodic cubic grid.

CCDCGAN, section Representation: an atom at p adds exp(-d^2 / 2 sigma^2) to every grid point, d the
minimum-image distance in the box; what is below the cut is zero per atom, then the atoms are summed.
Point (i, j, k) lies at (i, j, k) * box / G and is ``image[i, j, k]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from voxtal.config import VoxelsConfig
from voxtal.errors import UserError

ATOMS_AT_ONCE = 512
"""Atoms whose patches are made together: about 10 MB."""


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


def encode_sites(positions: np.ndarray, images: np.ndarray, grid: SitesGrid) -> tuple[np.ndarray, np.ndarray]:
    """Non-zero voxels of many images, one per element of a structure.

    Parameters
    ----------
    positions
        (n, 3) Cartesian coordinates in the box, angstrom; what lies outside wraps.
    images
        (n,) image that each atom belongs to, counted from 0 and rising.

    Returns
    -------
    tuple
        Flat indices (m,) int64, rising: ``image * G^3 + (x * G + y) * G + z``; and values (m,) float32.
    """
    starts = np.flatnonzero(np.diff(images, prepend=-1))
    parts = [
        _encode_atoms(positions[first:last], images[first:last], grid)
        for first, last in pairwise([*starts[np.diff(starts // ATOMS_AT_ONCE, prepend=-1) > 0].tolist(), len(images)])
    ]
    index, values = ([part[k] for part in parts] for k in (0, 1))
    return np.concatenate([np.empty(0, np.int64), *index]), np.concatenate([np.empty(0, np.float32), *values])


def _encode_atoms(positions: np.ndarray, images: np.ndarray, grid: SitesGrid) -> tuple[np.ndarray, np.ndarray]:
    nearest = np.rint(positions / grid.spacing).astype(np.int64)
    points = nearest[:, :, None] + grid.patch
    gaussians = np.exp((points * grid.spacing - positions[:, :, None]) ** 2 / (-2 * grid.sigma**2))
    planes = gaussians[:, 0, :, None] * gaussians[:, 1, None, :]
    values = (planes[:, :, :, None] * gaussians[:, 2, None, None, :]).ravel()
    kept = np.flatnonzero(values >= grid.cutoff)
    index = flat_patches(points, grid.size, images).ravel()
    return sum_by_index(index[kept], values[kept].astype(np.float32))


def flat_patches(points: np.ndarray, size: int, images: np.ndarray | None = None) -> np.ndarray:
    """(n, P, P, P) flat indices of the patches whose points along each axis are ``points`` (n, 3, P)."""
    x, y, z = np.moveaxis(points % size, 1, 0)
    if images is not None:
        x = x + images[:, None] * size
    return ((x[:, :, None] * size + y[:, None, :]) * size)[:, :, :, None] + z[:, None, None, :]


def sum_by_index(index: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rising distinct ``index`` and the sums of ``values`` there."""
    order = np.argsort(index, kind="stable")  # fast on what is rising already, which patches are but for overlaps
    index = index[order]
    first = np.flatnonzero(np.diff(index, prepend=-1))
    return index[first], np.add.reduceat(values[order], first) if len(first) else values
