"""Autoencoders of what voxels show: the atoms of one element, or a cell. To a short code in (-1, 1) and back.

A sites voxel is empty but for a few hundred of its 32,768 values, and a clean one gives its atoms back exactly
(docs/representations.md). Dense layers over those atoms take a hundredth of the arithmetic of convolutions over the
voxels, and have no empty space to learn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxtal.units import ATOMIC_NUMBERS

ANGSTROM_PER_UNIT = 4.0
"""Lengths are divided by this for the network."""

_ELEMENT_WIDTH = 16
_SLAB_ANGSTROM = 0.2
_CELL_ENTRIES = ((0, 1, 1, 2, 2, 2), (0, 0, 1, 0, 1, 2))


class AtomsAutoencoder(nn.Module):
    """One network for the sites of every element, which it knows: rare elements learn from common ones.

    Parameters
    ----------
    atoms
        Most atoms of one element that a structure may have.
    width
        Of the hidden layers.
    latent
        Length of a code.
    """

    def __init__(self, atoms: int, width: int, latent: int) -> None:
        super().__init__()
        self.atoms = atoms
        self.element = nn.Embedding(ATOMIC_NUMBERS, _ELEMENT_WIDTH)
        self.encoder = _dense(4 * atoms + _ELEMENT_WIDTH, width, latent, layers=2)
        self.decoder = _dense(latent + _ELEMENT_WIDTH, width, 4 * atoms + 1, layers=3)

    def encode(self, positions: Tensor, counts: Tensor, numbers: Tensor) -> Tensor:
        """Codes (batch, latent) of atoms as :func:`in_order` gives them.

        Parameters
        ----------
        positions
            (batch, atoms, 3) from the middle of the box, angstrom; anything beyond the atoms that there are.
        counts, numbers
            (batch,) how many atoms there are, and their atomic number.
        """
        there = _there(counts, self.atoms)
        scaled = (positions * there[..., None] / ANGSTROM_PER_UNIT).flatten(1)
        known = torch.cat([scaled, there.to(scaled.dtype), self.element(numbers)], dim=1)
        return torch.tanh(self.encoder(known))

    def decode(self, codes: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (batch, atoms, 3) in angstrom, and logits (batch, atoms + 1) of how many of them there are."""
        found = self.decoder(torch.cat([codes, self.element(numbers)], dim=1))
        positions = found[:, : 3 * self.atoms].unflatten(1, (self.atoms, 3)) * ANGSTROM_PER_UNIT
        return positions, found[:, 3 * self.atoms :]

    def moved(self, positions: Tensor, counts: Tensor, numbers: Tensor) -> Tensor:
        """How far the furthest moved atom (batch,) is from its place, angstrom; infinite where atoms are miscounted.

        Arguments are those of :meth:`encode`.
        """
        found, logits = self.decode(self.encode(positions, counts, numbers), numbers)
        distance = (found - positions).norm(dim=2) * _there(counts, self.atoms)
        return distance.amax(1).masked_fill(logits.argmax(1) != counts, torch.inf)


class CellAutoencoder(nn.Module):
    """Cells in the standard orientation (lower triangular): six numbers each."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.encoder = _dense(6, width, latent, layers=1)
        self.decoder = _dense(latent, width, 6, layers=1)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("scale", torch.ones(6))

    def set_scale(self, cells: Tensor) -> None:
        """Take mean and standard deviation of the entries from training cells (n, 3, 3)."""
        entries = cells[:, *_CELL_ENTRIES]
        self.mean.copy_(entries.mean(0))
        self.scale.copy_(entries.std(0).clamp_min(0.1) if len(cells) > 1 else torch.ones(6))

    def encode(self, cells: Tensor) -> Tensor:
        """Codes (batch, latent) of cells (batch, 3, 3; rows, angstrom)."""
        return torch.tanh(self.encoder((cells[:, *_CELL_ENTRIES] - self.mean) / self.scale))

    def decode(self, codes: Tensor) -> Tensor:
        """Cells (batch, 3, 3) of codes (batch, latent)."""
        entries = self.decoder(codes) * self.scale + self.mean
        cells = torch.zeros(len(codes), 3, 3, dtype=entries.dtype, device=entries.device)
        cells[:, *_CELL_ENTRIES] = entries
        return cells


def in_order(positions: Tensor, counts: Tensor) -> Tensor:
    """Atoms (batch, atoms, 3) in an order that follows from where they are: by slabs along z, then y, then x."""
    slabs = (positions / _SLAB_ANGSTROM).round().double()
    key = (slabs[..., 2] * 1e3 + slabs[..., 1]) * 1e3 + slabs[..., 0]
    key = torch.where(_there(counts, positions.shape[1]), key, torch.inf)
    order = key.argsort(dim=1, stable=True)
    return positions.gather(1, order[..., None].expand_as(positions))


def atoms_loss(found: tuple[Tensor, Tensor], positions: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy of the counts, and three times the smooth error, in angstrom, of the atoms that there are."""
    places, logits = found
    there = _there(counts, positions.shape[1])
    distance = F.smooth_l1_loss(places, positions, reduction="none", beta=0.1).sum(-1)
    # a mean over structures, not atoms: a rank's share of a batch then weighs what it should
    return F.cross_entropy(logits, counts) + 3 * ((distance * there).sum(1) / counts.clamp_min(1)).mean()


def _there(counts: Tensor, atoms: int) -> Tensor:
    """(batch, atoms) which places hold an atom."""
    return torch.arange(atoms, device=counts.device) < counts[:, None]


def _dense(inner: int, width: int, outer: int, layers: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inner, width),
        *(Residual(width) for _ in range(layers)),
        nn.LayerNorm(width),
        nn.Linear(width, outer),
    )


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)
