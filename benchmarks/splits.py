"""How much of the held-out structures a model has seen: a random split beside a split by composition.

    python benchmarks/splits.py FILE... [--fraction 0.1] [--seed 0]

FILE is what `voxtal import` takes; the paper's selection applies and the first structure of each id counts. Of the
held-out structures: the share whose reduced formula is also in the training part, the share of which a structure is
(strict matcher, same formula), and the mean absolute error of two predictions of formation energy that need no network:
the mean of the training part, and the mean over its nearest compositions (Euclidean distance of atomic fractions).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.cli.common import print_table
from voxtal.structures.importers import import_structures
from voxtal.structures.matching import STRICT, Matcher, find_known
from voxtal.structures.splits import HELDOUT, TRAIN, in_split, reduced_formulas, with_split
from voxtal.structures.structure_set import FORMATION_ENERGY, StructureSet

_ROWS_AT_ONCE = 500
_SAME_DISTANCE = 1e-9


def compositions(structures: StructureSet) -> np.ndarray:
    """Atomic fractions (n, 118)."""
    counts = np.stack([np.bincount(structures.arrays(i)[0] - 1, minlength=118) for i in range(len(structures))])
    return counts / counts.sum(axis=1, keepdims=True)


def nearest_mean(known: np.ndarray, targets: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """For each row of ``asked`` the mean target of the nearest rows of ``known``; there may be several."""
    places, place = np.unique(known, axis=0, return_inverse=True)
    totals, numbers = np.bincount(place, targets), np.bincount(place)
    out = []
    for first in range(0, len(asked), _ROWS_AT_ONCE):
        block = asked[first : first + _ROWS_AT_ONCE]
        squares = (block**2).sum(axis=1)[:, None] - 2 * block @ places.T + (places**2).sum(axis=1)
        nearest = squares < squares.min(axis=1, keepdims=True) + _SAME_DISTANCE
        out.append(nearest @ totals / (nearest @ numbers))
    return np.concatenate(out)


def leak(structures: StructureSet, by: Any, fraction: float, seed: int) -> list[str]:
    """One row of the table."""
    marked = with_split(structures, by, fraction, fraction, seed)
    rows = np.arange(len(marked))
    training, heldout = (marked.subset(np.flatnonzero(in_split(marked, rows, name))) for name in (TRAIN, HELDOUT))
    formulas = set(reduced_formulas(training))
    same_formula = np.array([formula in formulas for formula in reduced_formulas(heldout)])
    same = np.array([twin is not None for twin in find_known(heldout, training, Matcher(STRICT))])
    known, asked = training.properties[FORMATION_ENERGY], heldout.properties[FORMATION_ENERGY]
    near = nearest_mean(compositions(training), known, compositions(heldout))
    errors = [np.abs(asked - predicted).mean() for predicted in (known.mean(), near)]
    shares = [f"{part.sum()} ({part.mean():.1%})" for part in (same_formula, same)]
    return [by, str(len(training)), str(len(heldout)), *shares, *(f"{error:.3f}" for error in errors)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--fraction", type=float, default=0.1, help="of validation and of held-out structures")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    structures = import_structures(arguments.files).structures
    structures = structures.subset(np.flatnonzero(np.isfinite(structures.properties[FORMATION_ENERGY])))
    formulas = len(set(reduced_formulas(structures)))
    print_table(
        f"{len(structures)} structures with a formation energy, {formulas} reduced formulas",
        (
            "split",
            "training",
            "held out",
            "formula in training",
            "structure in training",
            "MAE of mean, eV/atom",
            "nearest composition",
        ),
        [leak(structures, by, arguments.fraction, arguments.seed) for by in ("random", "composition")],
    )


if __name__ == "__main__":
    main()
