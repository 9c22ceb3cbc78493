"""Density, species and coordinate maps against a slow dense implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtal.config import build_config
from voxtal.representations.density import (
    DensityGrid,
    binary_map,
    cell_from_coordinates,
    coordinate_grid,
    encode_density,
)
from voxtal.representations.ionic_radii import ionic_radii
from voxtal.representations.placement import standard_cell
from voxtal.representations.reasons import Undecodable, Unencodable

TRUE = DensityGrid(32, 0.25, "true")
ORTHOGONAL = DensityGrid(32, 0.25, "orthogonal")


def dense_reference(numbers, frac_coords, cell, grid, strict=False):
    """Eqs. 1 and 2 word by word in float64: every voxel and every site, in the cell's own orientation.

    ``strict`` takes what lies at exactly the radius as outside.
    """
    sites = np.where(np.abs(frac_coords - 0.5) > 0.5 + 1e-6, frac_coords % 1, frac_coords)
    if grid.geometry == "orthogonal":
        cell = np.diag(np.linalg.norm(cell, axis=1))
    elif np.linalg.det(cell) < 0:
        sites, cell = -sites, -cell
    sites = sites - sites.min(axis=0)
    axis = -grid.margin + (np.arange(grid.size) + 0.5) * (1 + 2 * grid.margin) / grid.size
    voxels = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    radii, density = ionic_radii(numbers), np.zeros((grid.size,) * 3)
    species, nearest = np.zeros((grid.size,) * 3, dtype=int), np.full((grid.size,) * 3, np.inf)
    tie = -1e-8 if strict else 1e-8
    for number, radius, site in zip(numbers, radii, sites, strict=True):
        squared = (((voxels - site) @ cell) ** 2).sum(axis=-1)
        density += number / radius**3 * np.exp(-squared / (2 * radius**2))
        closer = (squared <= radius**2 + tie) & (squared < nearest - 1e-8)
        species[closer], nearest[closer] = number, squared[closer]
    return density / (2 * np.pi) ** 1.5, species


@pytest.mark.parametrize("grid", [TRUE, ORTHOGONAL])
def test_maps_equal_the_definition_on_real_structures(real_structures, grid):
    """Networks would learn from other maps than the published ones."""
    for numbers, frac_coords, cell in real_structures[::12]:
        maps = encode_density(numbers, frac_coords, cell, grid)
        density, species = dense_reference(numbers, frac_coords, cell, grid)
        assert np.abs(maps.density - density).max() < 1e-6 * density.max()
        seen = density > 1e-4 * density.max()
        assert np.allclose(maps.density[seen], density[seen], rtol=3e-6)
        assert np.array_equal(maps.species, species)


@pytest.mark.parametrize("grid", [DensityGrid(16, 0.25, "true"), DensityGrid(20, 0.0, "orthogonal")])
def test_maps_equal_the_definition_on_random_structures(random_structures, grid):
    """The same in cells of any shape, left-handed and turned ones and coordinates outside the cell among them."""
    for numbers, frac_coords, cell in random_structures:
        maps = encode_density(numbers, frac_coords, cell, grid)
        density, species = dense_reference(numbers, frac_coords, cell, grid)
        assert np.abs(maps.density - density).max() < 1e-6 * density.max()
        assert np.array_equal(maps.species, species)


@pytest.mark.parametrize("angles", [(90, 90, 120), (90, 105, 90), (80, 90, 90), (90, 90, 90), (60, 60, 60)])
def test_every_way_to_factor_gives_the_same_map(angles):
    """The matrix product over a perpendicular a, b or c, or none, would put atoms on other axes."""
    random = np.random.default_rng(0)
    cell = standard_cell(np.array([4.0, 5.0, 6.0]), np.array(angles))
    numbers, frac_coords = np.array([8, 26, 6, 55]), random.random((4, 3))
    density, species = dense_reference(numbers, frac_coords, cell, TRUE)
    maps = encode_density(numbers, frac_coords, cell, TRUE)
    assert np.abs(maps.density - density).max() < 1e-6 * density.max()
    assert np.array_equal(maps.species, species)


def test_right_angles_make_both_geometries_one(real_structures):
    """A cubic crystal's published map would not be the default preset's."""
    cubic = [s for s in real_structures if np.abs(s[2] @ s[2].T - np.diag(np.diag(s[2] @ s[2].T))).max() < 1e-9]
    assert cubic
    for numbers, frac_coords, cell in cubic[:10]:
        one, two = (encode_density(numbers, frac_coords, cell, grid) for grid in (TRUE, ORTHOGONAL))
        assert np.allclose(one.density, two.density, rtol=1e-5, atol=1e-7)
        assert np.array_equal(one.species, two.species)
        assert np.allclose(one.cell, two.cell)


def test_turning_a_crystal_in_space_changes_nothing(real_structures):
    """The way a file happens to orient its cell would show in the maps."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    for numbers, frac_coords, cell in real_structures[::60]:
        one, two = (encode_density(numbers, frac_coords, c, TRUE) for c in (cell, cell @ turn))
        assert np.allclose(one.density, two.density, rtol=1e-5, atol=1e-7)
        assert np.array_equal(one.species, two.species)


def test_ties_do_not_hang_on_rounding():
    """A voxel at exactly the radius is inside, and of equally near sites the first has it."""
    radius = float(ionic_radii(np.array([8]))[0])
    grid = DensityGrid(8, 0.0, "true")
    cell = np.diag([16 * radius] * 3)  # voxel centres (i + 1/2) 2 r: the site at 0 reaches no centre along an axis
    moved = np.array([[0.0, 0.0, 0.0], [0.125, 0.0625, 0.0625]])  # the second is exactly r from two centres
    for scale in (1, 1 + 1e-12, 1 - 1e-12):
        species = encode_density(np.array([8, 8]), moved, cell * scale, grid).species
        assert species[0, 0, 0] == species[1, 0, 0] == 8
    between = np.array([[0.0, 0.0, 0.0], [0.125, 0.125, 0.125]])  # the centre of voxel (0, 0, 0) is half way
    for first, second in ((55, 56), (56, 55)):
        species = encode_density(np.array([first, second]), between, np.diag([8.0] * 3), grid).species
        assert species[0, 0, 0] == first


def test_binary_map_is_where_species_are():
    """The watershed would segment other voxels."""
    maps = encode_density(np.array([11, 17]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.eye(3) * 3.4, TRUE)
    assert binary_map(maps.species).dtype == np.uint8
    assert np.array_equal(binary_map(maps.species) == 1, maps.species > 0)


@given(st.integers(0, 10**6))
def test_cells_come_back_from_their_coordinates(seed):
    """The decoded cell would not be the crystal's; the published conversion is off by 1/32."""
    random = np.random.default_rng(seed)
    cell = random.uniform(-1, 1, (3, 3)) + np.diag(random.uniform(3, 9, 3))
    coordinates = coordinate_grid(cell, TRUE)
    assert coordinates.shape == (3, 32, 32, 32)
    assert coordinates.dtype == np.float32
    assert np.abs(cell_from_coordinates(coordinates, TRUE) - cell).max() < 1e-5
    noisy = coordinates + random.normal(0, 0.5, coordinates.shape)
    assert np.abs(cell_from_coordinates(noisy, TRUE) - cell).max() < 0.03


def test_coordinates_are_the_published_ones():
    """Cells from networks trained on published coordinates would be off by the margin or half a voxel."""
    lengths = np.array([3.0, 4.0, 5.0])
    axes = [np.linspace(0, 1.5 * length, 33)[:-1] for length in lengths]
    published = np.stack(np.meshgrid(*axes, indexing="ij"))
    assert np.allclose(coordinate_grid(np.diag(lengths), ORTHOGONAL), published, rtol=1e-6)


@pytest.mark.parametrize(
    ("numbers", "frac_coords", "cell", "reason"),
    [
        ([], np.empty((0, 3)), np.eye(3) * 4, "no atoms"),
        ([8], [[np.nan, 0, 0]], np.eye(3) * 4, "not finite"),
        ([8], [[0, 0, 0]], np.full((3, 3), np.inf), "not finite"),
        ([8], [[0, 0, 0]], np.ones((3, 3)), "volume"),
        ([0], [[0, 0, 0]], np.eye(3) * 4, "without a radius"),
    ],
)
def test_structures_without_maps_have_a_reason(numbers, frac_coords, cell, reason):
    """One bad row would stop a whole data set, or end in it as zeros."""
    with pytest.raises(Unencodable, match=reason):
        encode_density(np.array(numbers, dtype=int), np.array(frac_coords, dtype=float), cell, TRUE)


def test_coordinates_without_a_cell_have_a_reason():
    """A network's garbage would end in a traceback."""
    with pytest.raises(Undecodable, match="finite"):
        cell_from_coordinates(np.full((3, 32, 32, 32), np.nan), TRUE)
    with pytest.raises(Undecodable, match="volume"):
        cell_from_coordinates(np.zeros((3, 32, 32, 32)), TRUE)


def test_presets_set_the_grid():
    """``paper`` must be the published geometry."""
    assert DensityGrid.of(build_config({"preset": "paper"}).density) == ORTHOGONAL
    assert DensityGrid.of(build_config({}).density) == TRUE
