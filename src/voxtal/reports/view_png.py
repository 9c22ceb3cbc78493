"""A view as one picture: all panels side by side, seen from the same direction and, in angstrom, at one scale."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.reports.structure_picture import view_axes
from voxtal.reports.view_panels import Panel, View, balls_of, bounds, edges_of
from voxtal.reports.view_pixels import Window, picture
from voxtal.runs import atomic_path

DPI = 200
PANEL_INCHES = 2.6
"""Width of a panel; in angstrom panels are as high as their contents need within the limits below."""
MIN_HEIGHT_INCHES, MAX_HEIGHT_INCHES = 1.9, 3.6
SMALL_PANEL = 0.66
"""Width of a panel that is not in angstrom, over that of the others."""
BAR_LENGTHS = 1, 2, 5, 10, 20
"""Angstrom."""
_GAP, _SIDE, _HEAD, _TITLE, _NOTE, _FOOT = 0.12, 0.15, 0.58, 0.3, 0.42, 0.6
_ARROW_INCHES = 0.3
_MARGIN = 1.08
_INK, _QUIET = "#22272e", "#5a616b"
_STYLE: dict[Any, Any] = {"font.family": "sans-serif", "mathtext.default": "regular", "text.color": _INK}


def write_view_png(view: View, path: Path) -> None:
    """Write ``view`` to ``path`` as PNG."""
    import matplotlib
    from matplotlib.figure import Figure

    axes = view_axes()
    windows = _windows(view, axes)
    widths = [window.width / DPI for window in windows]
    height = windows[0].height / DPI
    width = sum(widths) + _GAP * (len(widths) - 1) + 2 * _SIDE
    size = np.array([width, _HEAD + _TITLE + height + _NOTE + _FOOT])
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(size[0], size[1]), dpi=DPI, facecolor="white")
        left = _SIDE
        for panel, window, wide in zip(view.panels, windows, widths, strict=True):
            box = (left / size[0], (_FOOT + _NOTE) / size[1], wide / size[0], height / size[1])
            _draw_panel(figure.add_axes(box), panel, window, view)
            left += wide + _GAP
        figure.text(_SIDE / size[0], 1 - 0.12 / size[1], _subscripted(view.title), size=14, va="top", weight="bold")
        figure.text(
            _SIDE / size[0], 1 - 0.40 / size[1], view.subtitle, size=8.5, va="top", color=_QUIET, parse_math=False
        )
        _legend(figure, view)
        left = _scale_bar(figure, windows[0], size)
        _directions(figure, view.panels[0].frame, axes, left, size)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=DPI, format="png", pil_kwargs={"optimize": True})


def _windows(view: View, axes: np.ndarray) -> list[Window]:
    """One for each panel, all equally high; those in angstrom show the same part of space."""
    physical = [panel for panel in view.panels if panel.physical]
    low, high = bounds(physical, view.elements, axes)[:, :2]
    extent = high - low
    width = round(PANEL_INCHES * DPI)
    limits = (round(MIN_HEIGHT_INCHES * DPI), round(MAX_HEIGHT_INCHES * DPI))
    height = int(np.clip(width * extent[1] / extent[0], *limits))
    windows = []
    for panel in view.panels:
        low, high = bounds(physical if panel.physical else [panel], view.elements, axes)[:, :2]
        size = (width if panel.physical else round(width * SMALL_PANEL), height)
        scale = float((size / ((high - low) * _MARGIN)).min())
        windows.append(Window(axes, (low + high - np.array(size) / scale) / 2, *size, scale))
    return windows


def _draw_panel(axes: Any, panel: Panel, window: Window, view: View) -> None:
    crystal = panel.crystal if panel.crystal is not None and panel.crystal.symbols else None
    balls = None if crystal is None else balls_of(crystal, view.elements)
    image = picture(window, balls, edges_of(panel.frame), panel.clouds)
    axes.imshow(image, interpolation="none", extent=(0, window.width, window.height, 0))
    axes.set_axis_off()
    axes.set_title(panel.title, size=10, pad=5)
    words = {"size": 8, "ha": "center", "va": "top", "color": _QUIET, "linespacing": 1.3, "parse_math": False}
    axes.text(0.5, -0.05 * DPI / window.height, panel.note, transform=axes.transAxes, **words)


def _legend(figure: Any, view: View) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="none", marker="o", markersize=7, markerfacecolor=style.colour, label=symbol,
               markeredgecolor="#3a4048", markeredgewidth=0.6)
        for symbol, style in view.elements.items()
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="lower right", ncols=len(handles), frameon=False, fontsize=9, handletextpad=0.1,
        columnspacing=1.2, borderaxespad=0.4,
    )  # fmt: skip


def _scale_bar(figure: Any, window: Window, size: np.ndarray) -> float:
    """Draw it in the lower left corner; return where the space to its right begins, inches."""
    from matplotlib.lines import Line2D

    longest = 0.4 * window.width / window.scale
    length = max((bar for bar in BAR_LENGTHS if bar <= longest), default=BAR_LENGTHS[0])
    end = _SIDE + length * window.scale / DPI
    y = _FOOT / 2 / size[1]
    figure.add_artist(Line2D([_SIDE / size[0], end / size[0]], [y, y], color=_INK, linewidth=2, solid_capstyle="butt"))
    figure.text((end + 0.08) / size[0], y, f"{length} Å", size=9, va="center")
    return end + 0.6


def _directions(figure: Any, cell: np.ndarray, axes: np.ndarray, left: float, size: np.ndarray) -> None:
    """Small arrows along a, b and c, from ``left`` inches on; the directions are the same in all panels."""
    from matplotlib.text import Annotation

    tips = _ARROW_INCHES * (cell / np.linalg.norm(cell, axis=1)[:, None]) @ axes[:2].T
    low, high = tips.min(axis=0, initial=0), tips.max(axis=0, initial=0)
    corner = np.array([left, _FOOT / 2]) - [low[0], (low[1] + high[1]) / 2]
    for name, tip in zip("abc", tips, strict=True):
        length = max(float(np.linalg.norm(tip)), 1e-9)
        start, end, word = (at / size for at in (corner, corner + tip, corner + tip * (1 + 0.08 / length)))
        style = {"arrowstyle": "-|>,head_width=0.12,head_length=0.25", "color": _QUIET, "shrinkA": 0, "shrinkB": 0}
        ends = tuple(start.tolist()), tuple(end.tolist())
        arrow = Annotation("", *ends[::-1], "figure fraction", "figure fraction", arrowprops=style)
        figure.add_artist(arrow)
        figure.text(*word, name, size=8, ha="center", va="center", style="italic", color=_QUIET)


def _subscripted(formula: str) -> str:
    return re.sub(r"(?<=[A-Za-z)])(\d+)", r"$\\mathbf{_{\1}}$", formula)
