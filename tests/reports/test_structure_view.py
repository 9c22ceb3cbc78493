"""The panels of ``voxtal view`` as pixels and as a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from voxtal.reports.structure_picture import view_axes
from voxtal.reports.view_html import write_view_html
from voxtal.reports.view_panels import Balls, Cloud, Crystal, ElementStyle, Panel, View, balls_of, bounds
from voxtal.reports.view_pixels import Window, picture, thickness
from voxtal.reports.view_png import write_view_png

ELEMENTS = {"Cl": ElementStyle((0.1, 0.9, 0.1), 1.0), "Cs": ElementStyle((0.4, 0.1, 0.6), 2.4)}
RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)
FRONT = Window(np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), np.array([-2.0, -2.0]), 80, 80, 20.0)
"""Looks along y, from below: x to the right and z up, 4 x 4 angstrom about the origin."""
MIDDLE = 40


def _gaussian(sigma: float, centre: tuple[float, float, float], colour: tuple[float, float, float] = RED) -> Cloud:
    """On a grid from -2 to 2 angstrom."""
    axis = np.linspace(-2, 2, 33)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    squared = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    return Cloud("Cl", colour, np.exp(-squared / 2 / sigma**2), np.full(3, -2.0), np.eye(3) / 8)


def _balls(*centres_and_colours: tuple[tuple[float, float, float], tuple[float, float, float]]) -> Balls:
    centres, colours = (np.array(column) for column in zip(*centres_and_colours, strict=True))
    return Balls(("Cl",) * len(centres), centres, centres, colours, np.full(len(centres), 0.5))


def _is(pixel: np.ndarray, colour: tuple[float, float, float]) -> bool:
    return int(np.argmax(pixel)) == int(np.argmax(colour)) and pixel.max() - pixel.min() > 0.25


@pytest.mark.parametrize("order", [1, -1])
def test_nearer_balls_cover_farther_ones(order: int) -> None:
    """Whatever their order in the file."""
    front, back = ((0.0, -1.0, 0.0), RED), ((0.0, 1.0, 0.0), BLUE)
    image = picture(FRONT, _balls(*(front, back)[::order]), [], [])
    assert _is(image[MIDDLE, MIDDLE], RED)
    assert (image[0, 0] == 1).all()


def test_directions_are_not_mirrored() -> None:
    """A picture of the other hand shows another crystal."""
    image = picture(FRONT, _balls(((1.0, 0.0, 0.0), RED), ((0.0, 0.0, 1.0), BLUE)), [], [])
    assert _is(image[MIDDLE, 60], RED)
    assert _is(image[20, MIDDLE], BLUE)


def test_clouds_lie_where_their_voxels_are_and_let_light_through() -> None:
    """Shifted by a voxel, or opaque, a cloud would hide what it is compared with."""
    cloud = _gaussian(0.3, (0.8, 0.0, -0.5))
    darkness = 1 - picture(FRONT, None, [], [cloud])[..., 1]
    rows, columns = np.indices(darkness.shape) + 0.5
    assert np.average(columns, weights=darkness) == pytest.approx(40 + 16, abs=0.6)
    assert np.average(rows, weights=darkness) == pytest.approx(40 + 10, abs=0.6)
    behind = picture(FRONT, _balls(((0.8, 1.0, -0.5), BLUE)), [], [cloud])[50, 56]
    before = picture(FRONT, _balls(((0.8, -1.0, -0.5), BLUE)), [], [cloud])[50, 56]
    assert _is(behind, RED)
    assert behind[2] > 0.1 * before[2]
    np.testing.assert_allclose(before, picture(FRONT, _balls(((0.8, -1.0, -0.5), BLUE)), [], [])[50, 56], atol=0.02)


def test_nearer_clouds_cover_farther_ones() -> None:
    """The picture's depth would be inside out."""
    front, back = _gaussian(0.3, (0, -1, 0), RED), _gaussian(0.3, (0, 1, 0), BLUE)
    for clouds in ([front, back], [back, front]):
        assert _is(picture(FRONT, None, [], clouds)[MIDDLE, MIDDLE], RED)


@pytest.mark.parametrize("sigma", [0.26, 0.5])
def test_clouds_are_equally_opaque_on_any_grid(sigma: float) -> None:
    """The settings choose the width of a Gaussian: none may vanish, none may be a wall."""
    assert thickness(_gaussian(sigma, (0, 0, 0))) == pytest.approx(np.sqrt(2 * np.pi) * sigma, rel=0.25)


def test_empty_clouds_are_nothing() -> None:
    """What a network leaves of an element may be all zero."""
    empty = Cloud("Cl", RED, np.zeros((4, 4, 4)), np.zeros(3), np.eye(3))
    assert (picture(FRONT, None, [], [empty]) == 1).all()


def _view(tmp: Path, title: str = "CsCl") -> View:
    cell = np.array([[4.1, 0, 0], [0.5, 4.0, 0], [0.2, -0.4, 7.9]])
    crystal = Crystal(("Cs", "Cl"), np.array([[0.5, 0.5, 0.5], [0.0, 0.0, 0.01]]), cell)
    cloud = _gaussian(0.3, (0, 0, 0))
    shifted = Cloud("Cs", ELEMENTS["Cs"].colour, cloud.values, cloud.origin + cell.sum(axis=0) / 2, cloud.steps)
    middle = Cloud("lattice voxel", BLUE, cloud.values, np.zeros(3), np.eye(3) / 33)
    panels = (
        Panel("Structure", "note", cell, crystal),
        Panel("Voxels", "33³", cell, clouds=(shifted,)),
        Panel("Lattice", "33³", np.eye(3), clouds=(middle,), physical=False),
        Panel("Decoded", "not decoded: no cell", cell),
    )
    return View(title, "CsCl <b>&, $x_2$ and $y", panels, ELEMENTS)


def test_atoms_near_a_face_are_drawn_on_both_sides() -> None:
    """A decoded corner atom, never exactly at the corner, must not be drawn at one corner only."""
    balls = balls_of(Crystal(("Cl",), np.array([[0.96, 0.03, 0.5]]), np.diag([4.0, 5.0, 6.0])), ELEMENTS)
    assert len(balls.symbols) == 4
    assert len(balls_of(Crystal(("Cl",), np.array([[0.07, 0.5, 0.5]]), 4 * np.eye(3)), ELEMENTS).symbols) == 1


def test_bounds_hold_all_panels(tmp_path: Path) -> None:
    """One scale for all: what sticks out of one panel would be cut off in the picture."""
    view = _view(tmp_path)
    low, high = bounds(view.panels[:2], ELEMENTS, view_axes())
    for panel in view.panels[:2]:
        own_low, own_high = bounds([panel], ELEMENTS, view_axes())
        assert (own_low >= low).all()
        assert (own_high <= high).all()


def test_picture_file(tmp_path: Path) -> None:
    """All panels in one PNG, those with atoms or voxels in their colours; a panel without either does not fail."""
    path = tmp_path / "view.png"
    write_view_png(_view(tmp_path), path)
    image = imread(path)[..., :3]
    rows = slice(image.shape[0] // 4, -image.shape[0] // 4)
    for part in np.array_split(image[rows], 4, axis=1)[:2]:
        red, green, blue = np.moveaxis(part, -1, 0)
        assert ((blue > green + 0.2) & (red > green + 0.05)).sum() > 500


def test_page_holds_atoms_and_voxels(tmp_path: Path) -> None:
    """What the mouse reads must be the atoms' coordinates and the voxels' values; names are no markup."""
    path = tmp_path / "view.html"
    write_view_html(_view(tmp_path, "CsCl<script>"), path)
    page = path.read_text(encoding="utf-8")
    assert "<title>CsCl&lt;script&gt;</title>" in page
    assert "<b>&, $x" not in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    traces = json.loads(re.search(r"Plotly\.newPlot\(\s*\"[^\"]+\",\s*(\[.*?\]),\s*\{\"", page, re.DOTALL)[1])
    atoms = [trace for trace in traces if trace["type"] == "mesh3d"]
    assert {trace["name"] for trace in atoms} == {"Cs", "Cl"}
    words = {word for trace in atoms for word in trace["text"]}
    assert "Cs<br>fractional 0.500, 0.500, 0.500<br>Cartesian 2.400, 1.800, 3.950 Å" in words
    assert sum(word.startswith("Cl") for word in words) == 8
    assert [trace["name"] for trace in traces if trace.get("mode") == "markers"] == ["Cs", "lattice voxel"]
    assert "value %{customdata[3]}" in page
