"""A crystal graph as a set: one token for the cell and one for each element present, instead of a square of pixels.

In the square an element's code lies wherever its atomic number puts it, among zeros for all that are absent, and
neighbouring pixels mean nothing to each other. As tokens, what is learned of one element's code holds for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxtal.representations.crystal_graph import GraphLayout
from voxtal.units import ATOMIC_NUMBERS

MAX_ELEMENTS = 8
"""Tokens for elements; of more, the strongest are taken."""

_HEADS = 4


@dataclass(frozen=True)
class Tokens:
    """What crystal graphs hold.

    Attributes
    ----------
    lattice
        (batch, lattice_latent) codes of the cells.
    codes
        (batch, tokens, sites_latent) codes of elements.
    numbers
        (batch, tokens) their atomic numbers; 0 where there is none.
    there
        (batch, tokens) whether there is one.
    """

    lattice: Tensor
    codes: Tensor
    numbers: Tensor
    there: Tensor


class GraphTokens(nn.Module):
    """Reads :class:`Tokens` off crystal graphs of one layout, so that gradients reach the graphs.

    Parameters
    ----------
    threshold
        Smallest root mean square of a present element's code.
    """

    numbers: Tensor

    def __init__(self, elements: Sequence[int], lattice_latent: int, sites_latent: int, threshold: float) -> None:
        super().__init__()
        self.layout = GraphLayout(tuple(elements), lattice_latent, sites_latent)
        self.threshold = threshold
        self.register_buffer("numbers", torch.tensor(elements, dtype=torch.int64))

    def forward(self, graphs: Tensor) -> Tokens:
        """Tokens of graphs (batch, side, side)."""
        layout = self.layout
        n = len(layout.elements) * layout.sites_latent
        every = graphs.flatten(1)[:, layout.side : layout.side + n].unflatten(1, (-1, layout.sites_latent))
        strength = every.detach().square().mean(2).sqrt()
        found, place = strength.topk(min(MAX_ELEMENTS, len(layout.elements)), dim=1)
        there = found > self.threshold
        codes = every.gather(1, place[..., None].expand(-1, -1, layout.sites_latent))
        return Tokens(
            graphs[:, 0, : layout.lattice_latent],
            codes * there[..., None],
            torch.where(there, self.numbers[place], 0),
            there,
        )


class TokenNetwork(nn.Module):
    """Self-attention over the tokens, and a mean by how much of each element there is, which it learns itself.

    Maps :class:`Tokens` to (batch, outputs).
    """

    def __init__(self, lattice_latent: int, sites_latent: int, width: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.element = ElementEmbedding(width)
        self.code = two_layers(sites_latent, width)
        self.amount = two_layers(sites_latent, width, 1)
        self.shares = nn.Linear(2, width)
        self.cell = two_layers(lattice_latent + 1, width)
        self.blocks = nn.ModuleList(AttentionBlock(width) for _ in range(layers))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs))

    def forward(self, tokens: Tokens) -> Tensor:
        amounts = F.softplus(self.amount(tokens.codes)).squeeze(2) * tokens.there
        total = amounts.sum(1, keepdim=True)
        shares = amounts / (total + 1e-6)
        elements = self.element(tokens.numbers) + self.code(tokens.codes)
        elements = elements + self.shares(torch.stack([shares, amounts], dim=2))
        cell = self.cell(torch.cat([tokens.lattice, total.clamp_min(0.1).log()], dim=1))
        x = torch.cat([cell[:, None], elements], dim=1)
        there = torch.cat([torch.ones_like(tokens.there[:, :1]), tokens.there], dim=1)
        for block in self.blocks:
            x = block(x, there)
        weights = torch.cat([torch.ones_like(total), shares], dim=1)
        return self.out((x * weights[..., None]).sum(1))


class ElementEmbedding(nn.Module):
    """A learned vector for each element, and one that follows from its place in the periodic table.

    What is tabulated lets an element of a few structures be like its neighbours.
    """

    table: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.learned = nn.Embedding(ATOMIC_NUMBERS, width)
        nn.init.normal_(self.learned.weight, std=0.1)
        table = _tabulated()
        self.register_buffer("table", table)
        self.tabulated = nn.Linear(table.shape[1], width)

    def forward(self, numbers: Tensor) -> Tensor:
        """Vectors (..., width) of atomic numbers (...)."""
        return self.learned(numbers) + self.tabulated(self.table[numbers])


def _tabulated() -> Tensor:
    """(119, features) of every element, each with mean 0 and deviation 1 over those that are known; else 0."""
    from pymatgen.core import Element

    rows = torch.full((ATOMIC_NUMBERS, 9), torch.nan)
    for z in range(1, 104):
        element = Element.from_Z(z)
        metal, transition = float(element.is_metal), float(element.is_transition_metal)
        numbers = [element.row, element.group, element.mendeleev_no, element.atomic_radius, element.electron_affinity]
        values = [*numbers, element.ionization_energies[0] if element.ionization_energies else None]
        values += [element.X if z not in (2, 10, 18) else None, metal, transition]
        rows[z] = torch.tensor([torch.nan if value is None else float(value) for value in values])
    mean = rows.nanmean(0)
    deviation = (rows - mean).square().nanmean(0).sqrt()
    return ((rows - mean) / deviation).nan_to_num(0.0)


class AttentionBlock(nn.Module):
    """Self-attention among the tokens that are there, and two layers on each; normalised before, dropout after."""

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        q, k, v = self.queries(self.before(x)).unflatten(2, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None])
        x = x + self.drop(self.mixed(attended.transpose(1, 2).flatten(2)))
        return x + self.drop(self.layers(self.between(x)))


def two_layers(inner: int, width: int, outer: int | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inner, width), nn.SiLU(), nn.Linear(width, outer or width))
