"""The report's graphs, as SVG text: loss curves and the constraint's parity plot."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROUND_COLOURS = ("#2f6690", "#c8553d", "#5b8e4b", "#8a5a9e", "#b8860b", "#4c9a9a")
_DASHES = ("solid", "dashed", "dotted", "dashdot")
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": "#8a939c",
    "axes.labelcolor": "#333a41",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": "#555e66",
    "ytick.color": "#555e66",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "voxtal",
}
MAX_POINTS = 400
SPLIT_NAMES = {"train": "trained on", "heldout": "held out"}


def loss_figure(rounds: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    """Every loss of one model against the step: a colour per round, a dash per kind of loss.

    Parameters
    ----------
    rounds
        Round -> lines of its ``metrics.jsonl``; keys that end in ``loss`` are drawn.
    """
    lines = [line for metrics in rounds.values() for line in metrics]
    kinds = sorted({key for line in lines for key in line if key.endswith("loss")}, key=lambda k: (len(k), k))
    values = [line[kind] for line in lines for kind in kinds if line.get(kind) is not None]

    def draw(axes: Axes) -> None:
        for (index, metrics), kind in ((item, kind) for item in rounds.items() for kind in kinds):
            points = [(line["step"], line[kind]) for line in _thinned(metrics) if line.get(kind) is not None]
            if points:
                steps, losses = zip(*points, strict=True)
                axes.plot(
                    steps,
                    losses,
                    color=ROUND_COLOURS[index % len(ROUND_COLOURS)],
                    linestyle=_DASHES[kinds.index(kind) % len(_DASHES)],
                    linewidth=1.3,
                    label=f"round {index}, {_kind_label(kind, kinds)}",
                )
        if values and min(values) > 0:
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.legend()

    return _svg(draw, width=4.8, height=3.2)


def parity_figure(points: Sequence[Mapping[str, Any]]) -> str:
    """Predicted against calculated formation energy, one colour for each split.

    Parameters
    ----------
    points
        Rows with ``split``, ``target`` and ``predicted``, eV/atom.
    """
    splits = sorted({str(point["split"]) for point in points}, key=lambda s: s != "train")

    def draw(axes: Axes) -> None:
        values = [float(point[key]) for point in points for key in ("target", "predicted")]
        margin = 0.05 * (max(values) - min(values)) or 0.1
        limits = (min(values) - margin, max(values) + margin)
        axes.plot(limits, limits, color="#8a939c", linewidth=1, zorder=0)
        for split, colour in zip(splits, ROUND_COLOURS, strict=False):
            chosen = [point for point in points if point["split"] == split]
            axes.scatter(
                [point["target"] for point in chosen],
                [point["predicted"] for point in chosen],
                s=14,
                color=colour,
                alpha=0.65,
                linewidths=0,
                label=f"{SPLIT_NAMES.get(split, split)} (n = {len(chosen)})",
            )
        axes.set_xlim(limits)
        axes.set_ylim(limits)
        axes.set_aspect("equal")
        axes.set_xlabel("calculated formation energy (eV/atom)")
        axes.set_ylabel("predicted (eV/atom)")
        axes.legend(loc="upper left")

    return _svg(draw, width=4.4, height=4.2)


def _kind_label(kind: str, kinds: Sequence[str]) -> str:
    name = kind.removesuffix("loss").strip("_").replace("_", " ").replace("heldout", "held out")
    return name or ("training" if len(kinds) > 1 else "loss")


def _thinned(metrics: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    step = -(-len(metrics) // MAX_POINTS) or 1
    kept = list(metrics[::step])
    return kept if not metrics or kept[-1] is metrics[-1] else [*kept, metrics[-1]]


def _svg(draw: Callable[[Axes], None], width: float, height: float) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.add_subplot())
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
