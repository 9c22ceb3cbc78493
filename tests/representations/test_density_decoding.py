"""Crystals from clean, stored, noisy and broken density and species maps."""

from __future__ import annotations

import time
from contextlib import suppress

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from voxtal.representations.density import DensityGrid, DensityMaps, encode_density, placed_sites
from voxtal.representations.density_decoding import decode_density, noise_of
from voxtal.representations.density_fit import FEW, fit_sites
from voxtal.representations.ionic_radii import ionic_radii
from voxtal.representations.placement import standard_cell
from voxtal.representations.reasons import Undecodable

GRID = DensityGrid(32, 0.25, "true")


def error(decoded, numbers, frac_coords, cell, grid=GRID):
    """Largest distance, angstrom, of a site from where it was encoded; infinite for other elements or counts."""
    if sorted(decoded.numbers.tolist()) != sorted(np.asarray(numbers).tolist()):
        return np.inf
    steps = decoded.frac_coords[:, None] - placed_sites(frac_coords, cell, grid)[0]
    steps -= np.rint(steps)
    distances = np.linalg.norm(steps @ decoded.cell, axis=-1) + 1e3 * (decoded.numbers[:, None] != numbers)
    return distances[linear_sum_assignment(distances)].max()


def with_noise(maps, noise, seed):
    """Normal noise of that share of the maximum, and that share of voxels labelled as another of the map's species."""
    random = np.random.default_rng(seed)
    density = maps.density + random.normal(0, noise * maps.density.max(), maps.density.shape)
    labels = np.unique(np.append(maps.species, 0))
    wrong = random.random(maps.species.shape) < noise
    species = maps.species.copy()
    moved = np.searchsorted(labels, species[wrong]) + random.integers(1, len(labels), wrong.sum())
    species[wrong] = labels[moved % len(labels)]
    return DensityMaps(density.astype(np.float32), species, maps.cell, maps.sites)


def test_clean_maps_of_real_structures_decode_exactly(real_structures):
    """Reproduction would be limited by the decoder; skewed primitive cells too, which the paper could not do."""
    for numbers, frac_coords, cell in real_structures[::4]:
        maps = encode_density(numbers, frac_coords, cell, GRID)
        decoded = decode_density(maps.density, maps.species, maps.cell, GRID)
        assert decoded.certain
        assert error(decoded, numbers, frac_coords, cell) < 1e-3
        assert ((decoded.frac_coords >= 0) & (decoded.frac_coords < 1)).all()
        assert np.array_equal(decoded.cell, maps.cell)


def test_stored_maps_decode_as_well(real_structures):
    """A data set keeps 65,536 levels of a map: what that costs must not be an atom."""
    for numbers, frac_coords, cell in real_structures[1::12]:
        maps = encode_density(numbers, frac_coords, cell, GRID)
        unit = maps.density.max() / 65535
        decoded = decode_density(np.rint(maps.density / unit) * unit, maps.species, maps.cell, GRID)
        assert decoded.certain
        assert error(decoded, numbers, frac_coords, cell) < 0.01


def test_cells_in_any_orientation_decode(real_structures):
    """Cells read from rotated coordinates are not in the standard orientation, and left-handed ones must not mirror."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    for numbers, frac_coords, cell in real_structures[::80]:
        maps = encode_density(numbers, frac_coords, cell, GRID)
        for turned in (maps.cell @ turn, -maps.cell @ turn):
            decoded = decode_density(maps.density, maps.species, turned, GRID)
            assert decoded.certain
            assert np.array_equal(decoded.cell, turned)


@pytest.mark.parametrize("distance", [0.75, 1.0, 1.5, 2.2])
def test_overlapping_ions_of_one_element_come_apart(distance):
    """Two oxygens nearer than 2.5 angstrom are one component of the species map and one maximum of the density."""
    cell = standard_cell(np.array([5.0, 5.5, 6.0]), np.array([80.0, 95.0, 105.0]))
    random = np.random.default_rng(1)
    for _ in range(4):
        direction = random.normal(size=3)
        step = distance / 2 * direction / np.linalg.norm(direction) @ np.linalg.inv(cell)
        frac_coords = np.array([0.5 - step, 0.5 + step, [0.02, 0.03, 0.01]])
        numbers = np.array([8, 8, 26])
        maps = encode_density(numbers, frac_coords, cell, GRID)
        decoded = decode_density(maps.density, maps.species, maps.cell, GRID)
        assert decoded.certain
        assert error(decoded, numbers, frac_coords, cell) < 1e-3


def test_hydrogen_stays_on_its_side_of_oxygen():
    """The fit may carry a light atom through a heavy one: the wrong crystal with hardly a residual."""
    cell = standard_cell(np.array([5.8, 5.8, 5.8]), np.array([70.0, 70.0, 70.0]))
    random = np.random.default_rng(2)
    for _ in range(5):
        direction = random.normal(size=3)
        oxygen = np.array([0.6, 0.5, 0.5])
        bond = 0.98 * direction / np.linalg.norm(direction) @ np.linalg.inv(cell)
        frac_coords = np.array([[0.1, 0.1, 0.1], oxygen, oxygen + bond])
        numbers = np.array([19, 8, 1])
        maps = encode_density(numbers, frac_coords, cell, GRID)
        decoded = decode_density(maps.density, maps.species, maps.cell, GRID)
        assert decoded.certain
        assert error(decoded, numbers, frac_coords, cell) < 0.01


@pytest.mark.parametrize(("noise", "angstrom"), [(0.01, 0.15), (0.05, 0.25), (0.1, 0.3)])
def test_noise_moves_atoms_but_adds_and_loses_few(real_structures, noise, angstrom):
    """What networks leave in every voxel would turn into atoms, or carry light ones away. Every other structure's worst
    site is within ``angstrom``; at most one structure in ten has too many atoms or too few."""
    chosen = real_structures[2::15]
    errors = []
    for seed, (numbers, frac_coords, cell) in enumerate(chosen):
        maps = with_noise(encode_density(numbers, frac_coords, cell, GRID), noise, seed)
        decoded = decode_density(maps.density, maps.species, maps.cell, GRID)
        assert not decoded.certain
        errors.append(error(decoded, numbers, frac_coords, cell))
    assert np.isfinite(errors).mean() >= 0.9
    assert np.median(errors) < angstrom


def test_noise_is_seen_and_atoms_are_not(real_structures):
    """A clean map taken for a noisy one would lose its exact fit, a noisy one would be searched for seconds."""
    random = np.random.default_rng(3)
    for numbers, frac_coords, cell in real_structures[::20]:
        density = encode_density(numbers, frac_coords, cell, GRID).density
        assert noise_of(density) < 0.0025 * density.max()
        noisy = density + random.normal(0, 0.01 * density.max(), density.shape)
        assert noise_of(noisy) == pytest.approx(0.01 * density.max(), rel=0.15)


def test_a_wrong_species_map_is_not_certain():
    """The certificate would vouch for a crystal of other elements."""
    numbers, frac_coords = np.array([11, 17]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    maps = encode_density(numbers, frac_coords, np.eye(3) * 3.4, GRID)
    swapped = np.where(maps.species == 17, 35, maps.species).astype(np.uint8)
    assert not decode_density(maps.density, swapped, maps.cell, GRID).certain


def test_maps_of_nothing_have_a_reason():
    """A generator's garbage would end in a traceback."""
    cube, empty = np.eye(3) * 4, np.zeros((32,) * 3)
    for density, species, cell, reason in (
        (empty, empty, cube, "empty"),
        (empty + 1, empty, cube, "no atoms"),
        (np.full((32,) * 3, np.nan), empty, cube, "finite"),
        (empty + 1, empty, np.zeros((3, 3)), "volume"),
    ):
        with pytest.raises(Undecodable, match=reason):
            decode_density(density, species, cell, GRID)


@pytest.mark.slow
def test_garbage_takes_bounded_time():
    """One bad map among fifty thousand candidates would hold up a rank."""
    random = np.random.default_rng(4)
    blobs = random.random((4, 4, 4)).repeat(8, 0).repeat(8, 1).repeat(8, 2)
    elements = random.integers(0, 95, (4, 4, 4)).repeat(8, 0).repeat(8, 1).repeat(8, 2)
    for density, species in (
        (random.random((32,) * 3), random.integers(0, 95, (32,) * 3)),
        (random.random((32,) * 3), random.integers(0, 3, (32,) * 3) * 8),
        (np.ones((32,) * 3), np.full((32,) * 3, 8)),
        (blobs, elements),
    ):
        began = time.process_time()
        with suppress(Undecodable):
            assert not decode_density(density, species, np.eye(3) * 6, GRID).certain
        assert time.process_time() - began < 10


def test_sites_far_outside_of_the_box() -> None:
    """A network at the start of its training suggests such: no voxel is near them, and nothing to fit them to."""
    grid = DensityGrid(16, 0.25, "true")
    maps = encode_density(np.array([22]), np.zeros((1, 3)), 4 * np.eye(3), grid)
    far, radii = np.full((1, 3), 9.0), ionic_radii(np.array([22]))
    for free_heights in (False, True):
        sites, heights = fit_sites(maps.density, np.array([22]), radii, far, maps.cell, grid, FEW, free_heights)
        assert np.array_equal(sites, far)
        assert np.isfinite(heights).all()
