"""Which elements fit a known arrangement of atoms, and how large it is with them.

Trained like a language model with masks: some elements of real crystals are hidden, and the network tells them from the
others, from how many atoms there are of each, and from how the elements stand to each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxtal.models.drawing import chosen, random_order, random_rank
from voxtal.models.tokens import ElementEmbedding
from voxtal.structures.environments import FEATURES
from voxtal.units import ATOMIC_NUMBERS

HIDDEN = 0
"""Takes the place of the atomic number of an element that is to be drawn."""

_VOLUME_DEVIATION = 0.1
"""Of log volumes, by which their error is divided in the loss: 10%."""


@dataclass(frozen=True)
class Arrangement:
    """Crystals without regard to what their elements are.

    Attributes
    ----------
    counts
        (batch, tokens) atoms of each element; 0 where there is no token.
    pairs
        (batch, tokens, tokens, 2) as :func:`~voxtal.structures.environments.environments` has them.
    """

    counts: Tensor
    pairs: Tensor

    @property
    def there(self) -> Tensor:
        """(batch, tokens) which tokens there are."""
        return self.counts > 0


class ElementNetwork(nn.Module):
    """Messages between the elements of a crystal.

    Parameters
    ----------
    atoms
        Most atoms of one element.
    """

    volume_mean: Tensor

    def __init__(self, width: int, layers: int, atoms: int) -> None:
        super().__init__()
        self.element = ElementEmbedding(width)
        self.hidden = nn.Parameter(torch.zeros(width))
        self.count = nn.Embedding(atoms + 1, width)
        self.own = nn.Sequential(nn.Linear(FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.rounds = nn.ModuleList(_Messages(width) for _ in range(layers))
        self.to_element = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, ATOMIC_NUMBERS))
        self.to_volume = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        self.register_buffer("volume_mean", torch.zeros(()))

    def element_logits(self, numbers: Tensor, arrangement: Arrangement) -> Tensor:
        """Logits (batch, tokens, 119) of each element, for atomic numbers (batch, tokens), some :data:`HIDDEN`."""
        return self.to_element(self._seen(numbers, arrangement))

    def log_volume(self, numbers: Tensor, arrangement: Arrangement) -> Tensor:
        """Logarithm (batch,) of the volume of an atom, cubic angstrom."""
        each = self.to_volume(self._seen(numbers, arrangement)).squeeze(2)
        counts = arrangement.counts.to(each.dtype)
        return (each * counts).sum(1) / counts.sum(1) + self.volume_mean

    def _seen(self, numbers: Tensor, arrangement: Arrangement) -> Tensor:
        there = arrangement.there[..., None]
        elements = torch.where((numbers == HIDDEN)[..., None], self.hidden, self.element(numbers))
        own = self.own(arrangement.pairs.diagonal(dim1=1, dim2=2).transpose(1, 2))
        x = (elements + self.count(arrangement.counts) + own) * there
        for messages in self.rounds:
            x = messages(x, arrangement.pairs, there)
        return x


class _Messages(nn.Module):
    """From each element to each, itself too, by how they stand to each other; a mean over those that are there."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.sent, self.received = nn.Linear(width, width), nn.Linear(width, width)
        self.pair = nn.Sequential(nn.Linear(FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.after = nn.Sequential(nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor, pairs: Tensor, there: Tensor) -> Tensor:
        y = self.before(x)
        messages = self.after(self.received(y)[:, :, None] + self.sent(y)[:, None] + self.pair(pairs))
        others = there[:, None].to(x.dtype)
        x = x + self.drop((messages * others).sum(2) / others.sum(2))
        return (x + self.drop(self.layers(x))) * there


def elements_loss(
    network: ElementNetwork, numbers: Tensor, arrangement: Arrangement, volumes: Tensor, draw: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of hidden elements, a mean over crystals; and the error of their logarithmic volume.

    Parameters
    ----------
    volumes
        (batch,) of an atom, cubic angstrom.
    draw
        (batch, tokens + 1) uniform in [0, 1): an order, and how many of the elements are hidden, at least one.
    """
    there = arrangement.there
    order = random_rank(draw[:, :-1], there)
    hidden = (order <= (draw[:, -1:] * there.sum(1, keepdim=True)).long()) & there
    logits = network.element_logits(numbers * ~hidden, arrangement)
    errors = F.cross_entropy(logits.flatten(0, 1), numbers.flatten(), reduction="none").view_as(numbers) * hidden
    elements = (errors.sum(1) / hidden.sum(1)).mean()
    log_volume = network.log_volume(numbers, arrangement)
    return elements, F.smooth_l1_loss(log_volume / _VOLUME_DEVIATION, volumes.log() / _VOLUME_DEVIATION)


@torch.no_grad()
def pseudo_log_likelihood(network: ElementNetwork, numbers: Tensor, arrangement: Arrangement) -> Tensor:
    """How well elements (batch, tokens) go together: log probabilities of each given the others, a sum (batch,).

    Besag, The Statistician 24, 179 (1975), doi:10.2307/2987782.
    """
    total = torch.zeros(len(numbers), device=numbers.device)
    for token in range(numbers.shape[1]):
        hidden = numbers.clone()
        hidden[:, token] = HIDDEN
        logs = network.element_logits(hidden, arrangement)[:, token].log_softmax(1)
        total += logs.gather(1, numbers[:, token : token + 1]).squeeze(1) * arrangement.there[:, token]
    return total


def bonded(arrangement: Arrangement, distance: float) -> Tensor:
    """(batch, tokens) which elements have atoms within ``distance`` of others, in cube roots of an atom's volume."""
    there = arrangement.there
    return ((arrangement.pairs[..., 0] < distance) & there[:, :, None] & there[:, None]).any(2)


@torch.no_grad()
def draw_elements(
    network: ElementNetwork,
    numbers: Tensor,
    avoided: Tensor,
    kept: Tensor,
    arrangement: Arrangement,
    allowed: Tensor,
    chance: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """Atomic numbers (batch, tokens) with new ones in place of those that are not ``kept``, one after the other.

    None is drawn twice.

    Parameters
    ----------
    numbers, kept
        (batch, tokens) of known crystals, and which of them stay.
    avoided
        (batch, tokens) what is not drawn as long as something else is left.
    allowed
        (119,) which elements may be drawn, as many at least as a crystal has.
    chance
        (batch, 2 x tokens) uniform in [0, 1): an order, and what each draw is decided by.
    temperature
        Above 1, less likely elements are drawn more often than the network has them.
    """
    tokens = numbers.shape[1]
    hidden = ~kept & arrangement.there
    order = random_order(chance[:, :tokens], hidden)
    now = numbers * ~hidden
    taken, avoid = (F.one_hot(some, ATOMIC_NUMBERS).bool().any(1) for some in (now, avoided))
    rows = torch.arange(len(numbers), device=numbers.device)
    for i in range(int(hidden.sum(1).max())):
        place = order[:, i]
        wanted = hidden[rows, place]
        logits = network.element_logits(now, arrangement)[rows, place] / temperature
        may = allowed & ~taken
        best = may & ~avoid
        may = torch.where(best.any(1, keepdim=True), best, may)
        drawn = chosen(logits.masked_fill(~may, -torch.inf), chance[:, tokens + i])
        now[rows, place] = torch.where(wanted, drawn, now[rows, place])
        taken[rows, drawn] |= wanted
    return now
