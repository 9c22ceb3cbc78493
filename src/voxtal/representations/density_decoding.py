"""Crystals from ICSG3D's maps: sites that the species map suggests are fitted to the density map together.

On clean maps the result certifies itself: the density that it would have is the given one but for float32. On noisy
ones (what networks leave) sites are added and dropped as long as both maps together become more likely.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from voxtal.representations.density import (
    DensityGrid,
    render_density,
    render_species,
)
from voxtal.representations.density_fit import FEW, MANY, WIDE, Neighbourhood, fit_sites
from voxtal.representations.density_seeds import ball_sites, likely_sites
from voxtal.representations.ionic_radii import ionic_radii
from voxtal.representations.placement import cell_from_metric
from voxtal.representations.reasons import Undecodable
from voxtal.structures.validity import TOO_SMALL
from voxtal.units import MIN_VOLUME_ANGSTROM3

CERTAIN = 3e-5
"""Largest residual, in shares of the map's maximum, of a result that can only be right: what 65,536 levels leave.
The worst confusions of real structures, hydrogen on the wrong side of its oxygen, leave 0.0002."""

CERTAIN_LABELS = 1e-3
"""Largest share of mislabelled voxels of such a result."""

_OUTSIDE = 0.1
"""Edges beyond the cell at which a site is no site: all lie in the cell, and one that does not has been pushed away."""

MAX_ATOMS = 64
"""Sites that are fitted together; maps that suggest more are no structure's."""

MAX_CHANGES = 24
"""Sites that are added or dropped one by one; bounds the time that garbage takes."""

BALL_THRESHOLDS = 0.25, 0.1, 0.03
"""Shares of a whole ball that an ion has to explain; tried in turn until a result is certain. The first finds what
there is in nearly all maps, noisy ones too; the others find ions that hide behind others, and some that are none."""

NOISY = 2.5e-3
"""Noise, in shares of the map's maximum, from which on a map is not searched for what explains it exactly."""

SEED_ERROR_VOXELS = 0.5
"""How far from the middle of its ball a site may be, which holds it in a noisy map."""

SURE_NOISES = 6.0
"""Times the noise that one voxel of a whole map never reaches by chance."""

NATS_PER_SITE = 12.0
"""What a site has to gain in log-likelihood to be worth its three coordinates and its element."""

_WEAK = 0.4
"""Free heights below which a site is doubtful."""

_FLOOR = 1e-6
"""Noise, in shares of the maximum, that float32 leaves at most."""


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
        """Whether the density is explained but for float32, or for the levels that it was stored in."""
        return self.residual < CERTAIN and self.mislabelled < CERTAIN_LABELS


@dataclass(frozen=True)
class _Sites:
    """Sites that are to explain ``maps``: atomic numbers (n,), fractional coordinates (n, 3) in the box."""

    numbers: np.ndarray
    frac: np.ndarray
    maps: _Maps

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def radii(self) -> np.ndarray:
        return ionic_radii(self.numbers)

    @property
    def widths(self) -> np.ndarray:
        return self.maps.grid.widths(self.radii)

    @cached_property
    def density(self) -> np.ndarray:
        return render_density(self.numbers, self.widths, self.frac, self.maps.cell, self.maps.grid)

    @cached_property
    def species(self) -> np.ndarray:
        return render_species(self.numbers, self.radii, self.frac, self.maps.cell, self.maps.grid)

    @cached_property
    def residual(self) -> float:
        return float(np.abs(self.density - self.maps.density).max()) / self.maps.maximum

    @cached_property
    def mislabelled(self) -> float:
        return float(np.mean(self.species != self.maps.species))

    @property
    def inside(self) -> np.ndarray:
        return np.asarray((np.abs(self.frac - 0.5) < 0.5 + _OUTSIDE).all(axis=1))

    def at(self, frac: np.ndarray) -> _Sites:
        return replace(self, frac=frac)

    def only(self, kept: Any) -> _Sites:
        return replace(self, numbers=self.numbers[kept], frac=self.frac[kept])

    def plus(self, number: int, frac: np.ndarray) -> _Sites:
        return replace(self, numbers=np.append(self.numbers, number), frac=np.vstack([self.frac, frac]))


def decode_density(
    density: np.ndarray, species: np.ndarray, cell: np.ndarray, grid: DensityGrid, exact: bool = True
) -> DecodedDensity:
    """The crystal whose maps are nearest to the given ones.

    Connected components of the species map start a fit of all sites to the density map, or, for elements whose
    ions overlap or are cut, balls of the ions' radii that cover the species map. Sites may be dropped and added. In
    noisy maps they are held near the middles of those balls while they are fitted.

    Parameters
    ----------
    density
        (N, N, N) density map, noisy or clean.
    species
        (N, N, N) species map: atomic numbers, 0 where there is no ion.
    cell
        (3, 3) lattice vectors as rows, angstrom.
    exact
        Whether a density map without noise is searched for the sites that explain it exactly. There are none where a
        network drew it, as smooth as it may be, and the search takes twice as long as all the rest.

    Raises
    ------
    Undecodable
        The maps are not finite, the cell has no volume, or no sites explain them.
    """
    maps = _Maps.of(density, species, cell, grid)
    seeds = maps.sites(*likely_sites(maps.species, maps.cell, grid, BALL_THRESHOLDS[0]))
    found = [maps.fitted(seeds, FEW)]
    if not maps.certain(found[-1]) and exact and maps.noise < NOISY:
        found[0] = maps.settled(seeds, found[0])
        for threshold in BALL_THRESHOLDS:
            if maps.certain(found[-1]):
                break
            seeds = maps.sites(*ball_sites(maps.species, maps.cell, grid, threshold))
            found.append(maps.settled(seeds, maps.fitted(seeds, FEW)))
    if not maps.certain(found[-1]):
        found.append(maps.held(maps.sites(*ball_sites(maps.species, maps.cell, grid, BALL_THRESHOLDS[0]))))
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

    @cached_property
    def noise(self) -> float:
        """In shares of the maximum."""
        return noise_of(self.density) / self.maximum

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
        return cls(
            density,
            np.ascontiguousarray(species, dtype=np.uint8),
            triangular,
            grid,
            maximum,
        )

    def sites(self, numbers: np.ndarray, frac: np.ndarray) -> _Sites:
        return _Sites(numbers, frac, self)

    def decoded(self, sites: _Sites, cell: np.ndarray) -> DecodedDensity:
        frac = sites.frac - np.floor(sites.frac)
        frac = np.where(frac < 1, frac, 0.0)
        return DecodedDensity(sites.numbers, frac, np.array(cell, np.float64), sites.residual, sites.mislabelled)

    def fitted(self, sites: _Sites, around: Neighbourhood = WIDE) -> _Sites | None:
        """The sites where they fit the density best; none where there are none or too many."""
        if not 0 < len(sites) <= MAX_ATOMS:
            return None
        return sites.at(self._fit(sites, around)[0])

    def _fit(
        self, sites: _Sites, around: Neighbourhood, free_heights: bool = False, stiffness: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        given = sites.numbers, sites.widths, sites.frac, self.cell, self.grid
        return fit_sites(self.density, *given, around, free_heights, stiffness)

    def settled(self, seeds: _Sites, current: _Sites | None) -> _Sites | None:
        """Fit on from ``current``, and drop and add sites while both maps become more likely."""
        while current is not None and current.inside.any() and not current.inside.all():
            seeds = seeds.only(np.arange(len(seeds)) != np.argmax(np.abs(current.frac - 0.5).max(axis=1)))
            current = self.fitted(seeds, FEW)
        if not self.certain(current):
            current = self.fitted(seeds)
        for _ in range(MAX_CHANGES):
            if current is None or self.certain(current):
                break
            cost = self.cost(current)
            for trial in self._changes(seeds, current):
                changed = self.fitted(trial)
                if changed is not None and self.cost(changed) < cost:
                    seeds, current = trial, changed
                    break
            else:
                break
        return current

    def _changes(self, seeds: _Sites, sites: _Sites) -> Iterator[_Sites]:
        """Sites without those that left the box or have no height of their own, or with one more."""
        if sites.inside.any() and not sites.inside.all():
            yield seeds.only(sites.inside)
            yield sites.only(sites.inside)
        frac, heights = self._fit(seeds, WIDE, True)
        weak = heights < _WEAK
        if weak.any() and not weak.all():
            yield seeds.at(frac).only(~weak)
            yield seeds.only(~weak)
        if len(seeds) > 1:
            yield from (seeds.only(np.arange(len(seeds)) != lowest) for lowest in np.argsort(heights)[:3])
        yield from self._additions(sites, self.density - sites.density)

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
        left = self.density - sites.density
        if left.max() > SURE_NOISES * max(self.noise, NOISY) * self.maximum:
            yield from self._additions(seeds, left)

    def _held_fit(self, sites: _Sites) -> _Sites:
        noise = self.maximum * max(self.noise, NOISY)
        spacing = np.cbrt(np.linalg.det(self.cell)) * self.grid.step
        return sites.at(self._fit(sites, MANY, stiffness=(noise / (SEED_ERROR_VOXELS * spacing)) ** 2)[0])

    def certain(self, sites: _Sites | None) -> bool:
        return (
            sites is not None
            and bool(sites.inside.all())
            and sites.residual < CERTAIN
            and sites.mislabelled < CERTAIN_LABELS
        )

    def cost(self, sites: _Sites | None) -> float:
        """Negative log-likelihood of both maps, nats: noise of unknown size, labels wrong at an unknown rate."""
        n = self.density.size
        if sites is None:
            left, wrong, count = self.density, float(np.mean(self.species != 0)), 0
        else:
            left, count = self.density - sites.density, len(sites)
            wrong = sites.mislabelled
        noise = np.sqrt(np.mean(np.square(left, dtype=np.float64))) / self.maximum + _FLOOR
        share = min(max(wrong, 0.5 / n), 1 - 0.5 / n)
        labels = -share * np.log(share) - (1 - share) * np.log(1 - share)
        return float(n * (np.log(noise) + labels) + NATS_PER_SITE * count)
