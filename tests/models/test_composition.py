"""Compositions drawn one element after the other: what may be drawn, and what is learned."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtal.models.composition import Allowed, CompositionNetwork, composition_loss, draw_composition
from voxtal.units import ATOMIC_NUMBERS


def allowed(*numbers: int, exactly: bool = False, atoms: int = 8) -> Allowed:
    elements = torch.zeros(ATOMIC_NUMBERS, dtype=torch.bool)
    elements[list(numbers)] = True
    return Allowed(elements, exactly, tokens=4, atoms=atoms)


def untrained(seed: int = 0) -> CompositionNetwork:
    torch.manual_seed(seed)
    return CompositionNetwork(16, properties=1, atoms=6).eval()


def drawn(network: CompositionNetwork, what: Allowed, n: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.rand(n, 2 * what.tokens, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return draw_composition(network, torch.zeros(n, 2), what, chance)


@given(st.sets(st.integers(1, 100), min_size=1, max_size=6), st.integers(4, 12), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_only_what_is_allowed(elements: set[int], atoms: int, seed: int) -> None:
    """--elements, --exclude and --max-atoms: any other element or atom would be an attempt that is thrown away."""
    numbers, counts = drawn(untrained(seed), allowed(*elements, atoms=atoms), 16)
    assert set(numbers.unique().tolist()) - {0} <= elements
    assert bool(((counts > 0) == (numbers > 0)).all())
    assert int(counts.sum(1).max()) <= atoms
    assert int((numbers > 0).sum(1).min()) >= 1
    for row in numbers.tolist():
        there = [z for z in row if z]
        assert len(set(there)) == len(there)
        assert row == there + [0] * (len(row) - len(there))


def test_a_system_has_all_its_elements() -> None:
    """--system Co-Hf would give cobalt."""
    numbers, _ = drawn(untrained(), allowed(27, 72, exactly=True))
    assert all(sorted(row) == [0, 0, 27, 72] for row in numbers.tolist())


def test_an_attempt_does_not_depend_on_its_company() -> None:
    """Attempts would change with how many are asked for."""
    network, what = untrained(), allowed(27, 72, 8)
    chance = torch.rand(8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        together = draw_composition(network, torch.zeros(8, 2), what, chance)
        alone = draw_composition(network, torch.zeros(1, 2), what, chance[5:6])
    assert [part[5].tolist() for part in together] == [part[0].tolist() for part in alone]


@pytest.fixture(scope="module")
def taught() -> CompositionNetwork:
    """Shown TiO2, Ti2O3 and, twice as often as each of those, NaCl."""
    network = untrained().train()
    numbers = torch.tensor([[8, 22], [8, 22], [11, 17], [11, 17]]).repeat(16, 1)
    counts = torch.tensor([[2, 1], [3, 2], [1, 1], [1, 1]]).repeat(16, 1)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        draw = torch.rand(64, 4)
        composition_loss(network, numbers, counts, torch.zeros(64, 2), draw).backward()
        optimizer.step()
    return network.eval()


def test_compositions_come_as_often_as_they_were_seen(taught: CompositionNetwork) -> None:
    """The generator would make other chemistry than that of its data."""
    numbers, counts = drawn(taught, allowed(*range(1, 100)), 400)
    found: dict[str, int] = {}
    for z, n in zip(numbers.tolist(), counts.tolist(), strict=True):
        name = " ".join(f"{a}:{b}" for a, b in sorted(zip(z, n, strict=True)) if a)
        found[name] = found.get(name, 0) + 1
    assert found["11:1 17:1"] == pytest.approx(200, abs=45)
    assert found["8:2 22:1"] == pytest.approx(100, abs=40)
    assert found["8:3 22:2"] == pytest.approx(100, abs=40)
    assert sum(found.values()) - sum(sorted(found.values())[-3:]) < 12


def test_what_is_asked_for_is_a_choice_among_what_is_known(taught: CompositionNetwork) -> None:
    """With chlorine excluded there is still titanium oxide."""
    numbers, _ = drawn(taught, allowed(8, 11, 22), 200)
    with_oxygen = [sorted(row)[-2:] == [8, 22] for row in numbers.tolist()]
    assert sum(with_oxygen) > 80
