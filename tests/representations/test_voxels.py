"""Encode, then decode, with no network in between: the reproduction that a network can reach at best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from voxtal.config import VoxelsConfig, build_config
from voxtal.representations.placement import standard_cell
from voxtal.representations.reasons import Unencodable
from voxtal.representations.voxels import decode_structure, dense, encode_structure
from voxtal.structures.validity import shortest_distance

LAPTOP = build_config({}).voxels
PAPER = build_config({"preset": "paper"}).voxels
PAPER_COMPACT = build_config({"preset": "paper", "voxels": {"placement": "compact"}}).voxels
STRICT = StructureMatcher(ltol=0.2, stol=0.3, angle_tol=5)


def round_trip(numbers, frac_coords, cell, settings: VoxelsConfig):
    voxels = encode_structure(numbers, frac_coords, cell, settings)
    images = {
        int(z): dense(voxels.sites_index[start:stop], voxels.sites_values[start:stop], settings.sites_grid)
        for z, start, stop in zip(voxels.elements, voxels.sites_offsets[:-1], voxels.sites_offsets[1:], strict=True)
    }
    lattice = dense(voxels.lattice_index, voxels.lattice_values, settings.lattice_grid)
    return decode_structure(images, lattice, settings)


def pymatgen(numbers, frac_coords, cell):
    return Structure(Lattice(cell), np.asarray(numbers).tolist(), frac_coords)


def rms(structure, decoded):
    found = STRICT.get_rms_dist(pymatgen(*structure), pymatgen(*decoded))
    return np.inf if found is None else found[0]


@pytest.mark.parametrize(("settings", "least"), [(LAPTOP, 0.995), (PAPER_COMPACT, 0.995), (PAPER, 0.95)])
def test_real_structures_come_back(real_structures, settings, least):
    """Every generated structure passes this decoder; what it loses no network can give back."""
    errors = np.array([rms(s, round_trip(*s, settings)) for s in real_structures[::2]])
    assert len(errors) > 100
    assert (errors < 1e-3).mean() >= least


@st.composite
def structures(draw):
    """Cells of any shape and handedness, atoms at least 0.9 angstrom apart, on special positions or not."""
    lengths = np.array([draw(st.floats(2.5, 9.5)) for _ in range(3)])
    angles = np.array([draw(st.sampled_from([60.0, 90.0, 120.0]) | st.floats(60, 120)) for _ in range(3)])
    try:
        cell = standard_cell(lengths, angles)
    except np.linalg.LinAlgError:
        assume(False)
    assume(np.linalg.det(cell) > 0.4 * lengths.prod())
    coordinate = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 2 / 3]) | st.floats(-0.5, 1.5)
    n = draw(st.integers(1, 8))
    frac = np.array([[draw(coordinate) for _ in range(3)] for _ in range(n)])
    assume(shortest_distance(frac, cell) > 0.9)
    numbers = np.array([draw(st.sampled_from([8, 27, 72])) for _ in range(n)], dtype=np.uint8)
    order = draw(st.permutations([0, 1, 2]))
    return numbers, frac[:, order], cell[order]


TWINS = (
    np.array([8, 8], np.uint8),
    np.array([[0.6953125, 0.25, 0.25], [1 / 3, 0.25, 0.25]]),
    standard_cell(np.array([2.5, 2.5, 3.0]), np.array([60.0, 60.0, 60.0])),
)
"""Two atoms so close that their image has one maximum, in the very middle, on a grid point."""


@pytest.mark.parametrize("settings", [LAPTOP, PAPER_COMPACT])
@given(structure=structures())
@example(structure=(np.array([72], np.uint8), np.zeros((1, 3)), 2.5 * np.eye(3)))
@example(structure=TWINS)
def test_any_structure_that_fits_comes_back(settings, structure):
    """Special cells and positions that the data files lack would fail in somebody's run."""
    try:
        decoded = round_trip(*structure, settings)
    except Unencodable:
        assume(False)
    assert len(decoded[0]) == len(structure[0])
    assert sorted(decoded[0]) == sorted(structure[0])
    assert rms(structure, decoded) < 1e-2


def test_a_structure_too_long_for_the_box_has_a_reason():
    """It would wrap onto itself and train the network on a structure that does not exist."""
    cell = np.diag([3.0, 3.0, 9.9])
    frac = np.array([[0, 0, z] for z in np.arange(0, 1, 0.2)])
    encode_structure(np.full(5, 27), frac, cell, LAPTOP)
    with pytest.raises(Unencodable, match="fit the box"):
        encode_structure(np.full(5, 27), frac, cell, LAPTOP.model_copy(update={"box_angstrom": 8.0}))


def test_voxels_do_not_depend_on_how_the_crystal_is_written():
    """Compact voxels of one crystal would differ with the cell that its file happened to use."""
    numbers = np.array([27, 72, 72], dtype=np.uint8)
    frac = np.array([[0.1, 0.2, 0.3], [0.4, 0.9, 0.6], [0.7, 0.5, 0.05]])
    cell = standard_cell(np.array([4.0, 5.0, 6.5]), np.array([83.0, 97.0, 105.0]))
    other_basis = np.array([[1, 0, 0], [1, 1, 0], [-1, 2, 1]])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    one = encode_structure(numbers, frac, cell, LAPTOP)
    other = encode_structure(numbers, frac @ np.linalg.inv(other_basis) + [3, -2, 1], other_basis @ cell @ turn, LAPTOP)
    assert np.array_equal(one.sites_index, other.sites_index)
    assert np.allclose(one.sites_values, other.sites_values, atol=1e-6)
    assert np.array_equal(one.lattice_index, other.lattice_index)
    assert np.allclose(one.lattice_values, other.lattice_values, atol=1e-6)
