"""What ``voxtal view`` shows: panels with a crystal or clouds of voxels, as plain arrays in one frame.

The origin of the frame is a corner of the cell; lengths are in angstrom, but in panels that are not ``physical``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from voxtal.reports.structure_picture import BALL_SCALE, with_face_images

FACE_TOLERANCE_ANGSTROM = 0.2
"""Atoms this near to a face are drawn on the opposite one, too: decoded ones are never exactly on it."""
SHOWN = 0.05
"""Voxels below this share of their cloud's maximum take no room in the picture."""
CORNERS = np.array(list(product((0.0, 1.0), repeat=3)))


@dataclass(frozen=True)
class ElementStyle:
    """Red, green and blue (0 to 1) and radius (angstrom) of an element's atoms."""

    colour: tuple[float, float, float]
    radius: float


@dataclass(frozen=True)
class Crystal:
    """Symbols (n,), fractional coordinates (n, 3) and the cell (3, 3; rows, angstrom) of one structure."""

    symbols: tuple[str, ...]
    frac_coords: np.ndarray
    cell: np.ndarray


@dataclass(frozen=True)
class Cloud:
    """Voxels of one kind; voxel (i, j, k) lies at ``origin + (i, j, k) @ steps``.

    Attributes
    ----------
    name
        An element's symbol, or what it is.
    colour
        Red, green and blue, 0 to 1.
    values
        (X, Y, Z) array.
    origin, steps
        (3,) and (3, 3; rows).
    """

    name: str
    colour: tuple[float, float, float]
    values: np.ndarray
    origin: np.ndarray
    steps: np.ndarray

    def shown(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices (m, 3) and positions (m, 3) of the voxels that matter."""
        index = np.argwhere(self.values > SHOWN * self.values.max(initial=0))
        return index, self.origin + index @ self.steps


@dataclass(frozen=True)
class Panel:
    """One picture of a view.

    Attributes
    ----------
    title, note
        Above and below it.
    frame
        (3, 3; rows) the parallelepiped whose edges are drawn from the origin on.
    crystal, clouds
        What is in it.
    physical
        Whether lengths are in angstrom; else they are in edges of the cell.
    """

    title: str
    note: str
    frame: np.ndarray
    crystal: Crystal | None = None
    clouds: tuple[Cloud, ...] = ()
    physical: bool = True


@dataclass(frozen=True)
class View:
    """All that ``voxtal view`` shows of one structure: the panels, and the style of every element in them."""

    title: str
    subtitle: str
    panels: tuple[Panel, ...]
    elements: Mapping[str, ElementStyle]


@dataclass(frozen=True)
class Balls:
    """Drawn atoms, images on opposite faces among them.

    Attributes
    ----------
    symbols
        (n,) of each.
    frac_coords, centres
        (n, 3) fractional and Cartesian coordinates.
    colours, radii
        (n, 3), 0 to 1, and (n,), angstrom.
    """

    symbols: tuple[str, ...]
    frac_coords: np.ndarray
    centres: np.ndarray
    colours: np.ndarray
    radii: np.ndarray


def balls_of(crystal: Crystal, elements: Mapping[str, ElementStyle]) -> Balls:
    """The atoms of ``crystal`` in its closed cell."""
    x, y, z = np.minimum(FACE_TOLERANCE_ANGSTROM / np.linalg.norm(crystal.cell, axis=1), 0.5).tolist()
    atoms, frac_coords = with_face_images(np.asarray(crystal.frac_coords, dtype=float), (x, y, z))
    symbols = tuple(crystal.symbols[i] for i in atoms)
    return Balls(
        symbols,
        frac_coords,
        frac_coords @ crystal.cell,
        np.array([elements[symbol].colour for symbol in symbols]),
        BALL_SCALE * np.array([elements[symbol].radius for symbol in symbols]),
    )


def bounds(panels: Iterable[Panel], elements: Mapping[str, ElementStyle], axes: np.ndarray) -> np.ndarray:
    """(2, 3): lowest and highest coordinate along ``axes`` (3, 3; rows) of all that the panels show."""
    low, high = [], []
    for panel in panels:
        groups = [(CORNERS @ panel.frame, np.zeros(len(CORNERS)))]
        if panel.crystal is not None and panel.crystal.symbols:
            balls = balls_of(panel.crystal, elements)
            groups.append((balls.centres, balls.radii))
        for cloud in panel.clouds:
            points = cloud.shown()[1]
            groups.append((points, np.zeros(len(points))))
        for points, margins in groups:
            if len(points):
                low.append((points @ axes.T - margins[:, None]).min(axis=0))
                high.append((points @ axes.T + margins[:, None]).max(axis=0))
    return np.array([np.min(low, axis=0), np.max(high, axis=0)])


def edges_of(frame: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The twelve edges of a parallelepiped, as pairs of points (3,)."""
    return [
        (CORNERS[first] @ frame, CORNERS[second] @ frame)
        for first, second in product(range(8), repeat=2)
        if second > first and (first ^ second).bit_count() == 1
    ]
