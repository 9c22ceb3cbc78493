"""Sites voxels against a slow dense implementation."""

from __future__ import annotations

import numpy as np
import pytest

from voxtal.errors import UserError
from voxtal.representations.placement import place
from voxtal.representations.sites import SitesGrid, encode_sites

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
    positions = np.array([[7.2, 7, 7], [7.0, 7, 7], [9, 9, 9]])
    index, values = encode_sites(positions, np.array([0, 1, 1]), LAPTOP)
    assert (np.diff(index) > 0).all()
    images = np.zeros((2, LAPTOP.size**3), dtype=np.float32)
    images.reshape(-1)[index] = values
    assert np.array_equal(images[0].reshape((32,) * 3), render(positions[[0]], LAPTOP))
    assert np.array_equal(images[1].reshape((32,) * 3), render(positions[[1, 2]], LAPTOP))


def test_a_gaussian_wider_than_the_box_is_refused():
    """Its patch would overlap itself and be counted twice."""
    with pytest.raises(UserError, match="sites_sigma_angstrom"):
        SitesGrid(8, 3.0, 1.0, 0.02)
