"""The elements of generated structures: how many hold each, and how that compares with the known ones (Fig. 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtal.reports.figures import ROUND_COLOURS
from voxtal.reports.png import write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = (
    "H . . . . . . . . . . . . . . . . He",
    "Li Be . . . . . . . . . . B C N O F Ne",
    "Na Mg . . . . . . . . . . Al Si P S Cl Ar",
    "K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr",
    "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe",
    "Cs Ba . Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn",
    "Fr Ra",
    "",
    ". . La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu",
    ". . Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr",
)
PLACES = {symbol: (x, y) for y, row in enumerate(_ROWS) for x, symbol in enumerate(row.split()) if symbol != "."}
"""Column and row of each element, f block below."""

_NOT_IN_DATA = "#d9dce0"
_NEVER_GENERATED = "#ffffff"


def periodic_table_figure(generated: Mapping[str, int], known: Mapping[str, int], path: Path) -> None:
    """Periodic table coloured by the number of generated structures with each element, logarithmic (Fig. 4A).

    Parameters
    ----------
    generated, known : mapping of symbol to int
        Number of structures with the element. Grey: in neither; white: known, never generated.
    path : Path
        PNG to write.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    most = max([*generated.values(), 2])
    norm, colours = LogNorm(1, most), colormaps["viridis"]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for symbol, (x, y) in PLACES.items():
            n = generated.get(symbol, 0)
            face: Any = colours(norm(n)) if n else _NEVER_GENERATED if known.get(symbol) else _NOT_IN_DATA
            axes.add_patch(Rectangle((x, y), 0.94, 0.94, facecolor=face, edgecolor="#aab0b7", linewidth=0.5))
            dark = bool(n) and norm(n) < 0.6
            axes.text(x + 0.47, y + 0.4, symbol, ha="center", va="center", color="white" if dark else "#22272e")
            if n:
                axes.text(
                    x + 0.47, y + 0.76, str(n), ha="center", va="center", fontsize=4.8, color="white" if dark else "k"
                )
        axes.set(xlim=(-0.1, 18.1), ylim=(10.1, -0.1), aspect="equal")
        axes.set_axis_off()
        bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, shrink=0.7, pad=0.01)
        bar.set_label("generated structures with the element")

    write_png(draw, path, 8.4, 4.4)


def element_density_figure(
    generated: Mapping[str, Mapping[str, int]],
    sizes: Mapping[str, int],
    known: Mapping[str, int],
    n_known: int,
    path: Path,
) -> None:
    """Share of structures that hold each element, generated against known (Fig. 4B).

    Parameters
    ----------
    generated : mapping
        Name of each set -> symbol -> number of structures with the element.
    sizes : mapping
        Name of each set -> number of structures.
    known, n_known
        The same of the known structures.
    path : Path
        PNG to write.
    """
    present = {symbol for counts in (known, *generated.values()) for symbol in counts}
    symbols = [symbol for symbol in _by_number() if symbol in present]
    x = np.arange(len(symbols))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.bar(x, _shares(known, n_known, symbols), color="#c3c9d0", width=0.9, label=f"known (n = {n_known})")
        for k, (name, counts) in enumerate(generated.items()):
            axes.plot(
                x,
                _shares(counts, sizes[name], symbols),
                "os^Dv"[k % 5],
                markersize=3.5,
                color=ROUND_COLOURS[k % len(ROUND_COLOURS)],
                label=f"{name} (n = {sizes[name]})",
            )
        axes.set_xticks(x, symbols, fontsize=6, rotation=90)
        axes.set(xlim=(-1, len(symbols)), ylabel="share of structures with the element")
        axes.legend()

    write_png(draw, path, 10.0, 3.6)


def _shares(counts: Mapping[str, int], n: int, symbols: Sequence[str]) -> list[float]:
    return [counts.get(symbol, 0) / n if n else 0.0 for symbol in symbols]


def _by_number() -> list[str]:
    from ase.data import chemical_symbols

    return chemical_symbols[1:]
