"""The VAE of the preset ``laptop``: a density map as the ions that it is the sum of, to a Gaussian code and back.

Eq. 1 of ICSG3D (doi:10.1021/acs.jcim.0c00464) makes the map of elements and places, and these are found in it again
(density_peaks.py). So encoder and decoder work on those, at a hundredth of the arithmetic of convolutions and in any
cell, and what is decoded is always the map of a crystal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxtal.models.atoms import Residual
from voxtal.models.tokens import AttentionBlock, ElementEmbedding, two_layers
from voxtal.models.vae import VAE
from voxtal.representations.density import Crystal, DensityGrid, amplitudes
from voxtal.representations.ionic_radii import ionic_radii
from voxtal.units import ATOMIC_NUMBERS

_LAYERS = 2
_KINDS = 8
"""Most elements of a drawn crystal. A slot says of which kind its ion is, so that ions of one kind are of one
element."""
_KIND = 32
"""Numbers that tell the element of a kind."""
_WAVES = 0.5, 1.0, 2.0, 4.0
"""A place is told by sines of so many waves an edge."""
_UNLIKELY = -30.0
"""Added to the logits of elements that were not trained on."""
_TYPICAL_LOG_EDGE = 1.6
"""About 5 A."""
_PAIRS = [0, 0, 1], [1, 2, 2]


@dataclass(frozen=True)
class Ions:
    """Ions of crystals.

    Attributes
    ----------
    numbers
        (b, n) int64 atomic numbers, 0 beyond the last ion.
    places
        (b, n, 3) fractional coordinates in the box of the maps.
    cells
        (b, 3, 3; rows, angstrom).
    """

    numbers: Tensor
    places: Tensor
    cells: Tensor

    @property
    def there(self) -> Tensor:
        """(b, n) bool."""
        return self.numbers > 0

    @property
    def counts(self) -> Tensor:
        """(b,) int64."""
        return self.there.sum(1)

    @property
    def shapes(self) -> Tensor:
        """(b, 6): logarithms of the cells' edges about 5 A, and cosines of their angles."""
        metric = self.cells @ self.cells.mT
        edges = metric.diagonal(dim1=1, dim2=2).sqrt()
        cosines = metric / (edges[:, :, None] * edges[:, None])
        return torch.cat([edges.log() - _TYPICAL_LOG_EDGE, cosines[:, *_PAIRS]], dim=1)

    @classmethod
    def of(cls, crystals: Sequence[Crystal], device: torch.device) -> Ions:
        most = max(len(z) for z, _, _ in crystals)
        numbers = np.zeros((len(crystals), most), dtype=np.int64)
        places = np.zeros((len(crystals), most, 3), dtype=np.float32)
        cells = np.zeros((len(crystals), 3, 3), dtype=np.float32)
        for b, (z, frac, cell) in enumerate(crystals):
            numbers[b, : len(z)], places[b, : len(z)], cells[b] = z, frac, cell
        return cls(*(torch.from_numpy(array).to(device) for array in (numbers, places, cells)))


@dataclass(frozen=True)
class DrawnIons:
    """What the decoder says: more slots than there are ions.

    Attributes
    ----------
    presence
        (b, slots) logits of there being an ion.
    places
        (b, slots, 3) fractional coordinates in the box.
    kinds
        (b, slots, kinds) logarithms of the likelihoods of an ion being of each kind.
    elements
        (b, kinds, 119) logarithms of the likelihoods of a kind being each element.
    shapes
        (b, 6) of the cells, as in :class:`Ions`.
    counts
        (b, slots + 1) logits of how many ions there are.
    """

    presence: Tensor
    places: Tensor
    kinds: Tensor
    elements: Tensor
    shapes: Tensor
    counts: Tensor

    def likelihoods(self, numbers: Tensor) -> Tensor:
        """Logarithms (b, slots, n) of the likelihoods of atomic numbers (b, n)."""
        of_kinds = self.elements.gather(2, numbers[:, None].expand(-1, self.elements.shape[1], -1))
        return torch.logsumexp(self.kinds[..., None] + of_kinds[:, None], dim=2)

    @property
    def numbers(self) -> Tensor:
        """(b, slots) elements of the likeliest kinds in the likeliest slots, as many as there likeliest are; else 0."""
        order = self.presence.argsort(dim=1, descending=True).argsort(dim=1)
        kept = order < self.counts.argmax(1).clamp_min(1)[:, None]
        of_kinds = self.elements[..., 1:].argmax(-1) + 1
        return torch.where(kept, of_kinds.gather(1, self.kinds.argmax(-1)), 0)

    @property
    def metrics(self) -> Tensor:
        """(b, 3, 3) of the cells."""
        edges = (self.shapes[:, :3] + _TYPICAL_LOG_EDGE).exp()
        cosines = torch.eye(3, device=edges.device, dtype=edges.dtype).repeat(len(edges), 1, 1)
        for k, (i, j) in enumerate(zip(*_PAIRS, strict=True)):
            cosines[:, i, j] = cosines[:, j, i] = self.shapes[:, 3 + k]
        return cosines * edges[:, :, None] * edges[:, None]

    def crystals(self) -> list[Crystal]:
        """Those of the likeliest ions. A cell whose angles do not fit together is zero."""
        cells, failed = torch.linalg.cholesky_ex(self.metrics.double())
        cells = torch.where(failed[:, None, None] > 0, 0.0, cells).cpu().numpy()
        numbers, places = self.numbers.cpu().numpy(), self.places.double().cpu().numpy()
        return [(z[z > 0], frac[z > 0], cell) for z, frac, cell in zip(numbers, places, cells, strict=True)]


class IonsVAE(VAE):
    """Self-attention over the ions and the cell to a code; dense layers back to slots for ions.

    Parameters
    ----------
    grid, margin, sigma
        Of the maps (:class:`DensityGrid`).
    width
        Of the attention; dense layers are twice as wide.
    ions
        Slots: most ions that are encoded and drawn.
    numbers
        Elements that ions are drawn of.
    """

    unlikely: Tensor
    heights: Tensor
    narrow: Tensor
    centres: Tensor

    def __init__(
        self,
        grid: int,
        margin: float,
        sigma: float | None,
        width: int,
        latent: int,
        condition: int,
        ions: int,
        numbers: Sequence[int],
    ) -> None:
        super().__init__()
        self.latent, self.condition, self.ions = latent, condition, ions
        self.box = DensityGrid(grid, margin, "true", sigma)
        self.element = ElementEmbedding(width)
        self.place, self.cell = two_layers(6 * len(_WAVES), width), two_layers(6 + condition, width)
        self.blocks = nn.ModuleList(AttentionBlock(width, dropout=0.0) for _ in range(_LAYERS))
        wide = 2 * width
        self.pooled = nn.Sequential(nn.LayerNorm(3 * width), nn.Linear(3 * width, wide), nn.SiLU())
        self.mean, self.log_variance = nn.Linear(wide, latent), nn.Linear(wide, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent + condition, wide), Residual(wide), Residual(wide), nn.LayerNorm(wide), nn.SiLU()
        )
        self.shapes, self.counts = nn.Linear(wide, 6), nn.Linear(wide, ions + 1)
        self.slots, self.kinds = nn.Linear(wide, ions * (4 + _KINDS)), nn.Linear(wide, _KINDS * _KIND)
        for layer in (self.slots, self.kinds):  # they begin in different places
            nn.init.normal_(layer.bias, std=0.5)
        self.likeness = nn.Sequential(nn.SiLU(), nn.Linear(_KIND, width))
        self.sharpness = nn.Parameter(torch.tensor(-1.3))
        unlikely = torch.full((ATOMIC_NUMBERS,), _UNLIKELY)
        unlikely[list(numbers)] = 0.0
        self.register_buffer("unlikely", unlikely, persistent=False)
        every = np.arange(1, ATOMIC_NUMBERS)
        widths = self.box.widths(ionic_radii(every))
        for name, values in (("heights", amplitudes(every, widths)), ("narrow", 0.5 / widths**2)):
            self.register_buffer(name, torch.from_numpy(np.append(0.0, values)).float(), persistent=False)
        self.register_buffer("centres", torch.from_numpy(self.box.centres).float(), persistent=False)

    def decode(self, codes: Tensor, condition: Tensor) -> Tensor:
        return self.maps_of(self.draw(codes, condition))

    def encode(self, ions: Ions, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, each (b, latent), of the codes of ions."""
        waves = (2 * pi * ions.places)[..., None] * torch.tensor(_WAVES, device=ions.places.device)
        tokens = self.element(ions.numbers) + self.place(torch.cat([waves.sin(), waves.cos()], dim=-1).flatten(2))
        cell = self.cell(torch.cat([ions.shapes, condition], dim=1))
        x, there = torch.cat([cell[:, None], tokens], dim=1), F.pad(ions.there, (1, 0), value=True)
        for block in self.blocks:
            x = block(x, there)
        cell, tokens, weights = x[:, 0], x[:, 1:], ions.there[..., None]
        mean = (tokens * weights).sum(1) / weights.sum(1).clamp_min(1)
        largest = tokens.masked_fill(~weights, -30.0).amax(1)
        hidden = self.pooled(torch.cat([cell, mean, largest], dim=1))
        return self.mean(hidden), self.log_variance(hidden)

    def draw(self, codes: Tensor, condition: Tensor) -> DrawnIons:
        """Ions of codes (b, latent) and conditions (b, condition)."""
        hidden = self.decoder(torch.cat([codes, condition], dim=1))
        slots = self.slots(hidden).unflatten(1, (self.ions, 4 + _KINDS))
        return DrawnIons(
            presence=slots[..., 0],
            places=0.5 + 0.5 * slots[..., 1:4],
            kinds=slots[..., 4:].log_softmax(-1),
            elements=self._elements(self.kinds(hidden).unflatten(1, (_KINDS, _KIND))),
            shapes=self.shapes(hidden),
            counts=self.counts(hidden),
        )

    def _elements(self, kinds: Tensor) -> Tensor:
        """Logarithms of the likelihoods (b, kinds, 119) of elements."""
        every = self.element(torch.arange(ATOMIC_NUMBERS, device=kinds.device))
        every = F.layer_norm(every, every.shape[1:])
        return (self.likeness(kinds) @ every.T * self.sharpness.exp() + self.unlikely).log_softmax(-1)

    def maps_of(self, drawn: DrawnIons) -> Tensor:
        """Maps (b, 4, N, N, N) of the likeliest ions; gradients are those of what was likely."""
        order = drawn.presence.argsort(dim=1, descending=True)[:, : int(drawn.counts.argmax(1).amax().clamp_min(1))]
        numbers = drawn.numbers.gather(1, order)
        likely = drawn.kinds.exp() @ drawn.elements.exp() * drawn.presence.sigmoid()[..., None]
        likely = likely.gather(1, order[..., None].expand(-1, -1, ATOMIC_NUMBERS))
        there = F.one_hot(numbers, ATOMIC_NUMBERS) * (numbers > 0)[..., None]
        elements = there + likely - likely.detach()
        places = drawn.places.gather(1, order[..., None].expand(-1, -1, 3))
        cells = torch.linalg.cholesky_ex(drawn.metrics)[0]
        density = self._density(elements @ self.heights, elements @ self.narrow, places, cells)
        corners = torch.arange(self.box.size, device=cells.device) * self.box.step
        a, b, c = (corners[:, None] * cells[:, None, axis] for axis in range(3))
        grid = a[:, :, None, None] + b[:, None, :, None] + c[:, None, None]
        return torch.cat([density[:, None], grid.movedim(-1, 1)], dim=1)

    def _density(self, heights: Tensor, narrow: Tensor, places: Tensor, cells: Tensor) -> Tensor:
        """Eq. 1, (b, N, N, N), for ions (b, n) of these heights, 1 / (2 width^2) and places in cells (b, 3, 3)."""
        steps = (self.centres - places[..., None])[..., None] * cells[:, None, :, None]  # (b, n, 3, N, 3)
        x, y, z = steps.unbind(2)
        squared = torch.zeros((), device=heights.device)
        for axis in range(3):
            part = x[:, :, :, None, None, axis] + y[:, :, None, :, None, axis] + z[:, :, None, None, :, axis]
            squared = squared + part.square()
        gaussians = torch.exp(-squared * narrow[:, :, None, None, None])
        return (gaussians * heights[:, :, None, None, None]).sum(1)
