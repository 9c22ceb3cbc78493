"""Atoms from sites voxels: clean, noisy, cut at 0.5, and broken images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtal.representations.placement import place
from voxtal.representations.reasons import Undecodable
from voxtal.representations.sites import SitesGrid, encode_sites
from voxtal.representations.sites_decoding import MAX_ATOMS, decode_sites

PAPER = SitesGrid(64, 15.0, 0.26, 0.02)
LAPTOP = SitesGrid(32, 15.0, 0.5, 0.02)
COARSE = SitesGrid(16, 15.0, 0.9, 0.02)
FINE = SitesGrid(64, 15.0, 0.6, 0.02)


def render(positions, grid):
    index, values = encode_sites(positions, np.zeros(len(positions), dtype=int), grid)
    image = np.zeros(grid.size**3, dtype=np.float32)
    image[index] = values
    return image.reshape((grid.size,) * 3)


def noisy(image, noise, random):
    """What a network with a sigmoid leaves: noise on every voxel, nothing below 0."""
    return np.maximum(image + random.normal(0, noise, image.shape), 0).astype(np.float32)


def errors(found, expected, box=15.0):
    """Distance of every expected atom to the nearest found one; infinite where the count differs."""
    if len(found) != len(expected):
        return np.array([np.inf])
    steps = found[:, None] - expected
    steps -= box * np.rint(steps / box)
    distances = np.linalg.norm(steps, axis=-1)
    return np.maximum(distances.min(axis=0), distances.min(axis=1))


def spread(random, n, apart, box=15.0):
    """``n`` positions anywhere in the box, no two nearer than ``apart``."""
    positions = random.uniform(0, box, (1, 3))
    while len(positions) < n:
        new = random.uniform(0, box, 3)
        steps = positions - new
        steps -= box * np.rint(steps / box)
        if np.linalg.norm(steps, axis=1).min() > apart:
            positions = np.vstack([positions, new])
    return positions


def real_images(structures):
    """Positions of each element's atoms as they are encoded."""
    for numbers, frac_coords, cell in structures:
        positions, _ = place(frac_coords, cell, 15.0, "compact")
        yield from (positions[numbers == z] for z in np.unique(numbers))


@pytest.mark.parametrize("grid", [PAPER, LAPTOP, COARSE, FINE])
def test_clean_images_decode_exactly(grid):
    """Reproduction would be limited by the decoder, not by the network."""
    random = np.random.default_rng(1)
    for _ in range(25):
        positions = spread(random, int(random.integers(1, 15)), apart=3.3 * grid.sigma)
        found, heights = decode_sites(render(positions, grid), grid)
        assert errors(found, positions).max() < 2e-3
        assert np.allclose(heights, 1, atol=2e-3)
        assert ((found >= 0) & (found < grid.box)).all()


@given(
    coordinates=st.lists(
        st.sampled_from([0, 15 / 64, 15 / 32, 7.5, 14.9999]) | st.floats(0, 14.999), min_size=3, max_size=3
    ),
    grid=st.sampled_from([PAPER, LAPTOP, COARSE, FINE]),
)
def test_one_atom_anywhere_comes_back(coordinates, grid):
    """Atoms on grid planes, half-way between or at the faces of the box would be lost, doubled or moved."""
    position = np.array([coordinates])
    assert errors(decode_sites(render(position, grid), grid)[0], position).max() < 1e-4


@pytest.mark.parametrize("grid", [PAPER, LAPTOP])
def test_real_elements_come_back_from_clean_and_stored_images(real_structures, grid):
    """Close pairs and high symmetry, which random positions lack; float16 is what shards may store."""
    for positions in real_images(real_structures[::8]):
        image = render(positions, grid)
        assert errors(decode_sites(image, grid)[0], positions).max() < 3e-3
        assert errors(decode_sites(image.astype(np.float16), grid)[0], positions).max() < 3e-3


@pytest.mark.parametrize(("noise", "limit"), [(0.01, 0.02), (0.05, 0.1), (0.1, 0.2)])
@pytest.mark.parametrize("grid", [PAPER, LAPTOP])
def test_noise_moves_atoms_but_adds_and_loses_none(real_structures, grid, noise, limit):
    """What a network leaves in every voxel would turn into atoms."""
    random = np.random.default_rng(2)
    for positions in real_images(real_structures[::40]):
        assert errors(decode_sites(noisy(render(positions, grid), noise, random), grid)[0], positions).max() < limit


@pytest.mark.parametrize(("grid", "limit"), [(PAPER, 0.15), (LAPTOP, 0.3)])
def test_images_cut_at_one_half_keep_their_atoms(real_structures, grid, limit):
    """Networks trained the published way leave such images, which the published decoder loses altogether."""
    random = np.random.default_rng(6)
    for positions in real_images(real_structures[::40]):
        cut = (render(positions, grid) > 0.5).astype(np.float32)
        assert errors(decode_sites(cut, grid)[0], positions).max() < limit
        assert errors(decode_sites(noisy(cut, 0.05, random), grid)[0], positions).max() < limit


@pytest.mark.parametrize("distance", [0.75, 1.0, 1.5])
def test_overlapping_atoms_are_told_apart(distance):
    """Pairs such as O-O or C-C merge into one maximum at the laptop grid and would lose an atom."""
    random = np.random.default_rng(3)
    for _ in range(10):
        direction = random.normal(size=3)
        middle = random.uniform(0, 15, 3)
        step = distance / 2 * direction / np.linalg.norm(direction)
        positions = np.array([middle - step, middle + step])
        assert errors(decode_sites(render(positions, LAPTOP), LAPTOP)[0], positions).max() < 0.01
        saturated = np.minimum(render(positions, LAPTOP), 1)
        assert errors(decode_sites(saturated, LAPTOP)[0], positions).max() < 0.15


def test_many_atoms_hidden_under_others_are_all_found():
    """Azides hide the middle atom of every N3 group at the laptop grid; one search would find one of them."""
    middles = np.array([[x, y, z] for x in (3, 7, 11) for y in (3, 7, 11) for z in (4, 10)], dtype=float)
    positions = np.concatenate([middles + np.array([0, 0, step]) for step in (-1.18, 0, 1.18)])
    assert errors(decode_sites(render(positions, LAPTOP), LAPTOP)[0], positions).max() < 0.01


def test_images_of_nothing_have_no_atoms():
    """Empty or faint images would yield atoms."""
    for image in (np.zeros((32,) * 3), 0.25 * render(np.full((1, 3), 7.5), LAPTOP)):
        positions, heights = decode_sites(image, LAPTOP)
        assert positions.shape == (0, 3)
        assert heights.shape == (0,)


def test_images_of_no_structure_have_a_reason():
    """A generator's garbage would hang the fit or end in a traceback."""
    random = np.random.default_rng(4)
    with pytest.raises(Undecodable, match=str(MAX_ATOMS)):
        decode_sites(random.normal(0, 2, (32,) * 3), LAPTOP)
    with pytest.raises(Undecodable, match="atoms"):
        decode_sites(0.4 + random.normal(0, 0.05, (32,) * 3), LAPTOP)
    with pytest.raises(Undecodable, match="atoms"):
        decode_sites(np.ones((32,) * 3), LAPTOP)
    for bad in (np.nan, np.inf, -np.inf):
        image = render(np.full((1, 3), 7.5), LAPTOP)
        image[0, 0, 0] = bad
        with pytest.raises(Undecodable, match="finite"):
            decode_sites(image, LAPTOP)
