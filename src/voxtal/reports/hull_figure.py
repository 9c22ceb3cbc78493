"""Hull figures: known phases, candidates, the hull that was known and the one redefined by candidates.

Like Figs. 5 and 6 of the CCDCGAN paper. Drawn from hull.json alone, one system or a sheet of several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.errors import UserError
from voxtal.reports.figure_labels import INK, Label, add_labels
from voxtal.reports.figures import ROUND_COLOURS, STYLE
from voxtal.runs import atomic_path

DRAWABLE_ELEMENTS = (2, 3)
"""Numbers of elements of which a hull can be drawn."""

_KNOWN_COLOUR = "#9aa1a9"
_NEW_COLOUR = "#f2b134"
_QUIET = "#5a616b"
_STYLE: dict[Any, Any] = STYLE | {"font.size": 9, "axes.linewidth": 0.8, "mathtext.default": "regular"}
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
_MARKERS = {"known": "s", "candidate": "o", "new": "*"}
_SIZES = {"known": 13, "candidate": 26, "new": 110}
_ORDER = {"known": 2.0, "candidate": 4.0, "new": 5.0}
"""Markers, sizes and which is on top."""
_SHADE_LIMIT_EV_PER_ATOM = 0.3
_DASHES: Any = (0, (5, 3))
_MOST_COLUMNS = 3
_PANEL_INCHES = (4.1, 3.3)
_LEAST_ABOVE_ZERO_EV_PER_ATOM = 0.25

Entry = Mapping[str, Any]
Places = Mapping[str, tuple[float, ...]]
"""Id of an entry to its point in a panel."""


def hull_figure(hull: Mapping[str, Any], path: Path) -> None:
    """Draw a hull of two or three elements.

    Parameters
    ----------
    hull : mapping
        What ``voxtal.screening.hull.build_hull`` gives (hull.json).
    path : Path
        File to write; its suffix says whether PNG, SVG or PDF.

    Raises
    ------
    UserError
        The system has one element, or more than three.
    """
    _write([hull], path, (6.0, 4.2 if len(hull["elements"]) == 2 else 4.9))


def hull_sheet(hulls: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw several hulls as panels of one figure (Fig. 5), as :func:`hull_figure` does; without any, no file."""
    if hulls:
        columns = min(len(hulls), _MOST_COLUMNS)
        _write(hulls, path, (_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * ceil(len(hulls) / columns) + 0.5))


def energy_window(hull: Mapping[str, Any]) -> tuple[float, float]:
    """Range of the energy axis, eV/atom: the hull with its labels, and two thirds of its depth above zero."""
    depth = max(0.05, *(-e["formation_energy_ev_per_atom"] for e in hull["entries"]))
    return -1.35 * depth, max(0.65 * depth, _LEAST_ABOVE_ZERO_EV_PER_ATOM)


def _write(hulls: Sequence[Mapping[str, Any]], path: Path, inches: tuple[float, float]) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    if strangers := {len(hull["elements"]) for hull in hulls} - set(DRAWABLE_ELEMENTS):
        raise UserError(f"A hull of {min(strangers)} elements cannot be drawn; figures are for two or three.")
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=inches, layout="constrained")
        columns = min(len(hulls), _MOST_COLUMNS)
        panels = list(figure.subplots(ceil(len(hulls) / columns), columns, squeeze=False).flat)
        for axes in panels[len(hulls) :]:
            axes.set_axis_off()
        drawn = list(zip(panels[: len(hulls)], hulls, strict=True))
        for axes, hull in drawn:
            (_draw_binary if len(hull["elements"]) == 2 else _draw_ternary)(axes, hull, _places(hull))
            if len(hulls) > 1:
                axes.set_title(hull["system"], loc="left")
        _explain(figure, drawn)
        figure.draw_without_rendering()  # fixes the layout, by which labels are placed
        for axes, hull in drawn:
            _label_phases(axes, hull, _places(hull))
        metadata = {"Date": None} if path.suffix == ".svg" else None
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=200, format=path.suffix.lstrip("."), metadata=metadata)


def _kind(entry: Entry) -> str:
    return "known" if entry["role"] != "candidate" else "new" if entry.get("new_phase") else "candidate"


def _places(hull: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """Id of each entry to its point: composition and energy of two elements, a point of the triangle of three."""
    if len(hull["elements"]) == 2:
        return {e["id"]: (e["x"], e["formation_energy_ev_per_atom"]) for e in hull["entries"]}
    return {e["id"]: tuple(_projected(e["composition"], hull["elements"])) for e in hull["entries"]}


def _draw_binary(axes: Any, hull: Mapping[str, Any], place: Places) -> None:
    low, high = energy_window(hull)
    axes.axhline(0.0, color="#d5d9de", linewidth=0.7, zorder=0)
    for (kind, colour), members in _grouped(hull["entries"], lambda e: (_kind(e), _colour(e))):
        x, energies = np.array([place[e["id"]] for e in members]).T
        axes.scatter(
            x,
            energies,
            marker=_MARKERS[kind],
            s=_SIZES[kind],
            color=colour,
            linewidths=0.5,
            edgecolors=INK if kind == "new" else "white",
            zorder=_ORDER[kind],
        )
        before = np.array([_before(e) for e in members])
        axes.vlines(x, energies, before, color=colour, linewidth=0.6, alpha=0.4, zorder=2.2)
        axes.scatter(x, before, s=13, color="white", edgecolors=colour, linewidths=1.0, zorder=2.3)
    if _augmented(hull):  # beneath the other: seen where they differ
        _draw_lines(axes, hull["known_facets"], place, color=_QUIET, linestyle=_DASHES, zorder=2.5)
    _draw_lines(axes, hull["facets"], place, color=INK, zorder=3)
    above = sum(e["formation_energy_ev_per_atom"] > high for e in hull["entries"])
    if above:
        axes.set_title(f"{above} more above {high:.2f} eV/atom", loc="right", fontsize=7.5, color=_QUIET, pad=2)
    first, second = hull["elements"]
    axes.set(
        xlim=(-0.03, 1.03),
        ylim=(low, high),
        xlabel=f"$x$ in {first}$_{{1-x}}${second}$_x$",
        ylabel="Formation energy (eV/atom)",
    )


def _draw_ternary(axes: Any, hull: Mapping[str, Any], place: Places) -> None:
    if _augmented(hull):
        _draw_lines(axes, hull["known_facets"], place, color=_QUIET, linestyle=_DASHES, zorder=0.9)
    _draw_lines(axes, hull["facets"], place, color="#b4bac1", zorder=1)
    axes.fill(*_CORNERS.T, facecolor="none", edgecolor=INK, linewidth=1.0, zorder=1.5)
    on_hull, shades = set(hull["hull"]), _shades()
    highest_first = sorted(hull["entries"], key=lambda e: -e["e_above_hull_ev_per_atom"])
    for (kind, low), members in _grouped(highest_first, lambda e: (_kind(e), e["id"] in on_hull)):
        axes.scatter(
            *np.array([place[e["id"]] for e in members]).T,
            color=_NEW_COLOUR if kind == "new" else shades.to_rgba([e["e_above_hull_ev_per_atom"] for e in members]),
            marker=_MARKERS[kind],
            s=_SIZES[kind] + 10,
            linewidths=1.0 if low else 0.4,
            edgecolors=INK if low else "white",
            zorder=_ORDER[kind] + 3 * low,
        )
    sides = (("right", "top"), ("left", "top"), ("center", "bottom"))
    for symbol, corner, (ha, va) in zip(hull["elements"], _CORNERS, sides, strict=True):
        shift = (0, 5 if va == "bottom" else -4)
        axes.annotate(symbol, corner, xytext=shift, textcoords="offset points", ha=ha, va=va, fontsize=11, color=INK)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.margins(0.08)


def _label_phases(axes: Any, hull: Mapping[str, Any], place: Places) -> None:
    """Name the compounds on the hull, new ones in bold; in a binary system with their space group numbers."""
    by_id = {entry["id"]: entry for entry in hull["entries"]}
    binary = len(hull["elements"]) == 2
    edges = [np.linspace(place[a], place[b], 20) for a, b in _edges(hull["facets"])] if binary else []
    labels = [
        Label(
            at=place[id],
            text=by_id[id]["formula"],
            below=f"({by_id[id]['spacegroup']})" if binary and by_id[id]["spacegroup"] else "",
            bold=_kind(by_id[id]) == "new",
        )
        for id in hull["hull"]
        if len(by_id[id]["composition"]) > 1
    ]
    add_labels(axes, labels, np.concatenate([list(place.values()), *edges]))


def _explain(figure: Any, drawn: Sequence[tuple[Any, Mapping[str, Any]]]) -> None:
    """One legend, and one bar of colours for all triangles."""
    triangles = [axes for axes, hull in drawn if len(hull["elements"]) == 3]
    entries = [entry for _, hull in drawn for entry in hull["entries"]]
    candidates = {entry["round"]: entry for entry in entries if entry["role"] == "candidate"}
    handles = [_mark("known", _MARKERS["known"], _KNOWN_COLOUR, _KNOWN_COLOUR, 4)]
    for n in sorted(candidates):
        colour = ROUND_COLOURS[n % len(ROUND_COLOURS)]
        name = f"candidates, round {n}" if len(candidates) > 1 or n else "candidates"
        handles.append(_mark(name, _MARKERS["candidate"], colour, colour))
    if any(np.isfinite(_before(entry)) for entry in entries) and len(triangles) < len(drawn):
        handles.append(_mark("before relaxation", "o", ROUND_COLOURS[0], "white", 4))
    if any(_kind(entry) == "new" for entry in entries):
        handles.append(_mark("new phase", _MARKERS["new"], INK, _NEW_COLOUR, 10))
    if triangles:
        handles.append(_mark("on the hull", "o", INK, "white"))
    if candidates:
        handles.append(_line("known hull", color=_QUIET, linestyle=_DASHES))
    handles.append(_line("hull with candidates" if candidates else "hull", color=INK))
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=8, handletextpad=0.4)
    if triangles:
        figure.colorbar(_shades(), ax=triangles, shrink=0.7, extend="max", label="Energy above hull (eV/atom)")


def _mark(label: str, marker: str, edge: str, face: str, size: float = 5.5) -> Any:
    return _line(label, linestyle="none", marker=marker, markeredgecolor=edge, markerfacecolor=face, markersize=size)


def _line(label: str, **style: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **{"linewidth": 1.2, **style})


def _shades() -> Any:
    """Colours of energies above the hull."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(0.0, _SHADE_LIMIT_EV_PER_ATOM), "viridis")


def _before(entry: Entry) -> float:
    """Formation energy before relaxation; NaN where it is not known."""
    found = entry.get("formation_energy_before_ev_per_atom")
    return np.nan if found is None else float(found)


def _grouped(entries: Sequence[Entry], key: Callable[[Entry], tuple[Any, ...]]) -> list[tuple[Any, list[Entry]]]:
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    return list(groups.items())


def _augmented(hull: Mapping[str, Any]) -> bool:
    return any(entry["role"] == "candidate" for entry in hull["entries"])


def _colour(entry: Entry) -> str:
    """Of an entry in a binary system."""
    kind = _kind(entry)
    if kind == "candidate":
        return ROUND_COLOURS[entry["round"] % len(ROUND_COLOURS)]
    return _NEW_COLOUR if kind == "new" else _KNOWN_COLOUR


def _draw_lines(axes: Any, facets: Sequence[Sequence[str]], place: Places, **style: Any) -> None:
    from matplotlib.collections import LineCollection

    lines = [(place[a], place[b]) for a, b in _edges(facets)]
    axes.add_collection(LineCollection(lines, linewidths=1.2, **style))


def _edges(facets: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Each edge of the facets once."""
    return sorted({(a, b) for facet in facets for a in facet for b in facet if a < b})


def _projected(composition: Mapping[str, float], elements: Sequence[str]) -> np.ndarray:
    """A composition as a point of the triangle, shape (2,)."""
    amounts = np.array([composition.get(symbol, 0.0) for symbol in elements])
    return amounts @ _CORNERS / amounts.sum()
