"""Figures as PNG files, in the style of the report's graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from voxtal.reports.figures import STYLE
from voxtal.runs import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_png(draw: Callable[[Figure], None], path: Path, width: float, height: float) -> None:
    """Write what ``draw`` puts into a figure of so many inches."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=200, format="png")
