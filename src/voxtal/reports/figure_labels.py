"""Labels beside points of a figure, where they cover the least."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FONT_SIZE = 7.5
INK = "#22272e"
_QUIET = "#5a616b"
_LETTER = np.array([0.31, 0.62]) * FONT_SIZE
"""Half the width of a letter and half the height of a line, in points, nearly."""
_GAPS = (4.0, 14.0, 26.0, 40.0)
"""Points between a label and what it belongs to; from the second on a line joins them."""
_SIDES = np.array([(0, -1), (-0.8, -0.8), (0.8, -0.8), (-1, 0), (1, 0), (0, 1), (-0.8, 0.8), (0.8, 0.8)])
"""Best first: a lower hull leaves the most room beneath."""


@dataclass(frozen=True)
class Label:
    """``text`` for the point ``at`` (data coordinates); plain text, in which numbers become subscripts."""

    at: tuple[float, ...]
    text: str
    below: str = ""
    """A second line, as it is."""
    bold: bool = False


def add_labels(axes: Any, labels: Sequence[Label], points: np.ndarray) -> None:
    """Annotate ``axes`` with labels that keep off each other, off ``points`` (n, 2) and inside.

    The figure must have its final layout: what it looks like on paper decides.
    """

    def on_paper(data: Any) -> np.ndarray:
        return np.asarray(axes.transData.transform(data)) * 72 / axes.figure.dpi

    bounds = axes.bbox.get_points() * 72 / axes.figure.dpi
    obstacles = on_paper(points)
    taken: list[np.ndarray] = []
    for label in labels:
        at = on_paper(label.at)
        half = _LETTER * (max(len(label.text), len(label.below)), 2 if label.below else 1)
        centres, gaps = _centres(half)
        boxes = np.stack([at + centres - half, at + centres + half], axis=1)
        best = int(np.argmin(_cost(boxes, taken, obstacles, bounds) + gaps / 8))
        taken.append(boxes[best])
        axes.annotate(
            subscripted(label.text) + (f"\n{label.below}" if label.below else ""),
            label.at,
            xytext=centres[best],
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=FONT_SIZE,
            fontweight="bold" if label.bold else "normal",
            color=INK,
            zorder=6,
            path_effects=_halo(),
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": _QUIET, "shrinkA": 0, "shrinkB": 3}
            if gaps[best] > _GAPS[0]
            else None,
        ).set_in_layout(False)


def subscripted(formula: str) -> str:
    """``Co2Hf`` as mathtext with subscripts."""
    return re.sub(r"(\d+(?:\.\d+)?)", r"$_{\1}$", formula)


def _centres(half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a label of that size may be centred about its point (m, 2), and the gap (m,), in points."""
    gaps = np.repeat(_GAPS, len(_SIDES))
    return np.tile(_SIDES, (len(_GAPS), 1)) * (half + gaps[:, None]), gaps


def _cost(boxes: np.ndarray, taken: Sequence[np.ndarray], obstacles: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """How bad each box (m, 2, 2) of lower and upper corners is: points and labels covered, edges crossed."""
    low, high = boxes[:, None, 0], boxes[:, None, 1]
    covered = ((obstacles > low) & (obstacles < high)).all(axis=2).sum(axis=1)
    others = np.array(taken).reshape(-1, 2, 2)
    overlaps = ((others[:, 0] < high) & (low < others[:, 1])).all(axis=2).sum(axis=1)
    outside = ((boxes[:, 0] < bounds[0]) | (boxes[:, 1] > bounds[1])).any(axis=1)
    return covered + 20.0 * overlaps + 50.0 * outside


def _halo() -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2, foreground="white")]
