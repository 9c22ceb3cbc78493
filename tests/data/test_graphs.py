"""``graphs.h5``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest

from voxtal.data.graphs import GraphSet, joined
from voxtal.errors import UserError
from voxtal.representations.crystal_graph import GraphLayout


@pytest.fixture
def graphs() -> GraphSet:
    rng = np.random.default_rng(0)
    lattice, sites = (rng.random(shape, dtype=np.float32) for shape in ((3, 5), (4, 7)))
    numbers = np.array([72, 27, 72, 27], dtype=np.uint8)
    layout = GraphLayout((27, 72), 5, 7)
    return GraphSet(layout, np.array([0, 2, 5]), lattice, np.array([0, 1, 3, 4]), numbers, sites, 0.25, (72,), "a1b2")


def test_graphs_come_back(graphs: GraphSet, tmp_path: Path) -> None:
    """A layout that is lost makes every graph of the round undecodable."""
    graphs.write(tmp_path / "graphs.h5")
    again = GraphSet.read(tmp_path / "graphs.h5")
    assert again.layout == graphs.layout
    assert (again.presence_threshold, again.separated, again.fingerprint) == (0.25, (72,), "a1b2")
    for name in ("rows", "lattice", "offsets", "numbers", "sites"):
        assert np.array_equal(getattr(again, name), getattr(graphs, name)), name


def test_graphs_hold_the_codes_of_their_own_structure(graphs: GraphSet) -> None:
    """A code at another element's place, or in another structure's graph, decodes to a crystal that never was."""
    lattice, sites = graphs.layout.unpack(graphs.dense())
    assert np.array_equal(lattice, graphs.lattice)
    wanted = np.zeros((3, 2, 7), dtype=np.float32)
    wanted[[0, 1, 1, 2], [1, 0, 1, 0]] = graphs.sites
    assert np.array_equal(sites, wanted)
    for which in (np.array([2, 0]), np.array([True, False, True]), slice(1, 3), np.array([], dtype=np.int64)):
        assert np.array_equal(graphs.dense(which), graphs.dense()[which])


def test_the_first_graphs_can_be_read_alone(graphs: GraphSet, tmp_path: Path) -> None:
    """What decodes attempts needs the layout only, and would read all codes for it."""
    graphs.write(tmp_path / "graphs.h5")
    assert len(GraphSet.read(tmp_path / "graphs.h5", stop=0).sites) == 0
    assert np.array_equal(GraphSet.read(tmp_path / "graphs.h5", stop=2).dense(), graphs.dense(slice(2)))


def test_parts_make_the_whole(graphs: GraphSet, tmp_path: Path) -> None:
    """Blocks that different ranks made would be joined to other graphs, or to other bytes."""
    one = dataclasses.replace(
        graphs,
        rows=graphs.rows[:1],
        lattice=graphs.lattice[:1],
        offsets=graphs.offsets[:2],
        numbers=graphs.numbers[:1],
        sites=graphs.sites[:1],
        presence_threshold=0.5,
    )
    others = dataclasses.replace(
        graphs,
        rows=graphs.rows[1:],
        lattice=graphs.lattice[1:],
        offsets=graphs.offsets[1:] - 1,
        numbers=graphs.numbers[1:],
        sites=graphs.sites[1:],
    )
    graphs.write(tmp_path / "whole.h5")
    joined([one, others]).write(tmp_path / "joined.h5")
    assert (tmp_path / "joined.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


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
    """Graphs as an earlier version wrote them, or a structure set in their place."""
    with h5py.File(tmp_path / "graphs.h5", "w") as file:
        file.attrs["schema"] = "voxtal-crystal-graphs-1"
    with pytest.raises(UserError, match=r"does not hold crystal graphs.*voxtal encode"):
        GraphSet.read(tmp_path / "graphs.h5")
