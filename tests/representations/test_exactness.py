"""Whole structures against the published definition, dense and word by word: hundreds of real and random ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from voxtal.config import VoxelsConfig, build_config
from voxtal.representations.ragged import offsets_of
from voxtal.representations.voxels import dense, encode_block

PAPER = build_config({"preset": "paper"}).voxels
LAPTOP_AS_LISTED = build_config({"voxels": {"placement": "paper"}}).voxels


def sites_by_definition(frac_coords, cell, settings: VoxelsConfig):
    """One dense image of all atoms that are given, which are one element's, and of the whole structure's centroid."""
    axis = np.arange(settings.sites_grid) * settings.box_angstrom / settings.sites_grid
    shifts = settings.box_angstrom * np.arange(-2, 3)
    image = np.zeros((settings.sites_grid,) * 3)
    for position in frac_coords @ cell:
        x2, y2, z2 = (((axis[:, None] - p - shifts) ** 2).min(axis=1) for p in position)
        squared = x2[:, None, None] + y2[:, None] + z2
        gaussian = np.exp(-squared / (2 * settings.sites_sigma_angstrom**2))
        image += np.where(gaussian < settings.cutoff, 0, gaussian)
    return image


def lattice_by_definition(cell, settings: VoxelsConfig):
    """Every grid point, minimum image over as many neighbouring cells as the skew asks for."""
    n = settings.lattice_grid
    axis = np.arange(n) / n - 0.5
    frac = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    radius = settings.lattice_sigma_angstrom * np.sqrt(-2 * np.log(settings.cutoff))
    needed = np.ceil(radius * np.linalg.norm(np.linalg.inv(cell), axis=0) + 0.5).astype(int)
    squared = np.full(n**3, np.inf)
    for offset in itertools.product(*(range(-k, k + 1) for k in needed)):
        squared = np.minimum(squared, (((frac + offset) @ cell) ** 2).sum(axis=1))
    gaussian = np.exp(-squared / (2 * settings.lattice_sigma_angstrom**2))
    return np.where(gaussian < settings.cutoff, 0, gaussian).reshape(n, n, n)


def standing_as_listed(frac_coords, cell, box):
    """The cell with a along x and b in the xy plane, and the atoms with their centroid in the middle of the box."""
    if np.linalg.det(cell) < 0:
        frac_coords, cell = -frac_coords, -cell
    upright = np.linalg.qr(cell.T)[1].T
    upright = upright * np.sign(np.diag(upright))
    return frac_coords - frac_coords.mean(axis=0) + box / 2 * np.ones(3) @ np.linalg.inv(upright), upright


@pytest.mark.slow
@pytest.mark.parametrize("settings", [PAPER, LAPTOP_AS_LISTED], ids=["paper", "laptop"])
@pytest.mark.parametrize("source", ["real_structures", "random_structures"])
def test_voxels_equal_the_published_definition(request, source, settings):
    """Networks would be trained on other images than the published ones; skewed cells and wrapping atoms go first."""
    structures = request.getfixturevalue(source)[:250]
    counts = [len(numbers) for numbers, _, _ in structures]
    block = encode_block(
        offsets_of(np.array(counts)),
        np.concatenate([numbers for numbers, _, _ in structures]),
        np.concatenate([frac for _, frac, _ in structures]),
        np.stack([cell for _, _, cell in structures]),
        settings,
    )
    images = iter(range(len(block.image_numbers)))
    compared = 0
    for k, row in enumerate(block.rows):
        numbers, frac_coords, cell = structures[row]
        frac_coords, upright = standing_as_listed(frac_coords, cell, settings.box_angstrom)
        start, stop = block.lattice_offsets[k : k + 2]
        lattice = dense(block.lattice_index[start:stop], block.lattice_values[start:stop], settings.lattice_grid)
        assert np.abs(lattice - lattice_by_definition(upright, settings)).max() < 1e-6
        for number in np.unique(numbers):
            image = next(images)
            start, stop = block.sites_offsets[image : image + 2]
            sites = dense(block.sites_index[start:stop], block.sites_values[start:stop], settings.sites_grid)
            expected = sites_by_definition(frac_coords[numbers == number], upright, settings)
            assert (block.image_structure[image], block.image_numbers[image]) == (k, number)
            assert np.abs(sites - expected).max() < 1e-6
            compared += 1
    assert compared == len(block.image_numbers)
    assert len(block.rows) + len(block.reasons) == len(structures)
    assert len(block.rows) > len(structures) / 2


def test_a_structure_does_not_depend_on_its_neighbours_in_the_block(real_structures):
    """Shards of another size would hold other voxels."""
    settings = build_config({}).voxels
    some = real_structures[:40]
    together = encode_block(
        offsets_of(np.array([len(numbers) for numbers, _, _ in some])),
        np.concatenate([numbers for numbers, _, _ in some]),
        np.concatenate([frac for _, frac, _ in some]),
        np.stack([cell for _, _, cell in some]),
        settings,
    )
    assert len(together.rows) == len(some)
    alone = [
        encode_block(np.array([0, len(numbers)]), numbers, frac, cell[None], settings) for numbers, frac, cell in some
    ]
    for name in ("sites_index", "sites_values", "lattice_index", "lattice_values", "positions", "cells"):
        assert np.array_equal(getattr(together, name), np.concatenate([getattr(one, name) for one in alone])), name
