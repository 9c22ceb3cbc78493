"""Validity: every periodic distance, in every cell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from voxtal.structures.validity import reduced_cell, shortest_distance, why_invalid

FLOAT = st.floats(-1, 1, allow_nan=False)


@st.composite
def crystals(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Fractional coordinates of one to five atoms, and a cell that may be skewed by whole lattice vectors."""
    sites = draw(st.lists(st.tuples(FLOAT, FLOAT, FLOAT), min_size=1, max_size=5))
    edges = draw(st.tuples(*[st.floats(1.5, 9)] * 3))
    tilt = np.array(draw(st.lists(st.floats(-0.4, 0.4), min_size=9, max_size=9))).reshape(3, 3)
    cell = np.diag(edges) @ (np.eye(3) + np.tril(tilt, -1))
    skew = np.eye(3)
    skew[1, 0], skew[2, 0], skew[2, 1] = draw(st.tuples(*[st.integers(-4, 4)] * 3))
    return np.array(sites), skew @ cell


def brute_force(frac_coords: np.ndarray, cell: np.ndarray, reach: tuple[int, int, int] = (25, 14, 14)) -> float:
    """Shortest distance over a generous block of images: the third vector may hold 4 + 4 x 4 of the first."""
    steps = [np.arange(-most, most + 1) for most in reach]
    images = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)
    shortest = np.inf
    for i, a in enumerate(frac_coords):
        for j, b in enumerate(frac_coords[: i + 1]):
            vectors = (a - b + images) @ cell
            lengths = np.linalg.norm(vectors, axis=1)
            if i == j:
                lengths = lengths[(images != 0).any(axis=1)]
            shortest = min(shortest, lengths.min())
    return shortest


@given(crystals())
@example((np.zeros((1, 3)), np.array([[3.0, 0, 0], [9, 3, 0], [-9, 12, 2]])))
def test_shortest_distance_agrees_with_brute_force(crystal: tuple[np.ndarray, np.ndarray]) -> None:
    """A missed image would let overlapping atoms of skewed cells pass as valid."""
    frac_coords, cell = crystal
    assert shortest_distance(frac_coords, cell) == pytest.approx(brute_force(frac_coords, cell), abs=1e-6)


@given(crystals())
def test_reduced_cell_is_the_same_lattice(crystal: tuple[np.ndarray, np.ndarray]) -> None:
    """Reduction that left the lattice would measure another crystal's distances."""
    _, cell = crystal
    reduced = reduced_cell(cell)
    change = reduced @ np.linalg.inv(cell)
    assert np.allclose(change, np.round(change), atol=1e-6)
    assert abs(np.linalg.det(reduced)) == pytest.approx(abs(np.linalg.det(cell)))


def test_self_images_count() -> None:
    """A single atom in a cell 0.4 A wide is too near to itself."""
    assert shortest_distance(np.zeros((1, 3)), np.diag([0.4, 6.0, 6.0])) == pytest.approx(0.4)
    assert why_invalid(np.array([1]), np.zeros((1, 3)), np.diag([0.4, 6, 6])) == "atoms closer than 0.5 A"


@pytest.mark.parametrize(
    ("numbers", "frac_coords", "cell", "reason"),
    [
        ([], np.empty((0, 3)), np.eye(3) * 3, "no atoms"),
        ([27], [[0, np.nan, 0]], np.eye(3) * 3, "not finite"),
        ([27], [[0, 0, 0]], np.diag([3, np.inf, 3]), "not finite"),
        ([27], [[0, 0, 0]], np.zeros((3, 3)), "volume below 0.1 A^3"),
        ([27], [[0, 0, 0]], [[3, 0, 0], [3, 0, 0], [0, 0, 3]], "volume below 0.1 A^3"),
        ([27, 72], [[0, 0, 0], [0, 0, 0.999]], np.eye(3) * 3, "atoms closer than 0.5 A"),
        ([27, 72], [[0, 0, 0], [0.5, 0.5, 0.5]], np.eye(3) * 3.16, None),
    ],
)
def test_reasons(numbers: list[int], frac_coords: object, cell: object, reason: str | None) -> None:
    """Each kind of broken crystal is told apart; a good one passes."""
    answer = why_invalid(np.array(numbers), np.array(frac_coords, dtype=float), np.array(cell, dtype=float))
    assert answer == reason


def test_needle_cell_ends() -> None:
    """An absurdly long and thin cell (a bad generated lattice) must not cost unbounded time or memory."""
    cell = np.array([[1e6, 0, 0], [0, 1e-2, 0], [3e3, 0.005, 1e-2]])
    assert why_invalid(np.array([1, 1]), np.array([[0, 0, 0], [0.3, 0.1, 0.2]]), cell) is not None
