"""Cond-DFC-VAE: density map and coordinate grid to a Gaussian code and back, given a condition (ICSG3D,
doi:10.1021/acs.jcim.0c00464, Fig. 1a)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from math import gcd, log

import torch
from torch import Tensor, nn

from voxtal.errors import UserError
from voxtal.models.unet import ScaledMaps, keras_batch_norm, keras_initial

_SLOPE = 0.3
"""Of the leaky ReLUs, as in the published code's library."""
_PUBLISHED_LEVELS = 4
_CODE_CHANNELS = 4
_GROUPS = 4


class VAE(nn.Module, ABC):
    """What the published network and ours have in common.

    Attributes
    ----------
    latent, condition
        Lengths of a code and of a condition vector.
    """

    latent: int
    condition: int

    @abstractmethod
    def encode(self, maps: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, each (b, latent), of the codes of maps (b, 4, N, N, N)."""

    @abstractmethod
    def decode(self, codes: Tensor, condition: Tensor) -> Tensor:
        """Maps (b, 4, N, N, N) of codes (b, latent) and conditions (b, condition)."""


def reparameterized(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Codes (b, latent) drawn with standard normal ``noise`` (b, latent), so that gradients reach mean and variance."""
    return mean + torch.exp(0.5 * log_variance) * noise


class PaperVAE(VAE):
    """The published network: the condition is tiled over the grid and joined to the maps, and joined to the code.

    Encoder: four (conv 3, batch norm, leaky ReLU, max-pool 2) of ``width`` channels, doubling; conv 3 to 4 channels;
    dense, ReLU; mean and log-variance. Decoder: dense to 4 channels of an eighth of the grid; the convolutions in
    reverse, each but the last enlarged twofold; conv 3 to the four maps, batch norm and ReLU, as in the published code:
    neither density nor coordinates are negative.
    """

    def __init__(self, grid: int, width: int, latent: int, condition: int) -> None:
        super().__init__()
        if grid % 2**_PUBLISHED_LEVELS:
            raise UserError(f"The VAE halves a grid four times; set density.grid to a multiple of 16, not {grid}.")
        self.latent, self.condition = latent, condition
        channels = [width * 2**level for level in range(_PUBLISHED_LEVELS)]
        down: list[nn.Module] = []
        for inner, outer in pairwise([4 + condition, *channels]):
            down += [*_convolution(inner, outer), nn.MaxPool3d(2)]
        down += [nn.Conv3d(channels[-1], _CODE_CHANNELS, 3, padding=1), nn.LeakyReLU(_SLOPE), nn.Flatten()]
        down += [nn.Linear(_CODE_CHANNELS * (grid >> _PUBLISHED_LEVELS) ** 3, latent), nn.ReLU()]
        self.encoder = nn.Sequential(*down)
        self.mean, self.log_variance = nn.Linear(latent, latent), nn.Linear(latent, latent)
        base = grid >> (_PUBLISHED_LEVELS - 1)
        up: list[nn.Module] = [nn.Linear(latent + condition, _CODE_CHANNELS * base**3)]
        up += [nn.Unflatten(1, (_CODE_CHANNELS, base, base, base))]
        for level, (inner, outer) in enumerate(pairwise([_CODE_CHANNELS, *reversed(channels)])):
            up += [nn.Upsample(scale_factor=2)] if level else []
            up += _convolution(inner, outer)
        up += [nn.Conv3d(width, 4, 3, padding=1), keras_batch_norm(4), nn.ReLU()]
        self.decoder = nn.Sequential(*up)
        keras_initial(self)

    def encode(self, maps: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        tiled = condition[:, :, None, None, None].expand(-1, -1, *maps.shape[2:])
        hidden = self.encoder(torch.cat([maps, tiled], dim=1))
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, codes: Tensor, condition: Tensor) -> Tensor:
        return self.decoder(torch.cat([codes, condition], dim=1))


def _convolution(inner: int, outer: int) -> list[nn.Module]:
    return [nn.Conv3d(inner, outer, 3, padding=1), keras_batch_norm(outer), nn.LeakyReLU(_SLOPE)]


class Coordinates(nn.Module):
    """Coordinate grids (b, 3, N, N, N) as the twelve numbers that they are linear in: their mean and what a step along
    each axis adds, both in units of :data:`REACH_ANGSTROM`."""

    REACH_ANGSTROM = 5.0
    steps: Tensor

    def __init__(self, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("steps", torch.arange(grid) / grid - 0.5 * (grid - 1) / grid, persistent=False)

    def numbers(self, grids: Tensor) -> Tensor:
        """(b, 12): least squares over all voxels."""
        x, y, z = (grids.mean(axes) @ self.steps for axes in ((3, 4), (2, 4), (2, 3)))
        slopes = torch.stack([x, y, z], dim=1) / self.steps.square().mean() / self.grid
        return torch.cat([grids.mean((2, 3, 4))[:, None], slopes], dim=1).flatten(1) / self.REACH_ANGSTROM

    def grids(self, numbers: Tensor) -> Tensor:
        """Coordinate grids of numbers (b, 12)."""
        mean, x, y, z = (numbers.view(-1, 4, 3) * self.REACH_ANGSTROM).unbind(1)
        line = [slope[:, :, None] * self.steps for slope in (x, y, z)]
        return (
            mean[:, :, None, None, None]
            + line[0][:, :, :, None, None]
            + line[1][:, :, None, :, None]
            + line[2][:, :, None, None, :]
        )

    def right_angled(self, numbers: Tensor) -> Tensor:
        """Numbers (b, 12) of boxes with right angles and edges as long as those of ``numbers`` (b, 12)."""
        slopes = numbers.view(-1, 4, 3)[:, 1:]
        axes, triangle = torch.linalg.qr(slopes.mT)
        axes = (axes * torch.where(triangle.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0)[:, None]).mT
        return torch.cat([numbers[:, :3], (axes * slopes.norm(dim=2, keepdim=True)).flatten(1)], dim=1)

    def edges(self, numbers: Tensor) -> Tensor:
        """(b, 3) length of the box along each axis, angstrom, of numbers (b, 12)."""
        return numbers.view(-1, 4, 3)[:, 1:].norm(dim=2) * self.REACH_ANGSTROM


class IonsVAE(VAE):
    """A decoder that draws ions instead of voxels, in right-angled cells: positions, heights and widths of ``ions``
    Gaussians, of which eq. 1 makes the density map, and the twelve numbers of the coordinate grid.

    So what it gives is sharp and a sum of Gaussians whatever the code, and costs a matrix product.
    """

    HEIGHTS = 0.01, 60.0
    """Electrons per cubic angstrom."""
    WIDTHS = 0.15, 2.5
    """Angstrom."""

    def __init__(self, grid: int, width: int, latent: int, condition: int, ions: int) -> None:
        super().__init__()
        self.latent, self.condition, self.grid, self.ions = latent, condition, grid, ions
        self.coordinates = Coordinates(grid)
        channels = [1, *(width * 2**level for level in range(_PUBLISHED_LEVELS))]
        down: list[nn.Module] = []
        for inner, outer in pairwise(channels):
            down += [nn.Conv3d(inner, outer, 4, 2, 1, bias=False), nn.GroupNorm(gcd(_GROUPS, outer), outer), nn.SiLU()]
        self.encoder = nn.Sequential(*down, nn.Flatten())
        flat = channels[-1] * (grid >> _PUBLISHED_LEVELS) ** 3
        wide = 2 * latent
        self.dense = nn.Sequential(nn.Linear(flat + 12 + condition, wide), nn.SiLU(), nn.Linear(wide, wide), nn.SiLU())
        self.mean, self.log_variance = nn.Linear(wide, latent), nn.Linear(wide, latent)
        self.decoder = nn.Sequential(nn.Linear(latent + condition, wide), nn.SiLU(), nn.Linear(wide, wide), nn.SiLU())
        self.box = nn.Linear(wide, 12)
        self.drawn = nn.Linear(wide, 5 * ions)
        nn.init.normal_(self.drawn.bias, std=1.0)  # ions begin in different places

    def encode(self, maps: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        image = self.encoder(logarithmic(maps[:, :1]))
        hidden = self.dense(torch.cat([image, self.coordinates.numbers(maps[:, 1:]), condition], dim=1))
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, codes: Tensor, condition: Tensor) -> Tensor:
        hidden = self.decoder(torch.cat([codes, condition], dim=1))
        numbers = self.coordinates.right_angled(self.box(hidden))
        drawn = self.drawn(hidden).view(-1, self.ions, 5)
        centres = 0.6 * torch.tanh(drawn[..., :3])
        heights, widths = (_between(drawn[..., 3 + k], *limits) for k, limits in enumerate((self.HEIGHTS, self.WIDTHS)))
        edges = self.coordinates.edges(numbers)[:, None]
        lines = (self.coordinates.steps - centres[..., None]) * (edges / widths[..., None])[..., None]
        x, y, z = torch.exp(-0.5 * lines.square()).unbind(2)
        planes = ((heights[..., None] * x)[..., :, None] * y[..., None, :]).flatten(2)
        density = (planes.mT @ z).view(-1, 1, *[self.grid] * 3)
        return torch.cat([density, self.coordinates.grids(numbers)], dim=1)


def logarithmic(density: Tensor) -> Tensor:
    """Logarithm of a density map, from which on tails count as much as peaks."""
    return torch.log(density.clamp_min(0) + ScaledMaps.FLOOR)


def _between(x: Tensor, low: float, high: float) -> Tensor:
    """From any number to one between two, evenly by its logarithm."""
    return low * torch.exp(torch.sigmoid(x) * log(high / low))
