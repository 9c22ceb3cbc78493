"""StructureSet: what is written is what is read."""

from __future__ import annotations

import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from voxtal.errors import UserError
from voxtal.structures.structure_set import FORMATION_ENERGY, SOURCE, StructureSet


@st.composite
def structure_sets(draw: st.DrawFn) -> StructureSet:
    """Up to five structures of up to four atoms with a property and a text."""
    structures = []
    for _ in range(draw(st.integers(0, 5))):
        numbers = draw(st.lists(st.integers(1, 94), min_size=1, max_size=4))
        edge = draw(st.floats(2, 12))
        sites = draw(st.lists(st.floats(0, 0.999), min_size=3 * len(numbers), max_size=3 * len(numbers)))
        structures.append(Structure(Lattice.cubic(edge), numbers, np.reshape(sites, (-1, 3))))
    n = len(structures)
    energies = draw(st.lists(st.floats(-5, 5) | st.just(float("nan")), min_size=n, max_size=n))
    sources = draw(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=n, max_size=n))
    return StructureSet.from_structures(
        structures, [f"s{i}" for i in range(n)], {FORMATION_ENERGY: energies}, {SOURCE: sources}
    )  # fmt: skip


def assert_equal(a: StructureSet, b: StructureSet) -> None:
    for name in ("ids", "offsets", "numbers", "frac_coords", "cells"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert a.properties.keys() == b.properties.keys()
    assert a.provenance.keys() == b.provenance.keys()
    for name, column in a.properties.items():
        assert np.array_equal(column, b.properties[name], equal_nan=True)
    for name, text in a.provenance.items():
        assert text.tolist() == b.provenance[name].tolist()


@given(structure_sets())
def test_round_trip(structures: StructureSet) -> None:
    """A set that changes on disk would change every later stage."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.h5"
        structures.write(path)
        assert_equal(StructureSet.read(path), structures)


@given(structure_sets(), structure_sets())
def test_concatenate_and_subset_undo_each_other(a: StructureSet, b: StructureSet) -> None:
    """Round n + 1 is round n and the candidates; neither may shift the other's atoms."""
    both = StructureSet.concatenate([a, b])
    assert_equal(both.subset(range(len(a))), a)
    assert_equal(both.subset(range(len(a), len(both))), b)


def test_files_that_are_none(tmp_path: Path) -> None:
    """A wrong file is told by name, never a traceback."""
    (tmp_path / "text.h5").write_text("no")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    for name, message in [
        ("missing.h5", "No structure set"),
        ("text.h5", "cannot be read"),
        ("other.h5", "schema"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            StructureSet.read(tmp_path / name)
        assert name in str(caught.value)
