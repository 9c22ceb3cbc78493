"""Which codes of a crystal graph are decoded: those that the generator drew, as far as they are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from voxtal.generation.codes import MAX_ELEMENTS, Codes, codes_of_graphs, graphs_of_codes
from voxtal.generation.request import Request, request_of
from voxtal.representations.crystal_graph import GraphLayout

LAYOUT = GraphLayout((8, 27, 72), lattice_latent=2, sites_latent=4)
STRENGTHS = np.array([[0.9, 0, 0.5], [0, 0.1, 0.8], [0.1, 0.1, 0.1]])
"""Of O, Co and Hf in three attempts: Hf-O, Hf, nothing."""


def codes(request: Request, strengths: np.ndarray = STRENGTHS, layout: GraphLayout = LAYOUT) -> Codes:
    graphs = layout.pack(np.ones((len(strengths), 2)), np.repeat(strengths[:, :, None], 4, axis=2))
    return codes_of_graphs(graphs, layout, 0.3, request)


@pytest.mark.parametrize(
    ("request_", "decoded", "reasons"),
    [
        (request_of(), [(0, 8), (0, 72), (1, 72)], ["", "", "no elements"]),
        (request_of(system="Co-Hf"), [(i, z) for i in range(3) for z in (27, 72)], ["", "", ""]),
        (request_of(elements="O,Co"), [(0, 8)], ["", "none of the elements asked for", "no elements"]),
        (request_of(exclude="Hf"), [(0, 8)], ["", "none of the elements asked for", "no elements"]),
        (request_of(elements="O,Hf", exclude="Co"), [(0, 8), (0, 72), (1, 72)], ["", "", "no elements"]),
    ],
)
def test_what_is_decoded(request_: Request, decoded: list[tuple[int, int]], reasons: list[str]) -> None:
    """An element that was excluded, or one that no attempt holds, would be in the candidates."""
    found = codes(request_)
    assert list(zip(found.owner.tolist(), found.numbers.tolist(), strict=True)) == decoded
    assert found.reasons.tolist() == reasons
    assert found.drawn.tolist() == ["Hf-O", "Hf", ""]
    of_attempt = STRENGTHS[found.owner, np.searchsorted(LAYOUT.elements, found.numbers)]
    assert np.allclose(found.sites, of_attempt[:, None])


def test_everything_at_once_is_no_structure() -> None:
    """A generator that has learned nothing draws every element: eighty-nine images an attempt would be decoded."""
    layout = GraphLayout(tuple(range(1, MAX_ELEMENTS + 2)), lattice_latent=2, sites_latent=4)
    found = codes(Request(), np.ones((2, len(layout.elements))) * [[1], [0.2]], layout)
    assert found.reasons.tolist() == ["more than 10 elements", "no elements"]
    assert len(found.owner) == 0


def test_graphs_hold_what_is_decoded_and_nothing_else() -> None:
    """The energy of a graph with elements that were left out would be another compound's."""
    oxygen = codes(request_of(elements="O"))
    again = codes_of_graphs(graphs_of_codes(oxygen, LAYOUT), LAYOUT, 0.01)
    assert again.drawn.tolist() == ["O", "", ""]
    assert np.array_equal(again.sites, oxygen.sites)
    assert np.array_equal(again.lattice, oxygen.lattice)
