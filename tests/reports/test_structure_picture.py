"""The drawing of a unit cell."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtal.reports.structure_picture import SIZE, structure_picture

SVG = "{http://www.w3.org/2000/svg}"


def _circles(svg: str) -> list[dict[str, str]]:
    return [circle.attrib for circle in ElementTree.fromstring(svg).iter(f"{SVG}circle")]


def _draw(frac_coords: object, cell: object) -> str:
    n = len(np.asarray(frac_coords))
    colours = np.linspace(0, 1, 3 * n).reshape(n, 3)
    return structure_picture(np.asarray(frac_coords), np.asarray(cell), colours, np.full(n, 1.3))


@pytest.mark.parametrize(("position", "balls"), [([0, 0, 0], 8), ([0.5, 0, 1], 4), ([0.5, 0.5, 0], 2), ([0.5] * 3, 1)])
def test_atoms_on_the_boundary_are_drawn_on_every_face(position: list[float], balls: int) -> None:
    """A body-centred cell with one corner atom looks like another structure."""
    assert len(_circles(_draw([position], 4 * np.eye(3)))) == balls


def test_nearer_balls_cover_farther_ones() -> None:
    """Drawn in the wrong order, the cell turns inside out."""
    front, back = _circles(_draw([[0.5, 0.1, 0.5], [0.5, 0.9, 0.5]], 4 * np.eye(3)))[::-1]
    assert front["fill"] == "url(#shade0)"
    assert back["fill"] == "url(#shade1)"


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 30))
def test_any_cell_fits_the_page(seed: int, n: int) -> None:
    """Flat, long and skewed cells must neither leave the page nor give numbers that SVG cannot hold."""
    random = np.random.default_rng(seed)
    svg = _draw(random.uniform(-2, 2, (n, 3)), np.diag(random.uniform(2, 12, 3)) + random.uniform(-2, 2, (3, 3)))
    assert not re.search("nan|inf", svg)
    for circle in _circles(svg):
        x, y, r = (float(circle[key]) for key in ("cx", "cy", "r"))
        assert r - 1 <= min(x, y)
        assert max(x, y) <= SIZE - r + 1
