"""Which elements a crystal holds and how many atoms of each: drawn one after the other, in no given order.

Elements first, until the network says that there are enough; then the number of atoms of each, which sees all
elements and the numbers drawn so far. What is asked for is a mask on what may be drawn next.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxtal.models.drawing import chosen, random_rank
from voxtal.models.tokens import ElementEmbedding
from voxtal.units import ATOMIC_NUMBERS


@dataclass(frozen=True)
class Allowed:
    """What may be drawn.

    Attributes
    ----------
    elements
        (119,) which elements may be drawn.
    exactly
        Whether all of them have to be there.
    tokens
        Most elements of a crystal.
    atoms
        Most atoms of a crystal.
    """

    elements: Tensor
    exactly: bool
    tokens: int
    atoms: int


class CompositionNetwork(nn.Module):
    """Sums over what has been drawn, so that the order does not matter, and dense layers on the sum.

    Parameters
    ----------
    properties
        How many of them a condition has.
    atoms
        Most atoms of one element.
    """

    def __init__(self, width: int, properties: int, atoms: int) -> None:
        super().__init__()
        self.atoms = atoms
        self.element = ElementEmbedding(width)
        self.count = nn.Embedding(atoms + 1, width)
        self.condition = nn.Linear(2 * properties, width)
        self.each = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.next_element = _head(width, width, ATOMIC_NUMBERS)
        self.next_count = _head(3 * width, width, atoms + 1)

    def element_logits(self, numbers: Tensor, condition: Tensor) -> Tensor:
        """Logits (batch, 119) of the element that comes next; 0 is the end.

        Parameters
        ----------
        numbers
            (batch, tokens) atomic numbers drawn so far, 0 where there is none.
        condition
            (batch, 2 x properties).
        """
        return self.next_element(self._sum(numbers, torch.zeros_like(numbers), condition))

    def count_logits(self, numbers: Tensor, counts: Tensor, place: Tensor, condition: Tensor) -> Tensor:
        """Logits (batch, atoms + 1) of how many atoms of the element at ``place`` (batch,) there are.

        ``counts`` (batch, tokens) are 0 where they have not been drawn.
        """
        drawn = self._sum(numbers, counts, condition)
        own = self.element(numbers.gather(1, place[:, None])[:, 0])
        total = self.count(counts.sum(1).clamp_max(self.atoms))
        return self.next_count(torch.cat([drawn, own, total], dim=1))

    def _sum(self, numbers: Tensor, counts: Tensor, condition: Tensor) -> Tensor:
        each = self.each(self.element(numbers) + self.count(counts)) * (numbers > 0)[..., None]
        return each.sum(1) + self.condition(condition)


def composition_loss(
    network: CompositionNetwork, numbers: Tensor, counts: Tensor, condition: Tensor, draw: Tensor
) -> Tensor:
    """Cross-entropies of one draw of an element and one of a count, each after a random part of the others.

    Parameters
    ----------
    numbers, counts
        (batch, tokens) of real crystals, 0 where there is no token.
    draw
        (batch, tokens + 2) uniform in [0, 1): a random order, and how much of it has been drawn.
    """
    there = numbers > 0
    n = there.sum(1)
    order = random_rank(draw[:, :-2], there)
    kept = (draw[:, -2] * (n + 1)).long()
    before = order < kept[:, None]
    elements = network.element_logits(numbers * before, condition).log_softmax(1)
    remaining = there & ~before
    target = torch.zeros_like(elements).scatter_add(1, numbers, remaining.to(elements.dtype))
    target[:, 0] = (kept == n).to(elements.dtype)
    target = target / target.sum(1, keepdim=True)
    kept = (draw[:, -1] * n).long()
    place = (order == kept[:, None]).long().argmax(1)
    logits = network.count_logits(numbers, counts * (order < kept[:, None]), place, condition)
    wanted = counts.gather(1, place[:, None])[:, 0]
    # every draw of a crystal counts: one of n + 1, and one of n
    return ((n + 1) * -(target * elements).sum(1) + n * F.cross_entropy(logits, wanted, reduction="none")).mean()


def draw_composition(
    network: CompositionNetwork, condition: Tensor, allowed: Allowed, chance: Tensor
) -> tuple[Tensor, Tensor]:
    """Atomic numbers and counts (batch, tokens), 0 where there is no token.

    Parameters
    ----------
    condition
        (batch, 2 x properties).
    chance
        (batch, 2 x tokens) uniform in [0, 1): what each draw is decided by.
    """
    batch, tokens = len(condition), allowed.tokens
    numbers = torch.zeros(batch, tokens, dtype=torch.int64, device=condition.device)
    for i in range(tokens):
        logits = network.element_logits(numbers, condition)
        numbers[:, i] = chosen(logits.masked_fill(~_may_follow(numbers, i, allowed), -torch.inf), chance[:, i])
        numbers[:, i] *= (numbers[:, i - 1] > 0) if i else 1
    counts = torch.zeros_like(numbers)
    sizes = torch.arange(network.atoms + 1, device=numbers.device)
    n = (numbers > 0).sum(1)
    for i in range(tokens):
        place = torch.full((batch,), i, device=numbers.device)
        logits = network.count_logits(numbers, counts, place, condition)
        left = allowed.atoms - counts.sum(1) - (n - 1 - i).clamp_min(0)  # one atom at least for each that comes
        possible = (sizes > 0) & (sizes <= left.clamp_min(1)[:, None])
        counts[:, i] = chosen(logits.masked_fill(~possible, -torch.inf), chance[:, tokens + i]) * (numbers[:, i] > 0)
    return numbers, counts


def _may_follow(numbers: Tensor, drawn: int, allowed: Allowed) -> Tensor:
    """(batch, 119) which choices there are after ``numbers`` (batch, tokens), of which ``drawn`` have been drawn."""
    may = allowed.elements[None].repeat(len(numbers), 1)
    may.scatter_(1, numbers, False)
    must = may.any(1) & (allowed.exactly or drawn == 0)
    may[:, 0] = ~must
    return may


def _head(inner: int, width: int, outer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(inner),
        nn.Linear(inner, width),
        nn.SiLU(),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.Linear(width, outer),
    )
