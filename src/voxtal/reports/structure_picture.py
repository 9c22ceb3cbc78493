"""A unit cell as an SVG drawing: shaded balls and the edges of the cell, seen from the front and above."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np

VIEW_AZIMUTH_DEGREES = 24.0
VIEW_ELEVATION_DEGREES = 14.0
SIZE = 320
"""Width and height of the drawing, SVG units."""
MARGIN = 14
BALL_SCALE = 0.42
"""Drawn radius over the radius passed in: small enough to see through the cell."""
_PIECES_PER_EDGE = 16


def structure_picture(
    frac_coords: np.ndarray,
    cell: np.ndarray,
    colours: np.ndarray,
    radii: np.ndarray,
) -> str:
    """Draw one unit cell, atoms on its faces shown on every face.

    Parameters
    ----------
    frac_coords
        (n, 3) fractional coordinates.
    cell
        (3, 3) lattice vectors as rows, angstrom.
    colours
        (n, 3) red, green, blue of each atom, 0 to 1.
    radii
        (n,) radius of each atom, angstrom.

    Returns
    -------
    str
        An SVG document of SIZE x SIZE.
    """
    atoms, positions = with_face_images(np.asarray(frac_coords, dtype=float))
    view = view_axes()
    centre = np.full(3, 0.5) @ cell
    balls = (positions @ cell - centre) @ view.T
    corners = (np.array(list(product((0, 1), repeat=3))) @ cell - centre) @ view.T
    ball_radii = BALL_SCALE * np.asarray(radii, dtype=float)[atoms]
    low = np.minimum(corners[:, :2].min(0), (balls[:, :2] - ball_radii[:, None]).min(0))
    high = np.maximum(corners[:, :2].max(0), (balls[:, :2] + ball_radii[:, None]).max(0))
    scale = (SIZE - 2 * MARGIN) / (high - low).max()
    middle = (low + high) / 2

    def to_page(points: np.ndarray) -> np.ndarray:
        return SIZE / 2 + (points[..., :2] - middle) * scale * [1, -1]

    palette, shades = np.unique(np.asarray(colours, dtype=float)[atoms], axis=0, return_inverse=True)
    drawn = [
        (start[2] / 2 + end[2] / 2, _edge_piece(to_page(start), to_page(end)))
        for start, end in _edge_pieces(corners)
        if (np.linalg.norm(balls - (start + end) / 2, axis=1) > ball_radii).all()
    ]
    drawn += [
        (ball[2], _ball(to_page(ball), radius * scale, int(shade)))
        for ball, radius, shade in zip(balls, ball_radii, shades.ravel(), strict=True)
    ]
    body = "\n".join(markup for _, markup in sorted(drawn, key=lambda item: item[0]))
    gradients = "\n".join(_gradient(k, colour) for k, colour in enumerate(palette))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}" '
        f'width="{SIZE}" height="{SIZE}">\n'
        f"<defs>\n{gradients}\n</defs>\n{body}\n</svg>\n"
    )


def with_face_images(
    frac_coords: np.ndarray, tolerances: tuple[float, float, float] = (0.01, 0.01, 0.01)
) -> tuple[np.ndarray, np.ndarray]:
    """Atoms within the closed cell: their index and fractional coordinates, 0 and 1 both.

    Those within a fractional coordinate of ``tolerances`` from a face are taken to be on it.
    """
    wrapped = frac_coords % 1.0
    wrapped[wrapped > 1 - np.array(tolerances)] -= 1.0
    atoms, positions = [], []
    for index, position in enumerate(wrapped):
        on_faces = (x < tolerance for x, tolerance in zip(position, tolerances, strict=True))
        for shift in product(*[(0, 1) if on_face else (0,) for on_face in on_faces]):
            atoms.append(index)
            positions.append(position + shift)
    return np.array(atoms), np.array(positions)


def view_axes() -> np.ndarray:
    """(3, 3) rotation: rows are the page's right and up, and the direction towards the reader."""
    azimuth, elevation = np.radians([VIEW_AZIMUTH_DEGREES, VIEW_ELEVATION_DEGREES])
    towards = np.array([np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])
    right = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    return np.array([right, np.cross(towards, right), towards])


def _edge_pieces(corners: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The cell's twelve edges in short pieces, so that each can be drawn before or after a ball."""
    pieces: list[tuple[np.ndarray, np.ndarray]] = []
    for first, second in product(range(8), repeat=2):
        if second > first and (first ^ second).bit_count() == 1:
            points = np.linspace(corners[first], corners[second], _PIECES_PER_EDGE + 1)
            pieces += pairwise(points)
    return pieces


def _edge_piece(start: np.ndarray, end: np.ndarray) -> str:
    return (
        f'<line x1="{start[0]:.2f}" y1="{start[1]:.2f}" x2="{end[0]:.2f}" y2="{end[1]:.2f}" '
        'stroke="#5b6570" stroke-width="1.4" stroke-linecap="round"/>'
    )


def _ball(centre: np.ndarray, radius: float, shade: int) -> str:
    return (
        f'<circle cx="{centre[0]:.1f}" cy="{centre[1]:.1f}" r="{radius:.1f}" fill="url(#shade{shade})" '
        'stroke="#2b3138" stroke-opacity="0.45" stroke-width="0.8"/>'
    )


def _gradient(index: int, colour: np.ndarray) -> str:
    stops = ((0, colour + 0.75 * (1 - colour)), (0.45, colour), (1, 0.55 * colour))
    inner = "".join(f'<stop offset="{at}" stop-color="{hex_colour(c)}"/>' for at, c in stops)
    return f'<radialGradient id="shade{index}" cx="0.36" cy="0.32" r="0.72">{inner}</radialGradient>'


def hex_colour(rgb: np.ndarray) -> str:
    """``#rrggbb`` of red, green and blue, 0 to 1."""
    return "#" + "".join(f"{round(255 * float(c)):02x}" for c in rgb)
