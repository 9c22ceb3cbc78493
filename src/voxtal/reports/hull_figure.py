"""The hull figure: known phases, candidates, the hull that was known and the one redefined by candidates.

Like Figs. 5 and 6 of the CCDCGAN paper. Drawn from hull.json alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.errors import UserError
from voxtal.reports.figures import ROUND_COLOURS
from voxtal.runs import atomic_path

DRAWABLE_ELEMENTS = (2, 3)

_KNOWN_COLOUR = "#9aa1a9"
_INK = "#22272e"
_QUIET = "#5a616b"
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.linewidth": 0.8,
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "mathtext.default": "regular",
    "svg.hashsalt": "voxtal",
}
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
_TERNARY_POINTS = 306.0
"""Length of the triangle's edge, nearly."""
_MARKERS = {False: "s", True: "o"}
"""Marker of a known entry and of a candidate."""
_SHADE_LIMIT_EV_PER_ATOM = 0.3
_AXES_POINTS = np.array([370.0, 225.0])
"""Width and height of the binary figure's axes, nearly."""
_LABEL_POINTS = np.array([36.0, 24.0])
_SHIFTS = sorted(
    ((dx, dy) for dx in (-38, -24, -12, 0, 12, 24, 38) for dy in (-6, -16, -28, -40, -54)),
    key=lambda s: 2 * abs(s[0]) - s[1],
)
"""Where a label may stand below its point, inwards (-) or outwards, in points, best first."""

Entry = Mapping[str, Any]


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
    import matplotlib
    from matplotlib.figure import Figure

    n_elements = len(hull["elements"])
    if n_elements not in DRAWABLE_ELEMENTS:
        raise UserError(f"A hull of {n_elements} elements cannot be drawn; figures are for two or three.")
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.0, 4.2) if n_elements == 2 else (6.0, 4.9), layout="constrained")
        draw = _draw_binary if n_elements == 2 else _draw_ternary
        draw(figure, figure.add_subplot(), hull)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=200, format=path.suffix.lstrip("."), metadata=metadata)


def subscripted(formula: str) -> str:
    """``Co2Hf`` as mathtext with subscripts."""
    return re.sub(r"(\d+(?:\.\d+)?)", r"$_{\1}$", formula)


def energy_window(hull: Mapping[str, Any]) -> tuple[float, float]:
    """Range of the energy axis, eV/atom: the hull with its labels, and two thirds of its depth above zero."""
    depth = max(0.05, *(-e["formation_energy_ev_per_atom"] for e in hull["entries"]))
    return -1.35 * depth, 0.65 * depth


def _draw_binary(figure: Any, axes: Any, hull: Mapping[str, Any]) -> None:
    low, high = energy_window(hull)
    place = {e["id"]: (e["x"], e["formation_energy_ev_per_atom"]) for e in hull["entries"]}
    axes.axhline(0.0, color="#d5d9de", linewidth=0.7, zorder=0)
    for k, (label, members) in enumerate(_groups(hull)):
        known = k == 0
        axes.scatter(
            *np.array([place[e["id"]] for e in members]).T,
            s=13 if known else 26,
            color=_KNOWN_COLOUR if known else _round_colour(members[0]),
            linewidths=0 if known else 0.5,
            edgecolors="white",
            label=label,
            zorder=2 if known else 4,
        )
    augmented = any(e["role"] == "candidate" for e in hull["entries"])
    if augmented:  # beneath the other: seen where they differ
        dashes = (0, (5, 3))
        _draw_lines(axes, hull["known_facets"], place, "known hull", color=_QUIET, linestyle=dashes, zorder=2.5)
    name = "hull with candidates" if augmented else "hull"
    _draw_lines(axes, hull["facets"], place, name, color=_INK, linestyle="-", zorder=3)
    by_id = {e["id"]: e for e in hull["entries"]}
    _label_corners(axes, [by_id[id] for id in hull["hull"] if len(by_id[id]["composition"]) > 1], (low, high))
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
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8, handletextpad=0.4)


def _label_corners(axes: Any, corners: Sequence[Entry], window: tuple[float, float]) -> None:
    """Formula and space group number under each compound on the hull; crowded ones are moved away."""
    scale = _AXES_POINTS / (1.06, window[1] - window[0])
    taken: list[np.ndarray] = []
    for entry in sorted(corners, key=lambda e: -abs(e["x"] - 0.5)):  # the inner ones have room to give way, downwards
        at = np.array([entry["x"], entry["formation_energy_ev_per_atom"]])
        side, slope = np.sign(entry["x"] - 0.5), np.clip(4 * (entry["x"] - 0.5), -1.0, 1.0)
        outwards = [(14 * slope + side * dx, dy) for dx, dy in _SHIFTS]
        inside = [s for s in outwards if _within(at * scale + s, window[0] * scale[1], scale[0])]
        free = (s for s in inside if all(_apart(at * scale + s, other) for other in taken))
        shift = next(free, outwards[0])
        taken.append(at * scale + shift)
        number = f"\n({entry['spacegroup']})" if entry["spacegroup"] else ""
        axes.annotate(
            subscripted(entry["formula"]) + number,
            at,
            xytext=shift,
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=8,
            color=_INK,
            zorder=5,
            path_effects=_halo(),
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": _QUIET, "shrinkA": 0, "shrinkB": 3}
            if shift != outwards[0]
            else None,
        )


def _within(label: np.ndarray, bottom: float, unit: float) -> bool:
    """Whether a label whose upper edge is centred there is inside of the axes, in points."""
    half = _LABEL_POINTS[0] / 2
    return bool(half - 0.03 * unit < label[0] < 1.03 * unit - half and label[1] - _LABEL_POINTS[1] > bottom)


def _apart(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((np.abs(one - other) > _LABEL_POINTS).any())


def _draw_ternary(figure: Any, axes: Any, hull: Mapping[str, Any]) -> None:
    elements = hull["elements"]
    place = {e["id"]: tuple(_projected(e["composition"], elements)) for e in hull["entries"]}
    _draw_lines(axes, hull["facets"], place, None, color="#b4bac1", linestyle="-", zorder=1)
    axes.fill(*_CORNERS.T, facecolor="none", edgecolor=_INK, linewidth=1.0, zorder=1.5)
    highest_first = sorted(hull["entries"], key=lambda e: -e["e_above_hull_ev_per_atom"])
    shades: Any = None
    for is_candidate, on_hull in ((False, False), (True, False), (False, True), (True, True)):
        members = [
            e
            for e in highest_first
            if (e["role"] == "candidate") == is_candidate and (e["id"] in hull["hull"]) == on_hull
        ]
        if members:
            shades = axes.scatter(
                *np.array([place[e["id"]] for e in members]).T,
                c=[e["e_above_hull_ev_per_atom"] for e in members],
                marker=_MARKERS[is_candidate],
                s=34 if on_hull else 24,
                cmap="viridis",
                vmin=0.0,
                vmax=_SHADE_LIMIT_EV_PER_ATOM,
                linewidths=1.4 if on_hull else 0.4,
                edgecolors=_INK if on_hull else "white",
                zorder=4 if on_hull else 3,
            )
    compounds = [e for e in hull["entries"] if e["id"] in hull["hull"] and len(e["composition"]) > 1]
    _label_points(axes, compounds, place)
    for symbol, corner, (ha, va) in zip(
        elements, _CORNERS, (("right", "top"), ("left", "top"), ("center", "bottom")), strict=True
    ):
        axes.annotate(
            symbol, corner, xytext=(0, 5 if va == "bottom" else -4), textcoords="offset points",
            ha=ha, va=va, fontsize=11, color=_INK,
        )  # fmt: skip
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.margins(0.08)
    _ternary_legend(axes)
    figure.colorbar(shades, ax=axes, shrink=0.7, extend="max", label="Energy above hull (eV/atom)")


def _label_points(axes: Any, entries: Sequence[Entry], place: Mapping[str, tuple[float, ...]]) -> None:
    """The formula of each entry above, below or beside its point, where it covers the fewest labels and points."""
    points = np.unique(list(place.values()), axis=0) * _TERNARY_POINTS
    boxes: list[np.ndarray] = []
    for entry in entries:
        at = np.array(place[entry["id"]]) * _TERNARY_POINTS
        half = np.array([2.4 * len(entry["formula"]), 5.0])
        options = [np.array([at + centre - half, at + centre + half]) for centre in _beside(half)]
        covered = [
            10 * sum(_overlap(box, other) for other in boxes)
            + int((np.abs(points - box.mean(axis=0)) < half + 2).all(axis=1).sum())
            for box in options
        ]
        boxes.append(options[int(np.argmin(covered))])
        axes.annotate(
            subscripted(entry["formula"]),
            place[entry["id"]],
            xytext=boxes[-1].mean(axis=0) - at,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7.5,
            color=_INK,
            zorder=5,
            path_effects=_halo(),
        )


def _beside(half: np.ndarray) -> list[np.ndarray]:
    """Centres of a label about its point, in points, best first."""
    across, up = half[0] + 5, half[1] + 5
    return [np.array(c) for c in (
        (0, up), (0, -up), (across, 0), (-across, 0), (across, up), (-across, up), (across, -up), (-across, -up),
    )]  # fmt: skip


def _overlap(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one[0] < other[1]).all() and (other[0] < one[1]).all())


def _ternary_legend(axes: Any) -> None:
    from matplotlib.lines import Line2D

    style: dict[str, Any] = {"linestyle": "none", "markerfacecolor": _KNOWN_COLOUR, "markersize": 5.5}
    rims = (("known", False, "white"), ("candidate", True, "white"), ("on the hull", True, _INK))
    handles = [
        Line2D([], [], marker=_MARKERS[circle], markeredgecolor=rim, label=label, **style)
        for label, circle, rim in rims
    ]
    axes.legend(handles=handles, loc="upper left", frameon=False, fontsize=8)


def _groups(hull: Mapping[str, Any]) -> list[tuple[str, list[Entry]]]:
    """Known entries first, then the candidates of each round."""
    known = [e for e in hull["entries"] if e["role"] != "candidate"]
    candidates = [e for e in hull["entries"] if e["role"] == "candidate"]
    rounds = sorted({e["round"] for e in candidates})
    return [
        ("known", known),
        *((f"candidates, round {n}", [e for e in candidates if e["round"] == n]) for n in rounds),
    ]


def _round_colour(entry: Entry) -> str:
    return ROUND_COLOURS[entry["round"] % len(ROUND_COLOURS)]


def _draw_lines(
    axes: Any, facets: Sequence[Sequence[str]], place: Mapping[str, Any], label: str | None, **style: Any
) -> None:
    """The edges of all facets as one line collection, so that the legend has one entry."""
    from matplotlib.collections import LineCollection

    edges = {tuple(sorted((a, b))) for facet in facets for a in facet for b in facet if a != b}
    lines = [(place[a], place[b]) for a, b in sorted(edges)]
    axes.add_collection(LineCollection(lines, label=label, linewidths=1.2, **style))


def _projected(composition: Mapping[str, float], elements: Sequence[str]) -> np.ndarray:
    """A composition as a point of the triangle, shape (2,)."""
    amounts = np.array([composition.get(symbol, 0.0) for symbol in elements])
    return amounts @ _CORNERS / amounts.sum()


def _halo() -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2, foreground="white")]
