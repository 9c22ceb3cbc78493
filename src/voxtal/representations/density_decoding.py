"""Crystals from ICSG3D's maps: sites that the species map suggests are fitted to the density map together.

On clean maps the result certifies itself: the density that it would have is the given one but for float32. On noisy
ones (what networks leave) sites are added and dropped as long as both maps together become more likely.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from voxtal.representations.density import (
    DensityGrid,
    amplitudes,
    render_density,
    render_species,
)
from voxtal.representations.density_fit import fit_sites
from voxtal.representations.density_seeds import ball_sites, component_sites
from voxtal.representations.ionic_radii import ionic_radii
from voxtal.representations.placement import cell_from_metric
from voxtal.representations.reasons import Undecodable
from voxtal.structures.validity import TOO_SMALL
from voxtal.units import MIN_DISTANCE_ANGSTROM, MIN_VOLUME_ANGSTROM3

CERTAIN = 1e-5
"""Largest residual, in shares of the map's maximum, of a result that can only be right."""

MAX_ATOMS = 128
"""Sites that are fitted together; maps that suggest more are no structure's."""

MAX_CHANGES = 24
"""Sites that are added or dropped one by one; bounds the time that garbage takes."""

BALL_THRESHOLDS = 0.1, 0.03, 0.25
"""Shares of a whole ball that an ion has to explain; tried in turn until a result is certain. Noise needs the last."""

NOISY = 2.5e-3
"""Noise, in shares of the map's maximum, from which on a map is not searched for what explains it exactly."""

SEED_ERROR_VOXELS = 0.5
"""How far from the middle of its ball a site may be, which holds it in a noisy map."""

SURE_NOISES = 6.0
"""Times the noise that one voxel of a whole map never reaches by chance."""

NATS_PER_SITE = 12.0
"""What a site has to gain in log-likelihood to be worth its three coordinates and its element."""

FEW, MANY = 1, 2
_FLOOR = 1e-6
_WEAK, _STRONG = 0.4, 1.6
"""Free heights below which a site is doubtful, and above which there may be two."""


@dataclass(frozen=True)
class DecodedDensity:
    """A crystal and how well it explains the maps that it came from.

    Attributes
    ----------
    numbers
        (n,) int64 atomic numbers.
    frac_coords
        (n, 3) fractional coordinates in [0, 1).
    cell
        (3, 3) lattice vectors as rows, angstrom: as given.
    residual
        Largest difference between the density map and the one that this crystal has, in shares of the maximum.
    mislabelled
        Share of voxels whose species is not the one that this crystal has.
    """

    numbers: np.ndarray
    frac_coords: np.ndarray
    cell: np.ndarray
    residual: float
    mislabelled: float

    @property
    def certain(self) -> bool:
        """Whether the density is explained but for float32."""
        return self.residual < CERTAIN


@dataclass(frozen=True)
class _Sites:
    """Sites in the box: atomic numbers (n,), radii (n,), fractional coordinates (n, 3)."""

    numbers: np.ndarray
    radii: np.ndarray
    frac: np.ndarray

    @classmethod
    def of(cls, numbers: np.ndarray, frac: np.ndarray) -> _Sites:
        return cls(numbers, ionic_radii(numbers), frac)

    def __len__(self) -> int:
        return len(self.numbers)

    def only(self, kept: np.ndarray) -> _Sites:
        return _Sites(self.numbers[kept], self.radii[kept], self.frac[kept])

    def plus(self, number: int, frac: np.ndarray) -> _Sites:
        return _Sites.of(np.append(self.numbers, number), np.vstack([self.frac, frac]))


def decode_density(
    density: np.ndarray, species: np.ndarray, cell: np.ndarray, grid: DensityGrid
) -> DecodedDensity:
    """The crystal whose maps are nearest to the given ones.

    Connected components of the species map start a fit of all sites to the density map. If that does not explain
    the density, the sites start from balls of the ions' radii that cover the species map, and the fit may drop and
    add sites.

    Parameters
    ----------
    density
        (N, N, N) density map, noisy or clean.
    species
        (N, N, N) species map: atomic numbers, 0 where there is no ion.
    cell
        (3, 3) lattice vectors as rows, angstrom.

    Raises
    ------
    Undecodable
        The maps are not finite, the cell has no volume, or no sites explain them.
    """
    maps = _Maps.of(density, species, cell, grid)
    found = [maps.fitted(_Sites.of(*component_sites(maps.species, grid)), FEW)]
    if maps.noise < NOISY and not maps.certain(found[-1]):
        for threshold in BALL_THRESHOLDS:
            found.append(maps.settled(_Sites.of(*ball_sites(maps.species, maps.cell, grid, threshold))))
            if maps.certain(found[-1]):
                break
    if not maps.certain(found[-1]):
        found.append(maps.held(_Sites.of(*ball_sites(maps.species, maps.cell, grid, BALL_THRESHOLDS[-1]))))
    best = found[-1] if maps.certain(found[-1]) else min(found, key=maps.cost)
    if best is None:
        raise Undecodable("no atoms explain the density and species maps")
    return maps.decoded(best, cell)


def noise_of(density: np.ndarray) -> float:
    """Standard deviation of what changes from voxel to voxel at random, from the mixed third differences.

    Atoms are smooth and leave 0.0002 of the maximum at most voxels, 0.002 in the sharpest of maps.
    """
    differences = np.asarray(density)
    for axis in range(3):
        differences = np.diff(differences, axis=axis)
    return float(np.median(np.abs(differences)) / (0.6745 * np.sqrt(8)))


@dataclass(frozen=True)
class _Maps:
    density: np.ndarray
    species: np.ndarray
    cell: np.ndarray
    grid: DensityGrid
    maximum: float
    noise: float

    @classmethod
    def of(cls, density: np.ndarray, species: np.ndarray, cell: np.ndarray, grid: DensityGrid) -> _Maps:
        density = np.ascontiguousarray(density, dtype=np.float32)
        cell = np.asarray(cell, dtype=np.float64)
        if not (np.isfinite(density).all() and np.isfinite(cell).all()):
            raise Undecodable("density map is not finite")
        if not abs(np.linalg.det(cell)) >= MIN_VOLUME_ANGSTROM3:
            raise Undecodable(TOO_SMALL)
        if not (maximum := float(density.max())) > 0:
            raise Undecodable("density map is empty")
        try:
            triangular = cell_from_metric(cell @ cell.T)
        except np.linalg.LinAlgError:
            raise Undecodable(TOO_SMALL) from None
        return cls(density, np.ascontiguousarray(species, dtype=np.uint8), triangular, grid, maximum, noise_of(density) / maximum)

    def decoded(self, sites: _Sites, cell: np.ndarray) -> DecodedDensity:
        frac = sites.frac - np.floor(sites.frac)
        wrong = float(np.mean(self._species(sites) != self.species))
        return DecodedDensity(
            sites.numbers, np.where(frac < 1, frac, 0.0), np.array(cell, np.float64), self.residual(sites), wrong
        )

    def fitted(self, sites: _Sites, points: int = MANY) -> _Sites | None:
        """The sites where they fit the density best; none where there are none or too many."""
        if not 0 < len(sites) <= MAX_ATOMS:
            return None
        frac, _ = self._fit(sites, points)
        return _Sites(sites.numbers, sites.radii, frac)

    def _fit(
        self, sites: _Sites, points: int, free_heights: bool = False, stiffness: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        given = sites.numbers, sites.radii, sites.frac, self.cell, self.grid
        return fit_sites(self.density, *given, points, free_heights, stiffness)

    def settled(self, sites: _Sites) -> _Sites | None:
        """Fit, and add and drop sites while both maps become more likely."""
        if not 0 < len(sites) <= MAX_ATOMS:
            return None
        for points in (FEW, MANY):
            current = self.fitted(sites, points)
            assert current is not None
            if self.residual(current) < CERTAIN:
                return current
        cost = self.cost(current)
        for _ in range(MAX_CHANGES):
            for trial in self._changes(sites, current):
                changed = self.fitted(trial)
                if changed is None:
                    continue
                if (new := self.cost(changed)) < cost - 1e-9 * abs(cost):
                    sites, current, cost = trial, changed, new
                    break
            else:
                break
            if self.residual(current) < CERTAIN:
                break
        return current

    def _changes(self, seeds: _Sites, sites: _Sites) -> Iterator[_Sites]:
        """Sites without those that left the box or have no height of their own, or with one more."""
        inside = (np.abs(self.grid.index(sites.frac) - (self.grid.size - 1) / 2) < self.grid.size / 2).all(axis=1)
        if inside.any() and not inside.all():
            yield seeds.only(inside)
            yield sites.only(inside)
        frac, heights = self._fit(seeds, MANY, True)
        weak = heights < _WEAK
        if weak.any() and not weak.all():
            yield _Sites(seeds.numbers, seeds.radii, frac).only(~weak)
            yield seeds.only(~weak)
        for lowest in np.argsort(heights)[:3]:
            if len(seeds) > 1:
                yield seeds.only(np.arange(len(seeds)) != lowest)
        left = self.density - self._density(sites)
        yield from self._additions(sites, left)

    def _additions(self, sites: _Sites, left: np.ndarray) -> Iterator[_Sites]:
        """One more atom where most density is left over, of the elements that the species map has there."""
        peak = np.unravel_index(int(np.argmax(left)), left.shape)
        frac = self.grid.fractional(np.array(peak))
        around = tuple(slice(max(0, i - 1), i + 2) for i in peak)
        counts = np.bincount(self.species[around].reshape(-1), minlength=2)
        for number in np.argsort(-counts[1:], kind="stable")[:2] + 1:
            if counts[number]:
                yield sites.plus(int(number), frac)

    def held(self, sites: _Sites) -> _Sites | None:
        """Sites of a noisy map: held near where the species map has them, dropped and added if both maps gain by it."""
        if not 0 < len(sites) <= MAX_ATOMS:
            return None
        current = self._held_fit(sites)
        cost = self.cost(current)
        for _ in range(MAX_CHANGES):
            for trial in self._held_changes(sites, current, cost):
                changed = self._held_fit(trial)
                if (new := self.cost(changed)) < cost:
                    sites, current, cost = trial, changed, new
                    break
            else:
                break
        return current

    def _held_changes(self, seeds: _Sites, sites: _Sites, cost: float) -> Iterator[_Sites]:
        """Seeds without the site that both maps gain most by losing, or with one where noise cannot be what is left."""
        if len(seeds) > 1:
            without = [np.arange(len(seeds)) != i for i in range(len(seeds))]
            costs = [self.cost(sites.only(kept)) for kept in without]
            best = int(np.argmin(costs))
            if costs[best] < cost:
                yield seeds.only(without[best])
        left = self.density - self._density(sites)
        if left.max() > SURE_NOISES * max(self.noise, NOISY) * self.maximum:
            yield from self._additions(seeds, left)

    def _held_fit(self, sites: _Sites) -> _Sites:
        noise = self.maximum * max(self.noise, NOISY)
        spacing = np.cbrt(np.linalg.det(self.cell)) * self.grid.step
        frac, _ = self._fit(sites, MANY, stiffness=(noise / (SEED_ERROR_VOXELS * spacing)) ** 2)
        return _Sites(sites.numbers, sites.radii, frac)

    def certain(self, sites: _Sites | None) -> bool:
        return sites is not None and self.residual(sites) < CERTAIN

    def residual(self, sites: _Sites) -> float:
        return float(np.abs(self._density(sites) - self.density).max()) / self.maximum

    def cost(self, sites: _Sites | None) -> float:
        """Negative log-likelihood of both maps, nats: Gaussian noise of unknown size, labels wrong at an unknown rate."""
        n = self.density.size
        if sites is None:
            left, wrong, count = self.density, np.mean(self.species != 0), 0
        else:
            left, wrong, count = self.density - self._density(sites), np.mean(self._species(sites) != self.species), len(sites)
        noise = np.sqrt(np.mean(np.square(left, dtype=np.float64))) / self.maximum + _FLOOR
        share = min(max(float(wrong), 0.5 / n), 1 - 0.5 / n)
        labels = -share * np.log(share) - (1 - share) * np.log(1 - share)
        return float(n * (np.log(noise) + labels) + NATS_PER_SITE * count)

    def _density(self, sites: _Sites) -> np.ndarray:
        return render_density(sites.numbers, sites.radii, sites.frac, self.cell, self.grid)

    def _species(self, sites: _Sites) -> np.ndarray:
        return render_species(sites.numbers, sites.radii, sites.frac, self.cell, self.grid)
