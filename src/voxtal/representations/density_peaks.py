"""Ions that a density map shows by itself: Gaussians of unknown places, heights and widths, fitted together.

Eq. 1 of ICSG3D (doi:10.1021/acs.jcim.0c00464) makes the map a sum of one Gaussian for each ion, and height and width
of a Gaussian tell the element. Ions overlap: the tail of caesium is higher than fluorine's own peak. So the map is
sharpened until they come apart, which is where the fit starts. No species map is needed and no network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from voxtal.representations.density import DensityGrid, amplitudes, render_density
from voxtal.representations.density_decoding import CERTAIN
from voxtal.representations.ionic_radii import ionic_radii
from voxtal.representations.placement import cell_from_metric

SHARPENED_ANGSTROM = 0.5, 0.35, 0.65
"""Widths of the Gaussian that is taken off those of the map; tried in turn. Small ions' own are not much wider."""
MAX_IONS = 64
_REGULARIZATION = 1e-3
_SAME_ANGSTROM = 0.8
"""Two maxima nearer than this are one ion's."""
_OUTSIDE = 0.04
"""Edges beyond the cell at which there is no site."""
_FEWEST_ELECTRONS = 0.7
_DOUBTFUL_ELECTRONS = 3.5
_WIDTHS = 0.15, 2.5
"""Angstrom."""
_EQUALLY_LEFT = 0.7
"""Share of the highest maximum of what is left, from which on an ion is added at others."""
_CHANGES = 12
_PATIENCE = 3
"""Fits in a row that explain the map no better than an earlier one, after which another start is tried."""
_STEPS = 40
_WORTH = 0.9
"""Of the squares that were left, what has to be left after a step for another one."""
_SPARSE = 2
"""Every so many voxels along an axis are fitted to; five unknowns an ion need no more."""


@dataclass(frozen=True)
class Peaks:
    """Gaussians that explain a density map.

    Attributes
    ----------
    frac
        (n, 3) places, in edges of the cell, as the box counts them.
    heights
        (n,) electrons per cubic angstrom.
    widths
        (n,) standard deviations, angstrom.
    residual
        Largest difference between the map and theirs, in shares of the map's maximum.
    """

    frac: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    residual: float

    def __len__(self) -> int:
        return len(self.widths)

    @property
    def certain(self) -> bool:
        """Whether nothing of the map is left."""
        return self.residual < CERTAIN

    @property
    def electrons(self) -> np.ndarray:
        """(n,) integrals of the Gaussians, which are the atomic numbers."""
        return electrons(self.heights, self.widths)

    def of(self, rows: np.ndarray) -> Peaks:
        return Peaks(self.frac[rows], self.heights[rows], self.widths[rows], self.residual)

    def log_shapes(self) -> np.ndarray:
        """(n, 2) logarithms of heights and widths."""
        return np.log(np.stack([self.heights, self.widths], axis=1))


def electrons(heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Integrals of Gaussians."""
    return np.asarray(heights * widths**3 * (2 * np.pi) ** 1.5)


def log_shapes(numbers: np.ndarray, grid: DensityGrid) -> np.ndarray:
    """(n, 2) logarithms of the heights and widths that elements' Gaussians have on a grid."""
    widths = grid.widths(ionic_radii(numbers))
    return np.log(np.stack([amplitudes(numbers, widths), widths], axis=1))


def likeliest(shapes: np.ndarray, numbers: np.ndarray, grid: DensityGrid) -> np.ndarray:
    """Atomic numbers (n,), each that of ``numbers`` (m,) whose Gaussian is most like logarithmic ``shapes`` (n, 2).

    Errors of a fit leave the number of electrons as it is more or less: a wider Gaussian is a lower one.
    """
    difference = shapes[:, None] - log_shapes(numbers, grid)
    difference[..., 0] += 3 * difference[..., 1]
    return np.asarray(numbers)[(difference**2).sum(-1).argmin(axis=1)]


def find_peaks(density: np.ndarray, cell: np.ndarray, grid: DensityGrid) -> Peaks:
    """The Gaussians of a density map (N, N, N) of a cell (3, 3; rows, angstrom); none where nothing explains it."""
    density = np.asarray(density, dtype=np.float64)
    best = Peaks(np.empty((0, 3)), np.empty(0), np.empty(0), np.inf)
    if not (np.isfinite(density).all() and density.max() > 0):
        return best
    cell = np.asarray(cell, dtype=np.float64)
    try:
        map_ = _Map(density, cell_from_metric(cell @ cell.T), grid)
    except np.linalg.LinAlgError:
        return best
    for width in SHARPENED_ANGSTROM:
        for found in map_.fits(map_.maxima(width)):
            if found.residual < best.residual:
                best = found
            if best.certain:
                return map_.without_needless(best)
    return best


def sharpened(density: np.ndarray, cell: np.ndarray, grid: DensityGrid, width: float) -> np.ndarray:
    """A density map (N, N, N) that looks like this one if its Gaussians are made wider by ``width`` angstrom.

    Along each axis by itself, by least squares with a little regularization: rounding would be all that is left
    otherwise.
    """
    for axis in range(3):
        blur = _blur(grid.size, width / float(np.linalg.norm(cell[axis]) * grid.step))
        inverse = np.linalg.solve(blur @ blur + _REGULARIZATION * np.eye(grid.size), blur)
        density = np.moveaxis(np.tensordot(inverse, density, axes=(1, axis)), 0, axis)
    return density


def _blur(size: int, width: float) -> np.ndarray:
    steps = np.subtract.outer(np.arange(size), np.arange(size))
    return np.exp(-0.5 * (steps / width) ** 2) / (width * np.sqrt(2 * np.pi))


class _Map:
    def __init__(self, density: np.ndarray, cell: np.ndarray, grid: DensityGrid) -> None:
        self.density, self.cell, self.grid = density, cell, grid
        self.maximum = float(density.max())
        self.limits = _WIDTHS if grid.sigma is None else (grid.sigma, grid.sigma)
        every = np.arange(0, grid.size, _SPARSE)
        self.target = density[np.ix_(every, every, every)].ravel()
        self.voxels = self._places(grid.centres[every])

    def _places(self, line: np.ndarray) -> np.ndarray:
        """(v, 3) Cartesian places of voxels with these fractional coordinates along each axis."""
        return np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3) @ self.cell

    def maxima(self, width: float) -> Peaks:
        """Maxima of the sharpened map, each as the Gaussian that it would be part of if it were alone."""
        from scipy.ndimage import maximum_filter

        sharp = sharpened(self.density, self.cell, self.grid, width)
        top = (sharp == maximum_filter(sharp, 3)) & (sharp > 0.01 * sharp.max())
        index = np.argwhere(top[1:-1, 1:-1, 1:-1]) + 1
        logarithm = np.log(np.maximum(sharp, 1e-6 * sharp.max()))
        here = logarithm[tuple(index.T)]
        steps = np.eye(3, dtype=int)
        ahead, behind = (
            np.stack([logarithm[tuple((index + sign * step).T)] for step in steps], axis=1) for sign in (1, -1)
        )
        curvature = np.maximum(2 * here[:, None] - ahead - behind, 1e-3)  # per voxel squared, along each axis
        shift = np.clip((ahead - behind) / (2 * curvature), -0.6, 0.6)
        spacing = np.linalg.norm(self.cell, axis=1) * self.grid.step
        narrow = 1 / np.mean(curvature / spacing**2, axis=1)
        widths = np.sqrt(narrow + width**2).clip(*self.limits)
        heights = np.exp(here + 0.5 * (curvature * shift**2).sum(axis=1)) * (np.sqrt(narrow) / widths) ** 3
        return self._kept(Peaks(self.grid.fractional(index + shift), heights, widths, np.inf))

    def _kept(self, peaks: Peaks) -> Peaks:
        """Without what is outside the cell, what holds no electron, and the smaller ones of those on one place."""
        fine = (np.abs(peaks.frac - 0.5) < 0.5 + _OUTSIDE).all(axis=1) & (peaks.electrons > _FEWEST_ELECTRONS)
        kept: list[int] = []
        places = peaks.frac @ self.cell
        for i in np.argsort(-peaks.electrons, kind="stable"):
            if fine[i] and all(np.linalg.norm(places[i] - places[j]) > _SAME_ANGSTROM for j in kept):
                kept.append(int(i))
        return peaks.of(np.array(kept, dtype=int))

    def fits(self, peaks: Peaks) -> Iterator[Peaks]:
        """Fits from ``peaks`` on, with fewer and more of them, as long as that may help."""
        lowest, best, adding = np.inf, 0, False
        for change in range(_CHANGES):
            if not 0 < len(peaks) <= MAX_IONS or change - best > _PATIENCE:
                return
            fitted = self.fitted(peaks)
            yield fitted
            if fitted.residual < 0.9 * lowest:
                lowest, best = fitted.residual, change
            kept = self._kept(fitted)
            adding = adding or not len(kept) or kept.electrons.min() > _DOUBTFUL_ELECTRONS
            if len(kept) < len(fitted):
                peaks = kept
            elif adding:
                peaks = self._with_more(kept)
            else:
                peaks = kept.of(np.arange(len(kept)) != kept.electrons.argmin())

    def without_needless(self, peaks: Peaks) -> Peaks:
        """Without those that explain nothing, where the others do as well."""
        kept = self._kept(peaks)
        if not 0 < len(kept) < len(peaks):
            return peaks
        fitted = self.fitted(kept)
        return fitted if fitted.certain else peaks

    def _with_more(self, peaks: Peaks) -> Peaks:
        """And some where most of the map is left; all at once where a symmetry makes them equal."""
        from scipy.ndimage import maximum_filter

        left = self.density - self._density(peaks)
        inside = np.abs(self.grid.centres - 0.5) < 0.5 + _OUTSIDE
        left = np.where(inside[:, None, None] & inside[:, None] & inside, left, 0.0)
        index = np.argwhere((left == maximum_filter(left, 5)) & (left > _EQUALLY_LEFT * left.max()))
        heights = left[tuple(index.T)]
        return Peaks(
            np.vstack([peaks.frac, self.grid.fractional(index)]),
            np.append(peaks.heights, heights),
            np.append(peaks.widths, np.full(len(heights), np.clip(0.8, *self.limits))),
            np.inf,
        )

    def _density(self, peaks: Peaks) -> np.ndarray:
        return render_density(peaks.electrons, peaks.widths, peaks.frac, self.cell, self.grid)

    def fitted(self, peaks: Peaks) -> Peaks:
        """Levenberg and Marquardt's steps in places and in the logarithms of heights and widths.

        SciPy's ``least_squares`` finds the same ions of 100 crystals in four times the time: it factorizes the slopes
        themselves, thousands of voxels, and here their products do.
        """
        unknown = np.hstack([peaks.frac @ self.cell, peaks.log_shapes()])
        left, slopes = self._left(unknown)
        damping, cost = 1e-3, float(left @ left)
        for _ in range(_STEPS):
            if np.abs(left).max() < 0.3 * CERTAIN * self.maximum:
                break
            squared, downhill = slopes @ slopes.T, slopes @ left
            for _ in range(4):
                step = np.linalg.solve(squared + damping * np.diag(squared.diagonal() + 1e-9), downhill)
                tried = unknown + step.reshape(unknown.shape).clip(-0.4, 0.4)
                tried[:, 4] = tried[:, 4].clip(*np.log(self.limits))
                then, steeper = self._left(tried)
                if then @ then < cost:
                    break
                damping *= 8
            else:
                break
            unknown, left, slopes, before, cost = tried, then, steeper, cost, float(then @ then)
            damping = max(damping / 5, 1e-9)
            if cost > _WORTH * before:
                break
        heights, widths = np.exp(unknown[:, 3:]).T
        found = Peaks(unknown[:, :3] @ np.linalg.inv(self.cell), heights, widths, np.inf)
        residual = np.abs(self.density - self._density(found)).max() / self.maximum
        return Peaks(found.frac, found.heights, found.widths, float(residual))

    def _left(self, unknown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is left of the map at the voxels fitted to, (v,), and its negative slopes, (5 n, v)."""
        steps = self.voxels - unknown[:, None, :3]
        narrow = np.exp(-2 * unknown[:, 4])[:, None]
        squared = np.einsum("nvi,nvi->nv", steps, steps) * narrow
        each = np.exp(unknown[:, 3, None] - 0.5 * squared)
        slopes = np.empty((len(unknown), 5, len(self.voxels)))
        slopes[:, :3] = np.moveaxis(steps, 2, 1) * (each * narrow)[:, None]
        slopes[:, 3] = each
        slopes[:, 4] = each * squared if self.grid.sigma is None else 0.0
        return self.target - each.sum(axis=0), slopes.reshape(5 * len(unknown), -1)
