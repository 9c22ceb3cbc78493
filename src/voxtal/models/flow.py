"""Flow matching over the tokens of a crystal graph: from noise to latent codes, for a composition that is given.

A sample moves in a straight line from noise (time 0) to codes (time 1); the network is told where it is on the way and
guesses the codes at its end, from which the velocity follows (Lipman et al., arXiv:2210.02747; guessing the end and not
the velocity, since codes fill few of their dimensions: Li and He, arXiv:2511.13720).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxtal.models.tokens import ElementEmbedding

LAST = 0.05
"""Shortest time to the end that a velocity is divided by."""

_HEADS = 4
_FREQUENCIES = 32


@dataclass(frozen=True)
class Asked:
    """What a batch of crystals is to be.

    Attributes
    ----------
    numbers, counts
        (batch, tokens) atomic numbers and how many atoms of each there are; 0 where there is no token.
    condition
        (batch, 2 x properties) standardised values of properties, 0 where unknown, then 1 where known.
    """

    numbers: Tensor
    counts: Tensor
    condition: Tensor

    @property
    def there(self) -> Tensor:
        """(batch, tokens) which tokens there are."""
        return self.numbers > 0


class TokenFlow(nn.Module):
    """Self-attention over one token for the cell and one for each element, modulated by time and condition.

    Parameters
    ----------
    lattice_latent, sites_latent
        Lengths of the codes.
    properties
        How many of them a condition has.
    atoms
        Most atoms of one element.
    """

    lattice_mean: Tensor
    lattice_scale: Tensor
    sites_mean: Tensor
    sites_scale: Tensor

    def __init__(
        self, lattice_latent: int, sites_latent: int, width: int, layers: int, properties: int, atoms: int
    ) -> None:
        super().__init__()
        self.element = ElementEmbedding(width)
        self.count = nn.Embedding(atoms + 1, width)
        self.code, self.cell = nn.Linear(sites_latent, width), nn.Linear(lattice_latent, width)
        self.content = nn.Sequential(nn.Linear(width + 1, width), nn.SiLU(), nn.Linear(width, width))
        self.time = nn.Sequential(nn.Linear(2 * _FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Sequential(nn.Linear(2 * properties, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(_ModulatedBlock(width) for _ in range(layers))
        self.last = nn.LayerNorm(width)
        self.to_lattice, self.to_sites = nn.Linear(width, lattice_latent), nn.Linear(width, sites_latent)
        for name, length in (("lattice", lattice_latent), ("sites", sites_latent)):
            self.register_buffer(f"{name}_mean", torch.zeros(length))
            self.register_buffer(f"{name}_scale", torch.ones(()))

    def set_scale(self, lattice: Tensor, sites: Tensor) -> None:
        """Take means and one standard deviation of each kind of codes from those to train on, (n, latent)."""
        for name, codes in (("lattice", lattice), ("sites", sites)):
            mean = codes.mean(0)
            getattr(self, f"{name}_mean").copy_(mean)
            getattr(self, f"{name}_scale").copy_((codes - mean).square().mean().sqrt().clamp_min(1e-3))

    def standard(self, lattice: Tensor, sites: Tensor) -> tuple[Tensor, Tensor]:
        """Codes as the network sees them: mean 0, variance 1."""
        return (lattice - self.lattice_mean) / self.lattice_scale, (sites - self.sites_mean) / self.sites_scale

    def codes(self, lattice: Tensor, sites: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`standard`, within the range of codes."""
        lattice = lattice * self.lattice_scale + self.lattice_mean
        return lattice.clamp(-1, 1), (sites * self.sites_scale + self.sites_mean).clamp(-1, 1)

    def forward(self, time: Tensor, lattice: Tensor, sites: Tensor, asked: Asked) -> tuple[Tensor, Tensor]:
        """Guess of the end, (batch, lattice_latent) and (batch, tokens, sites_latent), standardised.

        Parameters
        ----------
        time
            (batch,) in [0, 1).
        lattice, sites
            Where the samples are at that time, standardised.
        """
        there = asked.there
        elements = self.element(asked.numbers)
        amounts = asked.counts.to(elements.dtype)[..., None]
        content = torch.cat([(elements * amounts).sum(1) / 10, amounts.sum(1).clamp_min(1).log()], dim=1)
        cell = self.cell(lattice) + self.content(content)
        x = torch.cat([cell[:, None], self.code(sites) + elements + self.count(asked.counts)], dim=1)
        present = torch.cat([torch.ones_like(there[:, :1]), there], dim=1)
        at = F.silu(self.time(_waves(time)) + self.condition(asked.condition))
        for block in self.blocks:
            x = block(x, present, at)
        x = self.last(x)
        return self.to_lattice(x[:, 0]), self.to_sites(x[:, 1:])


def flow_loss(flow: TokenFlow, lattice: Tensor, sites: Tensor, asked: Asked, time: Tensor, noise: Tensor) -> Tensor:
    """Squared error of the velocity, a mean over structures (their cell, and the mean of their elements).

    Parameters
    ----------
    lattice, sites
        Standardised codes of real crystals.
    time
        (batch,) in [0, 1).
    noise
        (batch, lattice_latent + tokens * sites_latent) Gaussian.
    """
    there = asked.there[..., None]
    from_lattice, from_sites = noise[:, : lattice.shape[1]], noise[:, lattice.shape[1] :].view_as(sites)
    t, ts = time[:, None], time[:, None, None]
    at_lattice, at_sites = torch.lerp(from_lattice, lattice, t), torch.lerp(from_sites, sites, ts) * there
    end_lattice, end_sites = flow(time, at_lattice, at_sites, asked)
    weight = (1 - time).clamp_min(LAST).pow(-2)
    cell = (end_lattice - lattice).square().mean(1)
    elements = ((end_sites - sites).square().mean(2) * asked.there).sum(1) / asked.there.sum(1)
    return (weight * (cell + elements)).mean()


def follow(flow: TokenFlow, asked: Asked, noise: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Codes (batch, lattice_latent) and (batch, tokens, sites_latent) at the end of the way, by Euler's method."""
    latent = len(flow.lattice_mean)
    lattice, sites = noise[:, :latent], noise[:, latent:].unflatten(1, (asked.numbers.shape[1], -1))
    there = asked.there[..., None]
    times = torch.linspace(0, 1, steps + 1, device=noise.device)
    for now, after in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        end_lattice, end_sites = flow(noise.new_full((len(noise),), now), lattice, sites * there, asked)
        share = (after - now) / (1 - now)
        lattice, sites = torch.lerp(lattice, end_lattice, share), torch.lerp(sites, end_sites, share)
    return flow.codes(lattice, sites)


def _waves(time: Tensor) -> Tensor:
    """(batch, 2 x frequencies) sines and cosines of times (batch,)."""
    frequencies = torch.exp(torch.linspace(0, math.log(1000), _FREQUENCIES, device=time.device))
    angles = time[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class _ModulatedBlock(nn.Module):
    """Self-attention and two layers, whose normalised inputs and outputs are scaled by time and condition (DiT)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width, elementwise_affine=False)
        self.between = nn.LayerNorm(width, elementwise_affine=False)
        self.queries, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, there: Tensor, at: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(at)[:, None].chunk(6, dim=-1)
        y = self.before(x) * (1 + scale) + shift
        q, k, v = self.queries(y).unflatten(2, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None])
        x = x + gate * self.mixed(attended.transpose(1, 2).flatten(2))
        return x + gate2 * self.layers(self.between(x) * (1 + scale2) + shift2)
