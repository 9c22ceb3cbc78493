"""UNet: from density maps to species maps and binary maps (ICSG3D, doi:10.1021/acs.jcim.0c00464,
eqs. 6 and 7, Fig. 1b).

Its input is what the VAE gives back, the density map and the coordinate grid: (batch, 4, N, N, N). A last activation of
each level, phi_p of eq. 5, is what the VAE is compared by.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import gcd

import torch
from torch import Tensor, nn

from voxtal.errors import UserError

PERCEPTUAL_LEVELS = 4
"""How many phi_p there are, from the finest grid on; the published code takes as many."""

_MOST_CHANNELS = 512
_GROUPS = 4


class UNet(nn.Module, ABC):
    """Levels of two convolutions, pooled, a bottom, and the levels again with what the way down had there.

    Parameters
    ----------
    numbers
        Atomic numbers of the species, rising; class 0 is the background.
    prepare
        Maps (b, 4, N, N, N) to what the first convolution takes.
    down, bottom, up
        Blocks, ``up`` in the order in which they are used: from the coarsest on.
    """

    numbers: Tensor

    def __init__(
        self,
        numbers: Sequence[int],
        prepare: nn.Module,
        down: Sequence[Block],
        bottom: Block,
        up: Sequence[Block],
    ) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.tensor([0, *numbers], dtype=torch.uint8))
        self.prepare = prepare
        self.down = nn.ModuleList(down)
        self.bottom = bottom
        self.up = nn.ModuleList(up)
        self.pool = nn.MaxPool3d(2)
        self.enlarge = nn.Upsample(scale_factor=2)

    def trunk(self, maps: Tensor) -> Tensor:
        """Features (b, channels, N, N, N) of maps (b, 4, N, N, N), of which both outputs are made."""
        x = self.prepare(maps)
        skipped = []
        for block in self.down:
            _, x = block(x)
            skipped.append(x)
            x = self.pool(x)
        _, x = self.bottom(x)
        for block in self.up:
            _, x = block(torch.cat([skipped.pop(), self.enlarge(x)], dim=1))
        return x

    @abstractmethod
    def species_logits(self, features: Tensor, where: Tensor) -> Tensor:
        """Logits (v, classes) of the species at the voxels ``where`` (b, N, N, N) is true, in its order."""

    @abstractmethod
    def binary_logits(self, features: Tensor) -> Tensor:
        """Logits (b, N, N, N) of a voxel being in an ion."""

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """S' as logits (b, classes, N, N, N) and S_B' as logits (b, N, N, N), eq. 6."""
        features = self.trunk(maps)
        b, _, *grid = features.shape
        everywhere = torch.ones((b, *grid), dtype=torch.bool, device=features.device)
        species = self.species_logits(features, everywhere).view(b, *grid, -1).movedim(-1, 1)
        return species, self.binary_logits(features)

    def perceptual(self, maps: Tensor) -> Iterator[Tensor]:
        """phi_p of eq. 5: the last activation of each level on the way down, the bottom counted, four at most."""
        x = self.prepare(maps)
        for level, block in enumerate([*self.down, self.bottom][:PERCEPTUAL_LEVELS]):
            phi, x = block(self.pool(x) if level else x)
            yield phi

    @torch.no_grad()
    def segment(self, maps: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """Species maps (b, N, N, N) uint8, the likeliest element where the binary map is at least ``threshold``, and
        the binary map itself, (b, N, N, N) probabilities."""
        features = self.trunk(maps)
        binary = torch.sigmoid(self.binary_logits(features).float())
        inside = binary >= threshold
        logits = self.species_logits(features, inside)
        out = torch.zeros(inside.shape, dtype=torch.uint8, device=maps.device)
        out[inside] = self.numbers[1 + logits[:, 1:].argmax(dim=1)]
        return out, binary


class Block(nn.Module):
    """Layers, of which the last activation is phi; what comes after it is ``rest``."""

    def __init__(self, layers: Sequence[nn.Module], rest: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.rest = rest or nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """phi and the block's output."""
        phi = self.layers(x)
        return phi, self.rest(phi)


class PublishedUNet(UNet):
    """Both outputs are linear in the last block's ``width`` channels."""

    def __init__(
        self,
        numbers: Sequence[int],
        down: Sequence[Block],
        bottom: Block,
        up: Sequence[Block],
        width: int,
    ) -> None:
        super().__init__(numbers, nn.Identity(), down, bottom, up)
        self.species = nn.Conv3d(width, len(numbers) + 1, 1)
        self.binary = nn.Conv3d(width, 1, 1)

    def species_logits(self, features: Tensor, where: Tensor) -> Tensor:
        weight = self.species.weight.flatten(1)
        return nn.functional.linear(features.movedim(1, -1)[where], weight, self.species.bias)

    def binary_logits(self, features: Tensor) -> Tensor:
        return self.binary(features).squeeze(1)


def paper_unet(grid: int, numbers: Sequence[int], width: int, levels: int) -> PublishedUNet:
    """The published UNet: (conv 3, ReLU, batch norm) twice a level, 32 and 64 channels on the finest, doubling, at
    most 512; with Keras' initial weights and batch norm.

    ``levels`` 4 and a bottom of 512 channels, as the authors' description has it; their released weights, 31.1 million
    numbers, are those of ``levels`` 3 with the same bottom.
    """
    check_grid(grid, levels)
    ends = [min(width * 2 ** (level + 1), _MOST_CHANNELS) for level in range(levels)]
    deepest = min(2 * ends[-1], _MOST_CHANNELS)
    down = [_published_block(inner, outer // 2, outer) for inner, outer in pairwise([4, *ends])]
    bottom = _published_block(ends[-1], deepest, deepest)
    up, below = [], deepest
    for level, end in reversed(list(enumerate(ends))):
        first = min(2 * end, _MOST_CHANNELS)
        last = end if level else first
        up.append(_published_block(end + below, first, last))
        below = last
    network = PublishedUNet(numbers, down, bottom, up, below)
    keras_initial(network)
    return network


def _published_block(inner: int, middle: int, outer: int) -> Block:
    first = [nn.Conv3d(inner, middle, 3, padding=1), nn.ReLU(), keras_batch_norm(middle)]
    return Block([*first, nn.Conv3d(middle, outer, 3, padding=1), nn.ReLU()], keras_batch_norm(outer))


def keras_batch_norm(channels: int) -> nn.BatchNorm3d:
    """Batch norm with the constants of the published code's library."""
    return nn.BatchNorm3d(channels, eps=1e-3, momentum=0.01)


def keras_initial(network: nn.Module) -> None:
    """Initial weights as the published code's library draws them, in place."""
    for module in network.modules():
        if isinstance(module, (nn.Conv3d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            assert module.bias is not None
            nn.init.zeros_(module.bias)


def check_grid(grid: int, levels: int) -> None:
    """UserError where a grid cannot be halved as often as there are levels."""
    if grid % 2**levels:
        raise UserError(
            f"A grid of {grid} voxels cannot be halved {levels} times; set density.grid to a multiple of {2**levels}, "
            "or train.unet.levels to less."
        )


class ScaledMaps(nn.Module):
    """Maps (b, 4, N, N, N) as a network learns from them: the density's logarithm, in which an element's height and
    width are a sum and a product, waves of it, which tell heights apart that differ by a percent, and coordinates of
    order one."""

    FLOOR = 0.02
    """Electrons per cubic angstrom; the weakest ion, lithium, has 0.6 in its middle."""
    WAVES = (2.0, 6.0)
    """Per unit of the logarithm."""
    REACH_ANGSTROM = 5.0
    channels = 4 + 2 * len(WAVES)

    def forward(self, maps: Tensor) -> Tensor:
        logarithm = torch.log(maps[:, :1].clamp_min(0) + self.FLOOR)
        phases = [frequency * logarithm for frequency in self.WAVES]
        waves = [wave for phase in phases for wave in (phase.sin(), phase.cos())]
        return torch.cat([logarithm, *waves, maps[:, 1:] / self.REACH_ANGSTROM], dim=1)


def laptop_block(inner: int, outer: int) -> Block:
    """Two convolutions, each with group norm and SiLU."""
    layers: list[nn.Module] = []
    for channels in (inner, outer):
        layers += [nn.Conv3d(channels, outer, 3, padding=1, bias=False)]
        layers += [nn.GroupNorm(gcd(_GROUPS, outer), outer), nn.SiLU()]
    return Block(layers)
