"""Scores of species maps and distances of sites, by hand and by what must hold for any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from voxtal.representations.density import DensityGrid, encode_density
from voxtal.representations.density_decoding import decode_density
from voxtal.representations.watershed import decode_watershed
from voxtal.screening.map_metrics import earth_mover_distance, length_errors, voxel_counts, voxel_scores

CUBE = 4.0 * np.eye(3)
GRID = DensityGrid(32, 0.25, "true")
MAPS = arrays(np.uint8, (2, 3, 3, 3), elements=st.sampled_from([0, 8, 22]))
SITES = arrays(np.float64, st.tuples(st.integers(1, 5), st.just(3)), elements=st.floats(0, 0.99))


def test_scores_by_hand() -> None:
    """Counting the background, or an ion of the wrong element as right, would make every network good."""
    true = np.zeros((1, 2, 2, 2), dtype=np.uint8)
    found = true.copy()
    true[0, 0] = [[8, 8], [22, 22]]
    found[0, 0] = [[8, 0], [8, 22]]
    found[0, 1, 0, 0] = 22
    assert voxel_counts(found, true).tolist() == [[2, 4, 4]]
    assert voxel_scores(np.array([2, 4, 4])).tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert voxel_scores(np.array([2, 4, 2])).tolist() == pytest.approx([0.5, 1.0, 2 / 3])


def test_nothing_to_score() -> None:
    """A network that predicts nothing, or an empty map, would end in NaN and spoil the means."""
    nothing = np.zeros((1, 2, 2, 2), dtype=np.uint8)
    assert voxel_scores(voxel_counts(nothing, nothing)).tolist() == [[0, 0, 0]]
    assert voxel_scores(voxel_counts(nothing, nothing + 8)).tolist() == [[0, 0, 0]]


@given(MAPS, MAPS)
def test_scores_of_any_maps(found: np.ndarray, true: np.ndarray) -> None:
    """F1 lies between recall and precision; exchanging the maps exchanges these; a map has full marks for itself."""
    recall, precision, f1 = voxel_scores(voxel_counts(found, true)).T
    other = voxel_scores(voxel_counts(true, found))
    assert np.allclose(other, np.stack([precision, recall, f1], axis=1))
    assert (f1 <= np.maximum(recall, precision) + 1e-12).all()
    assert (f1 >= np.minimum(recall, precision) - 1e-12).all()
    assert (voxel_scores(voxel_counts(true, true)) == true.any((1, 2, 3))[:, None]).all()


def test_distance_by_hand() -> None:
    """Pairs are chosen for the least sum, each site once: nearest neighbours would give 0.2 here."""
    true = np.array([[0.0, 0, 0], [0.5, 0, 0]])
    found = np.array([[0.05, 0, 0], [0.1, 0, 0]])
    assert earth_mover_distance((found, CUBE), (true, CUBE)) == pytest.approx((0.2 + 1.6) / 2)
    assert earth_mover_distance((found[:1], CUBE), (true, CUBE)) == pytest.approx(0.2)


def test_distance_is_to_the_nearest_image() -> None:
    """A site found a hair below zero comes as 0.999: an edge away, where the paper's code would have -0.001."""
    true, found = np.zeros((1, 3)), np.array([[0.999, 0, 0.001]])
    assert earth_mover_distance((found, CUBE), (true, CUBE)) == pytest.approx(4e-3 * np.sqrt(2))


def test_distance_has_the_cells_error_in_it() -> None:
    """As published: positions in angstrom, each in its own cell."""
    sites = np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]])
    assert earth_mover_distance((sites, 1.1 * CUBE), (sites, CUBE)) == pytest.approx(0.2 * np.sqrt(3) / 2)


@given(SITES, SITES)
def test_distance_of_any_sites(found: np.ndarray, true: np.ndarray) -> None:
    """Zero for the same sites in any order, the same both ways in one cell, never beyond half a diagonal."""
    there = earth_mover_distance((found, CUBE), (true, CUBE))
    assert there == pytest.approx(earth_mover_distance((true, CUBE), (found, CUBE)))
    assert 0 <= there <= 4 * np.sqrt(3) / 2 + 1e-9
    assert earth_mover_distance((true[::-1], CUBE), (true, CUBE)) == pytest.approx(0, abs=1e-9)


def test_length_errors() -> None:
    """Edges apart from each other, too long and too short alike."""
    assert length_errors(np.diag([4.1, 4.0, 3.7]), CUBE).tolist() == pytest.approx([0.1, 0.0, 0.3])


@pytest.mark.parametrize("published", [True, False])
def test_both_decoders_are_in_the_frame_of_the_maps(published: bool) -> None:
    """A decoder that shifts the origin, or a cell listed the other way round, would have an error of its own."""
    numbers = np.array([38, 22, 8, 8, 8])
    frac = np.array([[0.0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    maps = encode_density(numbers, frac + np.array([0.3, 0.1, 0.0]), 3.9 * np.eye(3), GRID)
    if published:
        _, found, cell = decode_watershed(maps.species, maps.species != 0, maps.cell, GRID)
    else:
        decoded = decode_density(maps.density, maps.species, maps.cell, GRID)
        found, cell = decoded.frac_coords, decoded.cell
    assert len(found) == 5
    assert earth_mover_distance((found, cell), (maps.sites, maps.cell)) < (0.1 if published else 1e-3)
    assert length_errors(cell, maps.cell).max() < 1e-9
