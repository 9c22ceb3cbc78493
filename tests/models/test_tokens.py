"""Crystal graphs as tokens, and the network over them."""

from __future__ import annotations

import numpy as np
import torch

from voxtal.models.constraint import token_constraint
from voxtal.models.tokens import MAX_ELEMENTS, ElementEmbedding, GraphTokens, TokenNetwork, Tokens
from voxtal.representations.crystal_graph import GraphLayout

ELEMENTS = (3, 8, 26, 27, 29, 47, 57, 72, 79, 92)
LAYOUT = GraphLayout(ELEMENTS, lattice_latent=5, sites_latent=7)


def graphs_of(present: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Graphs with these places of :data:`ELEMENTS` filled, and their codes (n, elements, 7)."""
    rng = np.random.default_rng(0)
    codes = np.zeros((len(present), len(ELEMENTS), 7), dtype=np.float32)
    for i, places in enumerate(present):
        codes[i, places] = rng.uniform(0.3, 1, (len(places), 7))
    return LAYOUT.pack(rng.uniform(-1, 1, (len(present), 5)).astype(np.float32), codes), codes


def test_tokens_are_what_the_graph_holds() -> None:
    """The code of one element under another's number, or an absent one among them."""
    present = [[1, 3], [9], [], list(range(10))]
    graphs, codes = graphs_of(present)
    tokens = GraphTokens(ELEMENTS, 5, 7, threshold=0.1)(torch.from_numpy(graphs))
    assert np.array_equal(tokens.lattice.numpy(), graphs[:, 0, :5])
    for i, places in enumerate(present):
        found = {
            int(z): code
            for z, code, there in zip(tokens.numbers[i], tokens.codes[i].numpy(), tokens.there[i], strict=True)
            if there
        }
        assert len(found) == min(len(places), MAX_ELEMENTS)
        for z, code in found.items():
            assert np.array_equal(code, codes[i, ELEMENTS.index(z)])
        assert not tokens.codes[i][~tokens.there[i]].any()
        assert not tokens.numbers[i][~tokens.there[i]].any()


def test_gradients_reach_the_codes_that_are_there() -> None:
    """A generator that a constraint cannot teach."""
    graphs, codes = graphs_of([[1, 3], [4]])
    given = torch.from_numpy(graphs).requires_grad_()
    token_constraint(ELEMENTS, 5, 7, 0.1, width=8).eval()(given).sum().backward()
    assert given.grad is not None
    lattice, sites = LAYOUT.unpack(given.grad.numpy())
    assert (np.abs(lattice) > 0).all()
    assert np.array_equal(np.abs(sites).max(axis=2) > 0, np.abs(codes).max(axis=2) > 0)


def test_order_and_absent_tokens_do_not_matter() -> None:
    """What is predicted of a crystal would depend on how many elements others in the data have."""
    torch.manual_seed(0)
    network = TokenNetwork(5, 7, width=8, layers=2, outputs=1).eval()
    tokens = GraphTokens(ELEMENTS, 5, 7, threshold=0.1)(torch.from_numpy(graphs_of([[1, 3, 6]])[0]))
    shuffled = torch.tensor([2, 0, 1])
    few = Tokens(
        tokens.lattice, tokens.codes[:, shuffled], tokens.numbers[:, shuffled], torch.ones(1, 3, dtype=torch.bool)
    )
    assert tokens.codes.shape[1] == MAX_ELEMENTS
    assert torch.allclose(network(tokens), network(few), atol=1e-5)


def test_every_element_has_a_place_in_the_table() -> None:
    """An element whose radius nobody has tabulated would make every prediction NaN."""
    embedding = ElementEmbedding(4)
    assert torch.isfinite(embedding(torch.arange(119))).all()
    table = embedding.table
    assert torch.equal(table[0], torch.zeros(table.shape[1]))
    between = (table[27] - table[26]).norm()  # cobalt is nearer to iron than to fluorine
    assert between < (table[27] - table[9]).norm()
