"""Elements of a known arrangement: what may be drawn, and what is learned."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtal.models.elements import (
    Arrangement,
    ElementNetwork,
    bonded,
    draw_elements,
    elements_loss,
    pseudo_log_likelihood,
)
from voxtal.units import ATOMIC_NUMBERS


def untrained(seed: int = 0) -> ElementNetwork:
    torch.manual_seed(seed)
    return ElementNetwork(16, 2, atoms=4).eval()


def drawn(
    network: ElementNetwork,
    numbers: torch.Tensor,
    kept: torch.Tensor,
    allowed: set[int],
    avoided: torch.Tensor | None = None,
    seed: int = 0,
) -> torch.Tensor:
    n, tokens = numbers.shape
    pairs = torch.rand(n, tokens, tokens, 2, generator=torch.Generator().manual_seed(9))
    may = torch.zeros(ATOMIC_NUMBERS, dtype=torch.bool)
    may[list(allowed)] = True
    chance = torch.rand(n, 2 * tokens, generator=torch.Generator().manual_seed(seed))
    arrangement = Arrangement((numbers > 0).long(), pairs)
    return draw_elements(network, numbers, numbers if avoided is None else avoided, kept, arrangement, may, chance)


@given(st.sets(st.integers(1, 100), min_size=3, max_size=8), st.integers(0, 5), st.integers(0, 7))
@settings(max_examples=25, deadline=None)
def test_only_what_is_allowed_and_nothing_twice(allowed: set[int], seed: int, bits: int) -> None:
    """--elements and --exclude; an element drawn twice would make another crystal of the arrangement."""
    numbers = torch.tensor([[29, 79, 8], [11, 17, 0], [3, 0, 0], [8, 22, 26]])
    kept = (torch.tensor([bits & 1, bits & 2, bits & 4]) > 0) & (numbers > 0)
    kept &= torch.tensor([[int(z) in allowed for z in row] for row in numbers])
    new = drawn(untrained(), numbers, kept, allowed, seed=seed)
    assert bool((new[kept] == numbers[kept]).all())
    assert bool(((new > 0) == (numbers > 0)).all())
    for row, stays in zip(new.tolist(), kept.tolist(), strict=True):
        there = [z for z in row if z]
        assert len(set(there)) == len(there)
        assert {z for z, stay in zip(row, stays, strict=True) if z and not stay} <= allowed


def test_the_old_element_comes_back_only_where_nothing_else_is_left() -> None:
    """Attempts would be the known crystals again."""
    numbers, none = torch.tensor([[29, 79]] * 32), torch.zeros(32, 2, dtype=torch.bool)
    assert not bool(torch.isin(drawn(untrained(), numbers, none, {27, 28, 29, 79}), numbers).any())
    only = drawn(untrained(), numbers, none, {29, 79})
    assert all(sorted(row) == [29, 79] for row in only.tolist())
    anew = drawn(untrained(), numbers, none, {27, 28, 29, 79}, avoided=torch.zeros_like(numbers))
    assert bool(torch.isin(anew, numbers).any())


def test_the_order_and_the_company_of_elements_do_not_matter() -> None:
    """An attempt would change with how many elements others of its block have."""
    network = untrained()
    pairs = torch.rand(1, 2, 2, 2)
    numbers, counts = torch.tensor([[29, 0]]), torch.tensor([[1, 3]])
    found = network.element_logits(numbers, Arrangement(counts, pairs))
    turned = network.element_logits(numbers.flip(1), Arrangement(counts.flip(1), pairs.flip(1, 2)))
    torch.testing.assert_close(turned.flip(1), found)
    wide = torch.zeros(1, 3, 3, 2)
    wide[:, :2, :2] = pairs
    padded = Arrangement(torch.tensor([[1, 3, 0]]), wide)
    torch.testing.assert_close(network.element_logits(torch.tensor([[29, 0, 0]]), padded)[:, :2], found)


@pytest.fixture(scope="module")
def taught() -> tuple[ElementNetwork, Arrangement]:
    """Shown two arrangements: one of alkali halides, of 20 to 40 A^3 an atom, the other of CuAu alone, of 14."""
    network = untrained().train()
    numbers = torch.tensor([[11, 17], [19, 17], [19, 35], [29, 79]])
    pairs = torch.zeros(4, 2, 2, 2)
    pairs[3] = 2.0
    pairs[:, 0, 0] += 1.5  # the metal's atoms are further apart
    arrangement = Arrangement(torch.ones(4, 2, dtype=torch.int64), pairs)
    volumes = torch.tensor([22.0, 30.0, 36.0, 14.0])
    often = Arrangement(arrangement.counts.repeat(8, 1), pairs.repeat(8, 1, 1, 1))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        elements, volume = elements_loss(network, numbers.repeat(8, 1), often, volumes.repeat(8), torch.rand(32, 3))
        (elements + volume).backward()
        optimizer.step()
    return network.eval(), arrangement


def test_elements_fit_the_arrangement(taught: tuple[ElementNetwork, Arrangement]) -> None:
    """Otherwise new elements are any elements, and what they make is not stable."""
    network, arrangement = taught
    likely = network.element_logits(torch.zeros(4, 2, dtype=torch.int64), arrangement).softmax(2).detach()
    assert float(likely[0, 0, [11, 19]].sum()) > 0.75
    assert float(likely[3, 1, 79]) > 0.75
    bromide = network.element_logits(torch.tensor([[0, 35]] * 4), arrangement).softmax(2).detach()
    assert float(bromide[0, 0, 19]) > 0.6


def test_size_follows_from_the_elements(taught: tuple[ElementNetwork, Arrangement]) -> None:
    """Bromine in the place of chlorine takes more room."""
    network, arrangement = taught
    volumes = network.log_volume(torch.tensor([[11, 17], [19, 17], [19, 35], [29, 79]]), arrangement).exp()
    torch.testing.assert_close(volumes, torch.tensor([22.0, 30.0, 36.0, 14.0]), rtol=0.1, atol=0.0)


def test_what_goes_together_is_likelier(taught: tuple[ElementNetwork, Arrangement]) -> None:
    """The best of some proposals would be any of them."""
    network, arrangement = taught
    one = Arrangement(arrangement.counts[:1].repeat(3, 1), arrangement.pairs[:1].repeat(3, 1, 1, 1))
    score = pseudo_log_likelihood(network, torch.tensor([[19, 17], [17, 19], [29, 79]]), one)
    assert int(score.argmax()) == 0
    alone = Arrangement(torch.tensor([[2, 0]]), torch.rand(1, 2, 2, 2))
    logs = network.element_logits(torch.zeros(1, 2, dtype=torch.int64), alone)[0, 0].log_softmax(0)
    torch.testing.assert_close(pseudo_log_likelihood(network, torch.tensor([[29, 0]]), alone)[0], logs[29])


def test_bonded_groups_are_told_from_the_rest() -> None:
    """Carbon and oxygen of a carbonate would be exchanged one by one; padding would count as a bond."""
    pairs = torch.full((1, 4, 4, 2), 0.9)
    pairs[0, 0, 1] = pairs[0, 1, 0] = 0.55
    pairs[0, 3] = pairs[0, :, 3] = 0.0
    assert bonded(Arrangement(torch.tensor([[2, 6, 2, 0]]), pairs), 0.6).tolist() == [[True, True, False, False]]
