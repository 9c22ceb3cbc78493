"""Placement keeps the crystal, turns it one way, and fits it into the box."""

from __future__ import annotations

import numpy as np
import pytest

from voxtal.representations.placement import cell_parameters, outside_box, place, standard_cell
from voxtal.representations.reasons import Unencodable

BOX = 15.0


def _distances(cart_coords, cell):
    """All pair distances below 6 angstrom, images included, sorted."""
    reach = np.ceil(8 * np.linalg.norm(np.linalg.inv(cell), axis=0)).astype(int)
    images = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach)), -1).reshape(-1, 3) @ cell
    frac = cart_coords @ np.linalg.inv(cell)
    cart = (frac - np.floor(frac)) @ cell
    steps = (cart[:, None] - cart)[:, :, None] + images
    lengths = np.sort(np.linalg.norm(steps, axis=-1).ravel())
    return lengths[lengths < 4.0]


def test_standard_cell_has_its_parameters_and_orientation():
    """Decoded cells would not fit decoded sites if another axis convention crept in."""
    lengths, angles = np.array([3.0, 4.5, 6.0]), np.array([80.0, 95.0, 110.0])
    cell = standard_cell(lengths, angles)
    assert np.allclose(np.concatenate(cell_parameters(cell)), np.concatenate([lengths, angles]))
    assert cell[0, 1] == cell[0, 2] == cell[1, 2] == 0
    assert (np.diag(cell) > 0).all()


def test_angles_that_make_no_cell_are_refused():
    """A cell of impossible angles must not come out as numbers."""
    with pytest.raises(np.linalg.LinAlgError):
        standard_cell(np.array([3.0, 3.0, 3.0]), np.array([60.0, 60.0, 150.0]))


@pytest.mark.parametrize("placement", ["paper", "compact"])
def test_placing_keeps_the_crystal(random_structures, placement):
    """Voxels would describe another crystal if placing moved atoms against each other."""
    for _, frac_coords, cell in random_structures:
        positions, placed = place(frac_coords, cell, BOX, placement)
        before, after = _distances(frac_coords @ cell, cell), _distances(positions, placed)
        assert before.shape == after.shape
        assert np.allclose(before, after, atol=1e-6)
        assert np.allclose(positions.mean(axis=0), BOX / 2)
        assert placed[0, 1] == placed[0, 2] == placed[1, 2] == 0


def test_placing_does_not_mirror():
    """A chiral crystal in a left-handed cell would come back as its mirror image."""
    cell = standard_cell(np.array([5.0, 6.0, 7.0]), np.array([80.0, 85.0, 100.0]))
    frac = np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.15, 0], [0, 0, 0.2]])
    swapped, left_handed = frac[:, [1, 0, 2]], cell[[1, 0, 2]]
    for placement in ("paper", "compact"):
        one, _ = place(frac, cell, BOX, placement)
        other, _ = place(swapped, left_handed, BOX, placement)
        volumes = [np.linalg.det(positions[1:] - positions[0]) for positions in (one, other)]
        assert volumes[0] == pytest.approx(volumes[1])


def test_paper_takes_the_atoms_as_listed():
    """The published placement is a translation of the listed atoms, nothing else."""
    cell = standard_cell(np.array([4.0, 5.0, 6.0]), np.array([90.0, 90.0, 90.0]))
    frac = np.array([[0.0, 0, 0], [1.5, 0, 0]])
    positions, placed = place(frac, cell, BOX, "paper")
    assert np.allclose(positions, [[4.5, 7.5, 7.5], [10.5, 7.5, 7.5]])
    assert np.allclose(placed, cell)


def test_compact_fits_the_box_where_paper_does_not(real_structures):
    """3.4% of real structures wrap as listed and are lost; compact must lose none."""
    outside = {
        placement: sum(
            outside_box(place(frac, cell, BOX, placement)[0], BOX, margin=BOX / 64).any()
            for _, frac, cell in real_structures
        )
        for placement in ("paper", "compact")
    }
    assert outside["paper"] > 0
    assert outside["compact"] == 0


def test_noise_does_not_decide_between_equal_images():
    """Atoms half-way between images would jump, and equal structures get different voxels."""
    random = np.random.default_rng(0)
    cell = 3.2 * np.eye(3)
    frac = np.array([[0.0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0]])
    clean, _ = place(frac, cell, BOX, "compact")
    for _ in range(20):
        noisy, _ = place(frac + random.normal(0, 1e-9, frac.shape), cell, BOX, "compact")
        assert np.allclose(noisy, clean, atol=1e-6)


def test_singular_cells_have_a_reason():
    """One bad row would stop a whole rank."""
    for placement in ("paper", "compact"):
        with pytest.raises(Unencodable):
            place(np.zeros((1, 3)), np.ones((3, 3)), BOX, placement)
