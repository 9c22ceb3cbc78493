"""How far atoms moved."""

from __future__ import annotations

import numpy as np
import pytest

from voxtal.structures.displacement import rms_displacement

CELL = np.diag([4.0, 5.0, 6.0])
SITES = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.25, 0.75, 0.1]])


def test_a_common_motion_and_the_choice_of_image_do_not_count() -> None:
    """A relaxation that drifts, or wraps an atom to the other side, would look like a large displacement."""
    moved = (SITES + np.array([0.97, 0.4, 0.2])) % 1.0
    assert rms_displacement(SITES, CELL, moved, CELL) == pytest.approx(0.0, abs=1e-12)


def test_a_known_motion_is_measured() -> None:
    """The unit would be wrong: one atom of three moves by 0.3 A, and the mean of that is taken off."""
    moved = SITES.copy()
    moved[1, 0] -= 0.3 / 4.0
    expected = np.sqrt((0.2**2 + 2 * 0.1**2) / 3)
    assert rms_displacement(SITES, CELL, moved, CELL) == pytest.approx(expected)
    assert rms_displacement(moved, CELL, SITES, CELL) == pytest.approx(expected)


def test_a_skewed_cell_gives_the_same() -> None:
    """Rounding fractions in a skewed cell picks an image that is not the nearest."""
    moved = SITES + np.array([[0.0, 0, 0], [0.08, -0.05, 0.04], [-0.06, 0.02, 0.07]])
    skew = np.array([[1, 0, 0], [3, 1, 0], [-2, 5, 1]])
    there = np.linalg.inv(skew)
    skewed = rms_displacement(SITES @ there, skew @ CELL, moved @ there % 1.0, skew @ CELL)
    assert skewed == pytest.approx(rms_displacement(SITES, CELL, moved, CELL))
