"""Which structures are trained on, which choose the best weights, and which are only reported."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Literal

import numpy as np

from voxtal.structures.structure_set import SPLIT, StructureSet

TRAIN, VALIDATION, HELDOUT = "train", "validation", "heldout"

SplitBy = Literal["composition", "random"]


def with_split(
    structures: StructureSet, by: SplitBy, heldout_fraction: float, validation_fraction: float, seed: int
) -> StructureSet:
    """The set with the provenance ``split``: ``train``, ``validation`` or ``heldout``.

    Parameters
    ----------
    structures : StructureSet
        Their order does not matter.
    by : {"composition", "random"}
        ``composition``: all structures of one reduced formula are on one side. ``random``: each is on its own.
    heldout_fraction, validation_fraction : float
        Shares of all structures, below 1 together; see :func:`split_of_groups` for how closely they are met.
    seed : int
        Another seed, another split.
    """
    groups = [str(id_) for id_ in structures.ids] if by == "random" else reduced_formulas(structures)
    fractions = {HELDOUT: heldout_fraction, VALIDATION: validation_fraction}
    split = split_of_groups(Counter(groups), fractions, seed)
    return structures.with_columns(provenance={SPLIT: [split[group] for group in groups]})


def split_of_groups(sizes: Mapping[str, int], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """Group -> split; what no other split takes is ``train``.

    Groups come in the order of a hash of seed and name. A split takes each that still fits into its share, then the
    smallest one left if that brings it closer to its share. So the shares of sets with many groups are met to within
    half a small group; where every group is more than twice a share, that split stays empty. The last group is never
    taken: there is always something to train on.

    Parameters
    ----------
    sizes : mapping of str to int
        Group -> how many structures it has.
    fractions : mapping of str to float
        Split -> share of all structures.
    """
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed} {group}".encode()).digest())
    split = dict.fromkeys(order, TRAIN)
    free = order[:-1]
    for name, fraction in fractions.items():
        missing = fraction * sum(sizes.values())
        for group in free:
            if sizes[group] <= missing:
                split[group] = name
                missing -= sizes[group]
        free = [group for group in free if split[group] == TRAIN]
        smallest = min(free, key=sizes.__getitem__, default=None)
        if smallest is not None and sizes[smallest] < 2 * missing:
            split[smallest] = name
            free.remove(smallest)
    return split


def reduced_formulas(structures: StructureSet) -> list[str]:
    """Composition of each structure by smallest whole numbers, such as ``8:3 26:2`` for Fe4O6."""
    return [_reduced_formula(structures.arrays(i)[0]) for i in range(len(structures))]


def _reduced_formula(numbers: np.ndarray) -> str:
    elements, counts = np.unique(numbers, return_counts=True)
    divisor = np.gcd.reduce(counts)
    return " ".join(f"{z}:{n // divisor}" for z, n in zip(elements.tolist(), counts.tolist(), strict=True))


def in_split(structures: StructureSet, rows: np.ndarray, split: str) -> np.ndarray:
    """Which of ``rows`` (of the set) belong to ``split``: (n,) bool. What carries no mark is trained on."""
    marks = structures.provenance.get(SPLIT)
    if marks is None:
        return np.full(len(rows), split == TRAIN)
    chosen = marks[rows]
    return np.where(chosen == "", TRAIN, chosen) == split


def training_rows(structures: StructureSet, rows: np.ndarray) -> np.ndarray:
    """Which of ``rows`` (of the set) are trained on: (n,) bool."""
    return in_split(structures, rows, TRAIN)
