"""How well networks learned: learning curves of several models in one graph, and parity of predictions (Fig. 3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from voxtal.reports.figures import ROUND_COLOURS
from voxtal.reports.png import write_png
from voxtal.reports.run_data import read_metrics
from voxtal.runs import RoundPaths

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def autoencoder_curves(paths: RoundPaths) -> dict[str, list[dict[str, Any]]]:
    """Learning curves of a round's autoencoders, by model: lines of their ``metrics.jsonl``.

    Those of single elements (``separated``) are one curve, their median with quartiles, which goes on where that of all
    elements ends.
    """
    curves = {name: read_metrics(paths.train(name) / "metrics.jsonl") for name in ("lattice-ae", "sites-ae")}
    begun = curves["sites-ae"][-1]["step"] if curves["sites-ae"] else 0
    losses = defaultdict[int, list[float]](list)
    for log in paths.train("").glob("sites-ae-*/metrics.jsonl"):
        for line in read_metrics(log):
            losses[begun + line["step"]].append(line["loss"])
    curves["sites-ae-separated"] = [
        {"step": step, "loss": median(losses[step]), "loss_quartiles": _quartiles(losses[step])}
        for step in sorted(losses)
    ]
    return {name: lines for name, lines in curves.items() if lines}


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = quantiles(values, n=4, method="inclusive")
    return first, third


def learning_curves_figure(curves: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Loss against step, of unseen structures (thick) and in training (thin), a colour for each model (Fig. 3E).

    Parameters
    ----------
    curves : mapping
        Name -> lines of its ``metrics.jsonl``; keys that end in ``loss`` are drawn, ``loss_quartiles`` as a band.
        Without any, no file is written.
    path : Path
        PNG to write.
    """
    if not any(curves.values()):
        return

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for k, (name, lines) in enumerate(curves.items()):
            colour = ROUND_COLOURS[k % len(ROUND_COLOURS)]
            for key in sorted({key for line in lines for key in line if key.endswith("loss")}):
                points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
                if not points:
                    continue
                unseen = key.startswith(("heldout", "validation"))
                label = f"{name}, {key.replace('_', ' ')}"
                width, alpha = (1.5, 1.0) if unseen else (0.8, 0.5)
                axes.plot(*zip(*points, strict=True), color=colour, label=label, linewidth=width, alpha=alpha)
            band = [(line["step"], *line["loss_quartiles"]) for line in lines if "loss_quartiles" in line]
            if band:
                steps, low, high = zip(*band, strict=True)
                axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel="step", ylabel="loss", yscale="log")
        axes.legend()

    write_png(draw, path, 5.2, 3.6)


def parity_figures(parity: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Predicted against calculated values, a panel for each model, held-out structures on top (Fig. 3D).

    Parameters
    ----------
    parity : mapping
        Name -> rows with ``split``, ``target`` and ``predicted``; without any, no file is written.
    path : Path
        PNG to write.
    """

    if not parity:
        return

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(parity), squeeze=False)[0]
        for axes, (name, points) in zip(panels, parity.items(), strict=True):
            values = [float(point[key]) for point in points for key in ("target", "predicted")]
            axes.axline((0, 0), slope=1, color="#8a939c", linewidth=1, zorder=0)
            for k, split in enumerate(sorted({point["split"] for point in points}, reverse=True)):
                chosen = [point for point in points if point["split"] == split]
                x, y = ([point[key] for point in chosen] for key in ("target", "predicted"))
                axes.scatter(
                    x, y, s=5, linewidths=0, alpha=0.5, color=ROUND_COLOURS[k], label=f"{split} (n = {len(x)})"
                )
            margin = 0.05 * (max(values) - min(values)) or 0.1
            limits = min(values) - margin, max(values) + margin
            axes.set(xlim=limits, ylim=limits, aspect="equal", title=name)
            axes.set(xlabel="calculated (eV/atom)", ylabel="predicted (eV/atom)")
            axes.legend(loc="upper left", markerscale=2)

    write_png(draw, path, 4.2 * len(parity), 4.2)
