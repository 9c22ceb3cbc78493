"""The layout of the crystal graph."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtal.representations.crystal_graph import PAPER_ELEMENTS, GraphLayout

LAYOUTS = st.builds(
    GraphLayout,
    elements=st.sets(st.integers(1, 118), min_size=1, max_size=8).map(lambda z: tuple(sorted(z))),
    lattice_latent=st.integers(1, 40),
    sites_latent=st.integers(1, 60),
)


@given(layout=LAYOUTS, n=st.integers(0, 3), seed=st.integers(0, 100))
def test_codes_come_back_from_the_image(layout: GraphLayout, n: int, seed: int) -> None:
    """A code that overlaps another or runs over the edge of the image."""
    random = np.random.default_rng(seed)
    lattice = random.uniform(-1, 1, (n, layout.lattice_latent)).astype(np.float32)
    sites = random.uniform(-1, 1, (n, len(layout.elements), layout.sites_latent)).astype(np.float32)
    graphs = layout.pack(lattice, sites)
    assert graphs.shape == (n, layout.side, layout.side)
    assert graphs.dtype == np.float32
    again = layout.unpack(graphs)
    assert np.array_equal(again[0], lattice)
    assert np.array_equal(again[1], sites)
    assert np.count_nonzero(graphs) == np.count_nonzero(lattice) + np.count_nonzero(sites)


def test_published_layout() -> None:
    """160 x 160: row 0 for the lattice, element j's component k at flat position 200 j + k from row 1 on."""
    layout = GraphLayout(PAPER_ELEMENTS, 25, 200)
    assert layout.side == 160
    cobalt = PAPER_ELEMENTS.index(27)
    lattice = np.arange(1, 26, dtype=np.float32)[None]
    sites = np.zeros((1, 118, 200), dtype=np.float32)
    sites[0, cobalt] = 100 + np.arange(200)
    (graph,) = layout.pack(lattice, sites)
    assert graph[0, :25].tolist() == list(range(1, 26))
    assert not graph[0, 25:].any()
    for k in (0, 57, 199):
        row, column = divmod(200 * cobalt + k, 160)
        assert graph[1 + row, column] == 100 + k
    assert np.count_nonzero(graph) == 25 + 200
    assert 118 * 200 <= 159 * 160


def test_strength_is_the_root_mean_square_of_each_code() -> None:
    """What presence is decided by; the lattice code and other elements must not leak into it."""
    layout = GraphLayout((27, 72), 3, 4)
    sites = np.array([[[0.5, -0.5, 0.5, -0.5], [0, 0, 0, 0]], [[0, 0, 0, 0], [1, 0, 0, 0]]], dtype=np.float32)
    strength = layout.strength(layout.pack(np.ones((2, 3), np.float32), sites))
    assert strength.tolist() == [[0.5, 0.0], [0.0, 0.5]]


@pytest.mark.parametrize(("elements", "latent", "side"), [(1, 200, 16), (2, 200, 32), (118, 200, 160), (84, 200, 160)])
def test_side_is_the_smallest_that_fits(elements: int, latent: int, side: int) -> None:
    """A generator reaches only some sides, and every unused pixel is one more to get wrong."""
    assert GraphLayout(tuple(range(1, elements + 1)), 16, latent).side == side


def test_too_many_codes_are_refused() -> None:
    """Codes that fit no image, instead of half of them."""
    with pytest.raises(ValueError, match="fit no crystal graph"):
        _ = GraphLayout(PAPER_ELEMENTS, 25, 2000).side
