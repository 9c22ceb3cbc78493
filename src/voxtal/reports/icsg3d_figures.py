"""ICSG3D's figures: codes, slices through maps, errors of cells and sites, parity, energies by formula type
(doi:10.1021/acs.jcim.0c00464, Figs. 2 to 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtal.reports.figures import ROUND_COLOURS, SPLIT_NAMES
from voxtal.reports.png import write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KDE_POINTS = 200
_KDE_STRUCTURES = 1000
"""Codes that a curve is made of, at most: it does not change with more."""
_GREY = "#8a939c"
_COLUMNS = 4


def code_density_figure(codes: np.ndarray, path: Path) -> None:
    """Kernel density of every dimension of the codes (n, latent), beside the normal distribution (Fig. 2a)."""
    from scipy.stats import gaussian_kde, norm

    x = np.linspace(-4, 4, _KDE_POINTS)
    sample = codes[:_KDE_STRUCTURES]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for k, values in enumerate(sample.T):
            if len(values) > 1 and values.std() > 0:
                label = f"a dimension (of {sample.shape[1]})" if k == 0 else None
                axes.plot(x, gaussian_kde(values)(x), color=ROUND_COLOURS[0], linewidth=0.4, alpha=0.3, label=label)
        axes.plot(x, norm.pdf(x), color=ROUND_COLOURS[1], linewidth=1.5, label="N(0, 1)")
        axes.set(xlim=(-4, 4), ylim=(0, None), xlabel="code", ylabel="density")
        axes.set_title(f"codes of {len(sample)} structures", fontsize=9)
        axes.legend()

    write_png(draw, path, 4.6, 3.4)


def embedding_figure(places: np.ndarray, classes: Sequence[str], energies: np.ndarray, path: Path) -> None:
    """Codes in the plane (n, 2) by t-SNE, coloured by class and by formation energy (n,), eV/atom (Fig. 3)."""
    kinds = np.array(classes)
    size = float(np.clip(3000 / max(len(places), 1), 4, 25))

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for k, kind in enumerate(sorted(set(classes))):
            x, y = places[kinds == kind].T
            left.scatter(x, y, s=size, linewidths=0, color=ROUND_COLOURS[k % 6], label=f"{kind} (n = {len(x)})")
        left.legend(markerscale=2)
        known = np.isfinite(energies)
        right.scatter(*places[~known].T, s=size, linewidths=0, color="#d9dce0")
        if known.any():
            limits = np.quantile(energies[known], (0.02, 0.98))
            drawn = right.scatter(
                *places[known].T,
                s=size,
                linewidths=0,
                c=energies[known],
                vmin=limits[0],
                vmax=limits[1],
                cmap="viridis",
            )
            figure.colorbar(drawn, ax=right, label="formation energy (eV/atom)")
        for axes in (left, right):
            axes.set(xticks=[], yticks=[], xlabel="t-SNE of the codes' means")

    write_png(draw, path, 9.6, 4.2)


def slices_figure(
    images: np.ndarray, row_labels: Sequence[str], column_labels: Sequence[str], species: bool, path: Path
) -> None:
    """Slices (rows, columns, N, N) through maps (Fig. 2b).

    Parameters
    ----------
    images
        Densities, electrons per cubic angstrom, each row on its own scale, from 0 to the largest of its ends; or
        with ``species`` atomic numbers, 0 for none, one colour each. NaN is left out.
    path
        PNG to write.
    """
    rows, columns = images.shape[:2]
    drawn = [k for k in range(columns) if np.isfinite(images[:, k]).all()]

    def draw(figure: Figure) -> None:
        panels = figure.subplots(rows, len(drawn), squeeze=False)
        for i in range(rows):
            top = float(images[i, [drawn[0], drawn[-1]]].max()) or 1.0
            for axes, k in zip(panels[i], drawn, strict=True):
                _slice(axes, images[i, k], top, species)
                axes.set(xticks=[], yticks=[])
                if i == 0:
                    axes.set_title(column_labels[k], fontsize=7)
            panels[i, 0].set_ylabel(row_labels[i], fontsize=7, rotation=0, ha="right", va="center")

    write_png(draw, path, 1.6 + 0.85 * len(drawn), 0.3 + 0.85 * rows)


def _slice(axes: Any, image: np.ndarray, top: float, species: bool) -> None:
    if not species:
        axes.imshow(image.T, origin="lower", cmap="magma", vmin=0, vmax=top)
        return
    axes.imshow(element_colours(image).swapaxes(0, 1), origin="lower")
    for number in np.unique(image[image > 0]).tolist():
        x, y = np.argwhere(image == number).mean(axis=0) if _one_place(image == number) else _largest(image == number)
        axes.text(x, y, _symbol(int(number)), fontsize=4.5, ha="center", va="center", color="k")


def element_colours(numbers: np.ndarray) -> np.ndarray:
    """Colours (..., 3) of atomic numbers: white for 0, and neighbours in the table far from each other."""
    from matplotlib import colormaps

    hue = (np.asarray(numbers) * 0.6180339887) % 1.0
    colours = 0.35 + 0.65 * colormaps["hsv"](hue)[..., :3]
    return np.where(np.asarray(numbers)[..., None] > 0, colours, 1.0)


def _one_place(mask: np.ndarray) -> bool:
    from scipy.ndimage import label

    return bool(label(mask)[1] == 1)


def _largest(mask: np.ndarray) -> np.ndarray:
    """Middle of the largest connected part."""
    from scipy.ndimage import label

    parts, n = label(mask)
    sizes = np.bincount(parts.ravel(), minlength=n + 1)[1:]
    return np.asarray(np.argwhere(parts == 1 + int(np.argmax(sizes))).mean(axis=0))


def _symbol(number: int) -> str:
    from ase.data import chemical_symbols

    return chemical_symbols[number]


def errors_figure(errors: Mapping[str, np.ndarray], published: Mapping[str, float], path: Path) -> None:
    """Distributions of absolute errors, a panel each, with their mean and the published one (Fig. 4).

    Parameters
    ----------
    errors
        Title with the unit -> values; NaN is left out. Without any value no file is written.
    published
        The same title -> the paper's mean.
    """
    if not any(np.isfinite(values).any() for values in errors.values()):
        return

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(errors), squeeze=False)[0]
        for axes, (title, values) in zip(panels, errors.items(), strict=True):
            finite = values[np.isfinite(values)]
            top = float(np.quantile(finite, 0.98)) if len(finite) else 1.0
            axes.hist(np.minimum(finite, top), bins=30, color=ROUND_COLOURS[0])
            if title in published:
                axes.axvline(published[title], color=_GREY, linestyle="dashed", label=f"published {published[title]}")
            if len(finite):
                axes.axvline(finite.mean(), color=ROUND_COLOURS[1], label=f"mean {finite.mean():.3f}")
                axes.legend()
            axes.set(xlabel=title, ylabel="structures")
            axes.set_title(f"n = {len(finite)}, the last bar holds all beyond", fontsize=7)

    write_png(draw, path, 3.0 * len(errors), 2.8)


def property_parity_figure(parity: Mapping[str, Sequence[Mapping[str, Any]]], log10: Sequence[str], path: Path) -> None:
    """Predicted against calculated values, a panel for each property, held-out structures on top (Fig. 5).

    Parameters
    ----------
    parity : mapping
        Property -> rows with ``split``, ``target`` and ``predicted``; without any, no file is written.
    log10
        Properties on logarithmic axes.
    path : Path
        PNG to write.
    """
    shown = {name: points for name, points in parity.items() if points}
    if not shown:
        return
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
        for axes, (name, points) in zip(panels, shown.items(), strict=False):
            _parity(axes, points, name in log10)
            axes.set_title(name.replace("_", " "), fontsize=9)

    write_png(draw, path, 3.3 * columns, 3.3 * rows)


def _parity(axes: Any, points: Sequence[Mapping[str, Any]], log10: bool) -> None:
    values = np.array([[point["target"], point["predicted"]] for point in points], dtype=float)
    splits = np.array([point["split"] for point in points])
    kept = np.isfinite(values).all(axis=1) & (~np.bool_(log10) | (values > 0).all(axis=1))
    for k, split in enumerate(sorted(set(splits), reverse=True)):
        x, y = values[kept & (splits == split)].T
        label = f"{SPLIT_NAMES.get(split, split)} (n = {len(x)})"
        axes.scatter(x, y, s=4, linewidths=0, alpha=0.5, color=ROUND_COLOURS[k % 6], label=label)
    if log10 and kept.any():
        axes.set(xscale="log", yscale="log")
    if kept.any():
        limits = values[kept].min(), values[kept].max()
        axes.plot(limits, limits, color=_GREY, linewidth=1, zorder=0)
    axes.set(xlabel="calculated", ylabel="predicted")
    axes.legend(loc="upper left", markerscale=2)


def formula_types_figure(
    energies: Mapping[str, Sequence[float]], counts: Mapping[str, int], elements: Mapping[str, int], path: Path
) -> None:
    """The commonest formula types of valid attempts, their predicted formation energies, and elements (Fig. 6).

    Parameters
    ----------
    energies
        Formula type -> predicted formation energies, eV/atom.
    counts, elements
        Formula type or symbol -> number of valid attempts.
    path
        PNG to write; none without a valid attempt.
    """
    if not counts:
        return

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 3, width_ratios=(1, 1.2, 1.2))
        _bars(panels[0], counts, "formula type")
        boxes = {name: values for name, values in energies.items() if values}
        if boxes:
            panels[1].boxplot(
                list(boxes.values()), medianprops={"color": ROUND_COLOURS[1]}, flierprops={"markersize": 2}
            )
            names = [f"{name}\n{len(values)}" for name, values in boxes.items()]
            panels[1].set_xticks(range(1, len(boxes) + 1), names, fontsize=7)
        panels[1].axhline(0, color=_GREY, linewidth=0.8, zorder=0)
        panels[1].set(xlabel="formula type", ylabel="predicted formation energy (eV/atom)")
        _bars(panels[2], elements, "element")

    write_png(draw, path, 11.0, 3.4)


def _bars(axes: Any, counts: Mapping[str, int], what: str) -> None:
    axes.bar(range(len(counts)), list(counts.values()), color=ROUND_COLOURS[0])
    axes.set_xticks(range(len(counts)), list(counts), fontsize=7)
    axes.set(xlabel=what, ylabel="valid attempts")
