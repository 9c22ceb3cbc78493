"""ICSG3D's density, species and coordinate maps (doi:10.1021/acs.jcim.0c00464, eqs. 1 to 3).

The box of the maps extends the cell by ``margin`` of its edges on every side and holds N^3 voxels; voxel (i, j, k)
has its centre at fractional coordinates -margin + ((i, j, k) + 1/2) (1 + 2 margin) / N and is ``map[i, j, k]``.
Sites are taken as listed, without periodic images, shifted so that the smallest coordinate along each axis is 0;
coordinates outside [0, 1], at which the published code stops, are taken modulo 1 first.
Where paper and published code differ we follow the paper: a voxel at exactly the radius is inside, and among several
sites it goes to the closest of those in whose radius it lies (the code: to the closest of all).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from voxtal.config import DensityConfig
from voxtal.representations.ionic_radii import ionic_radii
from voxtal.representations.placement import cell_from_metric
from voxtal.representations.reasons import Undecodable, Unencodable
from voxtal.structures.validity import NO_ATOMS, NOT_FINITE, TOO_SMALL
from voxtal.units import MIN_VOLUME_ANGSTROM3

TIE_ANGSTROM2 = 1e-8
"""Squared distances that differ by less are equal: a voxel so near to the radius is inside, and of sites so equally
near the first listed one has it. Rounding decides neither."""

_NEGLIGIBLE = 1e-15
"""Share of a Gaussian's maximum that no float32 sum notices. Left in, denormal numbers would slow the sums down."""

_RIGHT_ANGLE = 1e-12
"""Cosine below which two axes are perpendicular."""

_LOWEST_EXPONENT = -60.0


Crystal = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Atomic numbers (n,), fractional coordinates (n, 3) in the box and cell (3, 3; rows, angstrom)."""


@dataclass(frozen=True)
class DensityGrid:
    """N^3 voxels in a box that extends the cell by ``margin`` of its edges on every side.

    ``geometry``: ``orthogonal`` takes every cell as if its angles were 90 degrees, as published; ``true`` measures
    distances in the cell. ``sigma``: width of every Gaussian, angstrom, where it is not the ion's radius.
    """

    size: int
    margin: float
    geometry: str
    sigma: float | None = None

    @classmethod
    def of(cls, density: DensityConfig) -> DensityGrid:
        return cls(density.grid, density.margin, density.geometry, density.sigma_angstrom)

    def widths(self, radii: np.ndarray) -> np.ndarray:
        """(n,) standard deviations, angstrom, of the Gaussians of ions with ``radii`` (n,)."""
        return radii if self.sigma is None else np.full(len(radii), self.sigma)

    @property
    def step(self) -> float:
        """Distance of neighbouring voxels along an axis, in edges of the cell."""
        return (1 + 2 * self.margin) / self.size

    @cached_property
    def centres(self) -> np.ndarray:
        """(N,): fractional coordinates of the voxels' centres along any axis."""
        return -self.margin + (np.arange(self.size) + 0.5) * self.step

    def fractional(self, index: np.ndarray) -> np.ndarray:
        """Fractional coordinates of positions in units of voxels, 0 being the centre of the first one."""
        return -self.margin + (np.asarray(index) + 0.5) * self.step

    def index(self, frac_coords: np.ndarray) -> np.ndarray:
        """Positions in units of voxels, not rounded: the inverse of :meth:`fractional`."""
        return (np.asarray(frac_coords) + self.margin) / self.step - 0.5


@dataclass(frozen=True)
class DensityMaps:
    """One structure's maps.

    Attributes
    ----------
    density
        (N, N, N) float32: M, electrons per cubic angstrom.
    species
        (N, N, N) uint8: S, atomic numbers, 0 where there is no ion.
    cell
        (3, 3) float64: lattice vectors as rows, angstrom, in the standard orientation; with the geometry
        ``orthogonal`` its edges alone, as a diagonal matrix.
    sites
        (n, 3) float64: fractional coordinates in the box, the smallest along each axis 0.
    """

    density: np.ndarray
    species: np.ndarray
    cell: np.ndarray
    sites: np.ndarray


def encode_density(numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray, grid: DensityGrid) -> DensityMaps:
    """Density and species maps of a structure, eqs. 1 and 2.

    Parameters
    ----------
    numbers
        (n,) atomic numbers.
    frac_coords
        (n, 3) fractional coordinates.
    cell
        (3, 3) lattice vectors as rows, angstrom, in any orientation.

    Raises
    ------
    Unencodable
        No atoms, an unknown element, numbers that are not finite or a cell without volume.
    """
    sites, box_cell = placed_sites(frac_coords, cell, grid)
    radii = ionic_radii(numbers)
    return DensityMaps(
        density=render_density(np.asarray(numbers), grid.widths(radii), sites, box_cell, grid),
        species=render_species(np.asarray(numbers), radii, sites, box_cell, grid),
        cell=box_cell,
        sites=sites,
    )


def placed_sites(frac_coords: np.ndarray, cell: np.ndarray, grid: DensityGrid) -> tuple[np.ndarray, np.ndarray]:
    """Fractional coordinates (n, 3) in the box, the smallest along each axis 0, and the cell (3, 3) of the maps.

    Raises
    ------
    Unencodable
        No atoms, numbers that are not finite or a cell without volume.
    """
    sites = np.asarray(frac_coords, dtype=np.float64).reshape(-1, 3)
    cell = np.asarray(cell, dtype=np.float64)
    if not len(sites):
        raise Unencodable(NO_ATOMS)
    if not (np.isfinite(sites).all() and np.isfinite(cell).all()):
        raise Unencodable(NOT_FINITE)
    outside = np.abs(sites - 0.5) > 0.5 + 1e-6
    if outside.any():
        sites = np.where(outside, sites - np.floor(sites), sites)
    metric = cell @ cell.T
    volume = np.linalg.det(cell)
    if not abs(volume) >= MIN_VOLUME_ANGSTROM3:
        raise Unencodable(TOO_SMALL)
    if grid.geometry == "orthogonal":
        return sites - sites.min(axis=0), np.diag(np.sqrt(metric.diagonal()))
    try:
        return _right_handed(sites, volume), cell_from_metric(metric)
    except np.linalg.LinAlgError:
        raise Unencodable(TOO_SMALL) from None


def _right_handed(sites: np.ndarray, volume: float) -> np.ndarray:
    """Sites from 0 on; in a left-handed cell along its negative vectors, so that turning it mirrors nothing."""
    sites = sites if volume > 0 else -sites
    return sites - sites.min(axis=0)


def binary_map(species: np.ndarray) -> np.ndarray:
    """S_B, eq. 3: uint8, 1 where there is an ion and 0 elsewhere."""
    return (np.asarray(species) != 0).astype(np.uint8)


def amplitudes(numbers: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """(n,) value of eq. 1 at the sites themselves: Z / ((2 pi)^(3/2) r^3), electrons per cubic angstrom."""
    return np.asarray(np.asarray(numbers) / ((2 * np.pi) ** 1.5 * radii**3))


def render_density(
    numbers: np.ndarray, radii: np.ndarray, sites: np.ndarray, cell: np.ndarray, grid: DensityGrid
) -> np.ndarray:
    """(N, N, N) float32: M of eq. 1 for sites (n, 3) in the box of a lower triangular ``cell`` (3, 3).

    An axis perpendicular to the other two factors out of every Gaussian, and the sum over the sites is then one
    matrix product; only cells without such an axis need an exponential per site and voxel.
    """
    free = _free_axis(cell @ cell.T)
    if free is None:
        return _render_skewed(amplitudes(numbers, radii), radii, sites, cell, grid)
    p, q = (axis for axis in range(3) if axis != free)
    u, v, w = (grid.centres - sites[:, axis, None] for axis in (p, q, free))
    metric = cell @ cell.T
    narrow = (-0.5 / radii**2)[:, None]
    lines = np.exp(metric[free, free] * w**2 * narrow)
    along_v = np.exp(metric[q, q] * (1 - _squared_cosine(metric, p, q)) * v**2 * narrow)
    if metric[p, q] == 0:
        planes = np.exp(metric[p, p] * u**2 * narrow)[:, :, None] * along_v[:, None, :]
    else:
        sheared = u[:, :, None] + (metric[p, q] / metric[p, p]) * v[:, None, :]
        sheared *= sheared
        planes = np.exp(sheared * (metric[p, p] * narrow)[:, :, None]) * along_v[:, None, :]
    planes[planes < _NEGLIGIBLE] = 0
    lines[lines < _NEGLIGIBLE] = 0
    lines *= amplitudes(numbers, radii)[:, None]
    flat = planes.astype(np.float32).reshape(len(sites), -1)
    line = lines.astype(np.float32)
    if free == 0:
        return (line.T @ flat).reshape((grid.size,) * 3)
    density = (flat.T @ line).reshape((grid.size,) * 3)
    return density if free == 2 else np.ascontiguousarray(density.swapaxes(1, 2))


def _squared_cosine(metric: np.ndarray, p: int, q: int) -> float:
    return float(metric[p, q] ** 2 / (metric[p, p] * metric[q, q]))


def _free_axis(metric: np.ndarray) -> int | None:
    """The last axis that is perpendicular to both others."""
    skew = {pair for pair in combinations(range(3), 2) if _squared_cosine(metric, *pair) > _RIGHT_ANGLE**2}
    return next((axis for axis in (2, 1, 0) if all(axis not in pair for pair in skew)), None)


def _render_skewed(
    heights: np.ndarray, radii: np.ndarray, sites: np.ndarray, cell: np.ndarray, grid: DensityGrid
) -> np.ndarray:
    density = np.zeros((grid.size,) * 3, dtype=np.float32)
    heights_log = np.log(heights).astype(np.float32)
    lines = _lines_to(sites, cell, grid, 1 / (np.sqrt(2) * radii)).astype(np.float32)
    for i, patch in enumerate(patches(sites, radii * np.sqrt(-2 * np.log(_NEGLIGIBLE)), cell, grid)):
        x, yz, y2z2 = _steps_to(lines[:, i], patch)
        exponent = x[:, None, None] + yz
        exponent *= exponent
        np.subtract(heights_log[i] - y2z2, exponent, out=exponent)
        np.maximum(exponent, np.float32(_LOWEST_EXPONENT), out=exponent)
        density[patch] += np.exp(exponent, out=exponent)
    return density


def render_species(
    numbers: np.ndarray, radii: np.ndarray, sites: np.ndarray, cell: np.ndarray, grid: DensityGrid
) -> np.ndarray:
    """(N, N, N) uint8: S of eq. 2 for sites (n, 3) in the box of a lower triangular ``cell`` (3, 3)."""
    species = np.zeros((grid.size,) * 3, dtype=np.uint8)
    nearest = np.full((grid.size,) * 3, np.inf)
    lines = _lines_to(sites, cell, grid, np.ones(len(sites)))
    for i, patch in enumerate(patches(sites, radii + TIE_ANGSTROM2, cell, grid)):
        x, yz, y2z2 = _steps_to(lines[:, i], patch)
        squared = x[:, None, None] + yz
        squared *= squared
        squared += y2z2
        closer = squared < nearest[patch] - TIE_ANGSTROM2
        closer &= squared <= radii[i] ** 2 + TIE_ANGSTROM2
        np.copyto(nearest[patch], squared, where=closer)
        species[patch][closer] = numbers[i]
    return species


Patch = tuple[slice, slice, slice]


def patches(sites: np.ndarray, reach: np.ndarray, cell: np.ndarray, grid: DensityGrid) -> list[Patch]:
    """For each site (n, 3) the block of voxels that holds all those within ``reach`` (n,) angstrom of it."""
    heights = np.linalg.norm(np.linalg.inv(cell), axis=0)
    middle = grid.index(sites)
    half = reach[:, None] * heights / grid.step + 1e-6
    first = np.ceil(middle - half).clip(0, grid.size).astype(int).tolist()
    last = np.floor(middle + half + 1).clip(0, grid.size).astype(int).tolist()
    return [
        (slice(x0, x1), slice(y0, y1), slice(z0, z1)) for (x0, y0, z0), (x1, y1, z1) in zip(first, last, strict=True)
    ]


def _lines_to(sites: np.ndarray, cell: np.ndarray, grid: DensityGrid, scales: np.ndarray) -> np.ndarray:
    """(6, n, N): what each axis of a lower triangular ``cell`` adds to the steps from ``sites`` (n, 3) to voxels.

    These are a to x, b to x and y, c to x and y, and the square of c's to z, in units of 1 / ``scales`` (n,).
    """
    (ax, _, _), (bx, by, _), (cx, cy, cz) = cell.tolist()
    i, j, k = ((grid.centres - sites[:, axis, None]) * scales[:, None] for axis in range(3))
    return np.stack([ax * i, bx * j, by * j, cx * k, cy * k, (cz * k) ** 2])


def _steps_to(lines: np.ndarray, patch: Patch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps from a site of :func:`_lines_to` (6, N) to the voxels of ``patch``, for the little that repeats.

    Returns
    -------
    tuple
        X (nx,) and Y (ny, nz) with x = X + Y, and (ny, nz) y^2 + z^2.
    """
    (px, py, pz), (xi, xj, yj, xk, yk, z2) = patch, lines
    y = yj[py, None] + yk[pz]
    y *= y
    y += z2[pz]
    return xi[px], xj[py, None] + xk[pz], y


def coordinate_grid(cell: np.ndarray, grid: DensityGrid) -> np.ndarray:
    """C: (3, N, N, N) float32, Cartesian coordinates of every voxel, angstrom.

    As published these are the voxels' lower corners counted from the box's own corner: from 0 to
    (1 + 2 margin) (N - 1) / N edges, in a cell that is not orthogonal along its vectors.
    """
    corners = np.arange(grid.size) * grid.step
    a, b, c = corners[:, None] * np.asarray(cell, dtype=np.float64)[:, None, :]
    coordinates = (a[:, None, None] + b[:, None] + c).astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(coordinates, -1, 0))


def cell_from_coordinates(coordinates: np.ndarray, grid: DensityGrid) -> np.ndarray:
    """The cell (3, 3; rows, angstrom) whose coordinate grid is nearest to ``coordinates`` (3, N, N, N).

    Least squares over all voxels: the noise of 32,768 averages out, and the published conversion's error of 1/32
    is gone. In rotated maps, whose values are moved but not turned, the rows come out permuted and with signs, as
    the vectors along the axes of the rotated map, so that sites and cell still belong together.

    Raises
    ------
    Undecodable
        The coordinates are not finite or span no volume.
    """
    values = np.asarray(coordinates, dtype=np.float64)
    if not np.isfinite(values).all():
        raise Undecodable("coordinates are not finite")
    centred = np.arange(grid.size) - (grid.size - 1) / 2
    rows = [
        np.moveaxis(values, axis + 1, 0).sum(axis=(2, 3)).T @ centred / (grid.size**2 * (centred @ centred))
        for axis in range(3)
    ]
    cell = np.stack(rows) / grid.step
    if not abs(np.linalg.det(cell)) >= MIN_VOLUME_ANGSTROM3:
        raise Undecodable(TOO_SMALL)
    return cell
