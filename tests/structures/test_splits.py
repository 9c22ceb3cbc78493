"""Splits of a set into training, validation and held-out structures."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtal.structures.splits import (
    HELDOUT,
    TRAIN,
    VALIDATION,
    in_split,
    reduced_formulas,
    split_of_groups,
    with_split,
)
from voxtal.structures.structure_set import SPLIT, StructureSet


def marks(structures: StructureSet, by: Any, seed: int = 0, heldout: float = 0.1, validation: float = 0.1) -> Any:
    split = with_split(structures, by, heldout, validation, seed).provenance[SPLIT]
    return dict(zip(structures.ids.tolist(), split.tolist(), strict=True))


def test_compositions_of_real_structures_are_on_one_side(real_set: StructureSet) -> None:
    """Held-out compositions that were trained on; shares that are not met; a split that depends on the order."""
    found = marks(real_set, "composition")
    formulas = dict(zip(real_set.ids.tolist(), reduced_formulas(real_set), strict=True))
    sides: dict[str, set[str]] = {}
    for id_, split in found.items():
        sides.setdefault(formulas[id_], set()).add(split)
    assert all(len(side) == 1 for side in sides.values())
    shares = Counter(found.values())
    assert shares[HELDOUT] == pytest.approx(0.1 * len(real_set), abs=1)
    assert shares[VALIDATION] == pytest.approx(0.1 * len(real_set), abs=1)
    backwards = real_set.subset(np.arange(len(real_set))[::-1])
    assert marks(backwards, "composition") == found
    assert marks(real_set, "composition", seed=1) != found


@pytest.mark.parametrize(("fraction", "heldout"), [(0.0, 0), (0.1, 2), (0.5, 12)])
def test_random_split(fraction: float, heldout: int, copper_gold: list[Any]) -> None:
    """Another share than was asked for, or another split for the same seed."""
    structures = StructureSet.from_structures(copper_gold, [f"s{i}" for i in range(len(copper_gold))])
    found = marks(structures, "random", heldout=fraction, validation=0.0)
    assert Counter(found.values())[HELDOUT] == heldout
    assert marks(structures.subset(np.arange(24)[::-1]), "random", heldout=fraction, validation=0.0) == found
    if heldout:
        assert marks(structures, "random", 1, fraction, 0.0) != found


def test_reduced_formulas(copper_gold: list[Any]) -> None:
    """Supercells and other orders of sites are the same composition."""
    cu3au = copper_gold[-3]
    shuffled = (cu3au * (1, 1, 2)).copy()
    shuffled.sort()
    found = reduced_formulas(StructureSet.from_structures([cu3au, shuffled, copper_gold[-1]], ["a", "b", "c"]))
    assert found == ["29:3 79:1", "29:3 79:1", "29:1 79:1"]


@given(
    sizes=st.dictionaries(st.text(max_size=4), st.integers(1, 50), min_size=1, max_size=30),
    heldout=st.floats(0, 0.6),
    validation=st.floats(0, 0.39),
    seed=st.integers(0, 5),
)
def test_shares_of_any_groups(sizes: dict[str, int], heldout: float, validation: float, seed: int) -> None:
    """An empty training set, or a share that one more group would bring closer (but for the last one)."""
    split = split_of_groups(sizes, {HELDOUT: heldout, VALIDATION: validation}, seed)
    assert TRAIN in split.values()
    left = dict(sizes)
    for name, fraction in ((HELDOUT, heldout), (VALIDATION, validation)):
        missing = fraction * sum(sizes.values()) - sum(sizes[group] for group in sizes if split[group] == name)
        left = {group: size for group, size in left.items() if split[group] != name}
        assert sum(abs(missing - size) < abs(missing) - 1e-6 for size in left.values()) <= 1


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([5], 0), ([5, 5], 0), ([1, 30], 1), ([4, 26], 4), ([9, 21], 0), ([2, 2, 2, 2, 2, 20], 2)],
)
def test_few_compositions(sizes: list[int], expected: int) -> None:
    """A set of one, two or three formulas: no half of it is held out where a tenth was asked for."""
    groups = {f"g{i}": size for i, size in enumerate(sizes)}
    for seed in range(5):
        split = split_of_groups(groups, {HELDOUT: 0.1}, seed)
        taken = sum(groups[group] for group, name in split.items() if name == HELDOUT)
        assert taken in (0, expected)


def test_rows_of_a_split(copper_gold: list[Any]) -> None:
    """Sets of old runs have no validation rows; what a round adds, or an import, has no mark or ``train``."""
    structures = StructureSet.from_structures(copper_gold[:4], ["a", "b", "c", "d"])
    rows = np.array([3, 1])
    assert in_split(structures, rows, TRAIN).tolist() == [True, True]
    assert in_split(structures, rows, HELDOUT).tolist() == [False, False]
    marked = structures.with_columns(provenance={SPLIT: ["train", "heldout", "validation", ""]})
    assert in_split(marked, rows, TRAIN).tolist() == [True, False]
    assert in_split(marked, np.arange(4), HELDOUT).tolist() == [False, True, False, False]
    assert in_split(marked, np.arange(4), VALIDATION).tolist() == [False, False, True, False]
