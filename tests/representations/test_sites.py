"""Sites voxels against a slow dense implementation, and their decoder on clean, noisy and broken images."""

from __future__ import annotations

import numpy as np
import pytest

from voxtal.errors import UserError
from voxtal.representations.placement import place
from voxtal.representations.reasons import Undecodable
from voxtal.representations.sites import SitesGrid, encode_sites
from voxtal.representations.sites_decoding import MAX_ATOMS, decode_sites

PAPER = SitesGrid(64, 15.0, 0.26, 0.02)
LAPTOP = SitesGrid(32, 15.0, 0.5, 0.02)
COARSE = SitesGrid(16, 15.0, 0.9, 0.02)


def dense_reference(positions, grid):
    """The definition word by word: every atom, every grid point, minimum image over the neighbouring boxes."""
    axis = np.arange(grid.size) * grid.box / grid.size
    image = np.zeros((grid.size,) * 3)
    for position in positions:
        squared = []
        for component in position:
            copies = component + grid.box * np.arange(-3, 4)
            squared.append(np.min((axis[:, None] - copies) ** 2, axis=1))
        d2 = squared[0][:, None, None] + squared[1][None, :, None] + squared[2][None, None, :]
        gaussian = np.exp(-d2 / (2 * grid.sigma**2))
        gaussian[gaussian < grid.cutoff] = 0
        image += gaussian
    return image


def render(positions, grid):
    index, values = encode_sites(positions, np.zeros(len(positions), dtype=int), grid)
    image = np.zeros(grid.size**3, dtype=np.float32)
    image[index] = values
    return image.reshape((grid.size,) * 3)


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


@pytest.mark.parametrize("grid", [PAPER, LAPTOP, COARSE])
def test_encoding_equals_the_definition(grid):
    """Voxels would differ from the published ones, at the faces of the box first."""
    random = np.random.default_rng(0)
    for _ in range(25):
        positions = random.uniform(-4, 19, (int(random.integers(1, 6)), 3))
        assert np.abs(render(positions, grid) - dense_reference(positions, grid)).max() < 1e-6


def test_encoding_equals_the_definition_on_real_structures(real_structures):
    """The same, with the symmetric positions on grid planes that random numbers never hit."""
    for _, frac_coords, cell in real_structures[::4]:
        positions, _ = place(frac_coords, cell, 15.0, "paper")
        assert np.abs(render(positions, LAPTOP) - dense_reference(positions, LAPTOP)).max() < 1e-6


def test_elements_do_not_mix():
    """Two elements' atoms would be summed into one image."""
    positions = np.array([[7.0, 7, 7], [7.2, 7, 7], [9, 9, 9]])
    index, values = encode_sites(positions, np.array([1, 0, 1]), LAPTOP)
    assert (np.diff(index) > 0).all()
    images = np.zeros((2, LAPTOP.size**3), dtype=np.float32)
    images.reshape(-1)[index] = values
    assert np.array_equal(images[0].reshape((32,) * 3), render(positions[[1]], LAPTOP))
    assert np.array_equal(images[1].reshape((32,) * 3), render(positions[[0, 2]], LAPTOP))


def test_a_gaussian_wider_than_the_box_is_refused():
    """Its patch would overlap itself and be counted twice."""
    with pytest.raises(UserError, match="sites_sigma_angstrom"):
        SitesGrid(8, 3.0, 1.0, 0.02)


@pytest.mark.parametrize("grid", [PAPER, LAPTOP])
def test_clean_images_decode_exactly(grid):
    """Reproduction would be limited by the decoder, not by the network."""
    random = np.random.default_rng(1)
    for _ in range(25):
        positions = spread(random, int(random.integers(1, 15)), apart=1.5)
        found, heights = decode_sites(render(positions, grid), grid)
        assert errors(found, positions).max() < 1e-4
        assert np.allclose(heights, 1, atol=1e-3)
        assert ((found >= 0) & (found < grid.box)).all()


@pytest.mark.parametrize(("noise", "limit"), [(0.01, 0.03), (0.05, 0.12), (0.1, 0.25)])
@pytest.mark.parametrize("grid", [PAPER, LAPTOP])
def test_noise_moves_atoms_but_adds_and_loses_none(grid, noise, limit):
    """What a network leaves in every voxel would turn into atoms."""
    random = np.random.default_rng(2)
    for _ in range(10):
        positions = spread(random, 6, apart=1.5)
        image = render(positions, grid) + random.normal(0, noise, (grid.size,) * 3)
        assert errors(decode_sites(image, grid)[0], positions).max() < limit


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


def test_images_of_nothing_have_no_atoms():
    """Empty, flat or faint images would yield atoms."""
    for image in (np.zeros((32,) * 3), np.ones((32,) * 3), 0.25 * render(np.full((1, 3), 7.5), LAPTOP)):
        assert len(decode_sites(image, LAPTOP)[0]) == 0


def test_images_of_no_structure_have_a_reason():
    """A generator's garbage would hang the fit or end in a traceback."""
    garbage = np.random.default_rng(4).normal(0, 2, (32,) * 3)
    with pytest.raises(Undecodable, match=str(MAX_ATOMS)):
        decode_sites(garbage, LAPTOP)
    haze = np.full((32,) * 3, 0.4) + np.random.default_rng(5).normal(0, 0.05, (32,) * 3)
    with pytest.raises(Undecodable, match="atoms"):
        decode_sites(haze, LAPTOP)
    with pytest.raises(Undecodable, match="finite"):
        decode_sites(np.full((32,) * 3, np.nan), LAPTOP)
