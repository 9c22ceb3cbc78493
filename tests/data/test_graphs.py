"""``graphs.h5``."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from voxtal.data.graphs import GraphSet
from voxtal.errors import UserError
from voxtal.representations.crystal_graph import GraphLayout


@pytest.fixture
def graphs() -> GraphSet:
    layout = GraphLayout((27, 72), 5, 7)
    images = np.random.default_rng(0).random((3, layout.side, layout.side), dtype=np.float32)
    return GraphSet(layout, np.array([0, 2, 5]), images, 0.25, "a1b2")


def test_graphs_come_back(graphs: GraphSet, tmp_path: Path) -> None:
    """A layout that is lost makes every graph of the round undecodable."""
    graphs.write(tmp_path / "graphs.h5")
    again = GraphSet.read(tmp_path / "graphs.h5")
    assert again.layout == graphs.layout
    assert (again.presence_threshold, again.fingerprint) == (0.25, "a1b2")
    assert np.array_equal(again.rows, graphs.rows)
    assert np.array_equal(again.graphs, graphs.graphs)


def test_missing_graphs_say_what_makes_them(tmp_path: Path) -> None:
    """A user who generates before encoding."""
    with pytest.raises(UserError, match="voxtal encode"):
        GraphSet.read(tmp_path / "graphs.h5")


@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_damaged_graphs_are_refused(keep: int, graphs: GraphSet, tmp_path: Path) -> None:
    """A file that was cut short."""
    path = tmp_path / "graphs.h5"
    graphs.write(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"graphs\.h5"):
        GraphSet.read(path)


def test_other_hdf5_is_refused(tmp_path: Path) -> None:
    """A structure set in the graphs' place."""
    with h5py.File(tmp_path / "graphs.h5", "w") as file:
        file.attrs["schema"] = "something else"
    with pytest.raises(UserError, match="does not hold crystal graphs"):
        GraphSet.read(tmp_path / "graphs.h5")
