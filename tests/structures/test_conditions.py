"""Deciles and other conditions: from training structures alone, kept and read again."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from voxtal.structures.conditions import Condition, decile_of, deciles

RNG = np.random.default_rng(0)
VALUES = RNG.normal(-1, 0.7, 400)
TRAINING = np.arange(400) % 5 > 0


def test_deciles_never_see_held_out_rows() -> None:
    """Edges that move with held-out values tell the network of them."""
    edges = deciles(VALUES, TRAINING)
    other = np.where(TRAINING, VALUES, 1000 * RNG.normal(size=400))
    assert np.array_equal(deciles(other, TRAINING), edges)
    assert np.array_equal(deciles(np.where(TRAINING, VALUES, np.nan), np.flatnonzero(TRAINING)), edges)
    assert not np.array_equal(deciles(VALUES, np.ones(400, bool)), edges)


def test_deciles_are_those_of_the_published_code() -> None:
    """pandas' qcut: as many structures in each, values on an edge in the lower one."""
    for values in (VALUES, np.arange(100.0), np.round(VALUES, 1)):
        labels = pd.qcut(values, 10, labels=False)
        assert np.array_equal(decile_of(values, deciles(values, np.arange(len(values)))), labels)


def test_values_beyond_the_training_set() -> None:
    """A target that is asked for may be lower than all that is known."""
    edges = deciles(VALUES, TRAINING)
    assert decile_of(np.array([-50.0, 50.0]), edges).tolist() == [0, 9]
    with pytest.raises(AssertionError):
        decile_of(np.array([np.nan]), edges)


@pytest.mark.parametrize("continuous", [False, True])
def test_condition_of_several_properties(continuous: bool) -> None:
    """Two columns, one after the other; what is read back from a file, or made of its numbers, encodes alike."""
    gaps = np.abs(VALUES) * 2
    condition = Condition.of({"formation_energy": VALUES, "band_gap": gaps}, TRAINING, continuous)
    encoded = condition.encode({"band_gap": gaps, "formation_energy": VALUES})
    assert encoded.shape == (400, condition.width) == (400, 2 if continuous else 20)
    assert encoded.dtype == np.float32
    if continuous:
        assert encoded[TRAINING].mean(axis=0) == pytest.approx([0, 0], abs=1e-6)
        assert encoded[TRAINING].std(axis=0) == pytest.approx([1, 1], rel=1e-6)
    else:
        assert encoded[:, :10].argmax(axis=1).tolist() == decile_of(VALUES, deciles(VALUES, TRAINING)).tolist()
        assert (encoded.sum(axis=1) == 2).all()
    again = Condition.from_facts(json.loads(json.dumps(condition.facts())))
    assert np.array_equal(again.encode({"formation_energy": VALUES, "band_gap": gaps}), encoded)
    assert np.array_equal(condition.vectors(condition.numbers(encoded)), encoded)


def test_constant_property() -> None:
    """A column of one value divides by nothing."""
    condition = Condition.of({"year": np.full(30, 2020.0)}, np.arange(30), True)
    assert np.array_equal(condition.encode({"year": [2020.0]}), [[0.0]])
