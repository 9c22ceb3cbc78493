"""The UNet of the preset ``laptop``: it sees the Gaussians that the density map is a sum of (density_peaks.py).

Convolutions tell what is around a voxel, at an eighth of the published arithmetic: on half the grid. What tells the
element, a Gaussian's height and width to a percent, they would take hours to learn; it is fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from voxtal.models.unet import Block, ScaledMaps, UNet, check_grid, laptop_block
from voxtal.representations.density import DensityGrid, cell_from_coordinates
from voxtal.representations.density_peaks import Peaks, find_peaks, log_shapes
from voxtal.representations.reasons import Undecodable

FIELDS = 4
"""Numbers that a voxel knows of the Gaussian that is nearest, in units of its width."""
_FARTHEST = 4.0
"""Of those units; beyond, nothing is told."""
_HIDDEN = 64


class PeaksUNet(UNet):
    """Convolutions on half the grid, and for each voxel the Gaussian that it lies in.

    Parameters
    ----------
    box
        What the maps are of.
    """

    shapes: Tensor

    def __init__(
        self,
        numbers: Sequence[int],
        prepare: nn.Module,
        down: Sequence[Block],
        bottom: Block,
        up: Sequence[Block],
        width: int,
        box: DensityGrid,
    ) -> None:
        super().__init__(numbers, prepare, down, bottom, up)
        self.box = box
        shapes = log_shapes(np.array(numbers), box)
        self.register_buffer("shapes", torch.from_numpy(shapes).float(), persistent=False)
        seen = width + FIELDS
        self.species = nn.Sequential(nn.Linear(seen, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.SiLU())
        self.corrected, self.learned = nn.Linear(_HIDDEN, 2), nn.Linear(_HIDDEN, len(numbers))
        for layer in (self.corrected, self.learned):  # what was fitted is right until something better is known
            nn.init.normal_(layer.weight, std=1e-3)
            nn.init.zeros_(layer.bias)
        self.tolerance = nn.Parameter(torch.tensor([0.03, 0.015]).log())
        self.trust = nn.Parameter(torch.tensor(1.5))
        self.binary = nn.Sequential(nn.Conv3d(seen, 16, 1), nn.SiLU(), nn.Conv3d(16, 1, 1))

    def trunk(self, maps: Tensor) -> Tensor:
        """Features (b, width + :data:`FIELDS`, N, N, N): of the convolutions, and of the nearest Gaussian."""
        return torch.cat([self.enlarge(super().trunk(maps)), self._fields(maps)], dim=1)

    def species_logits(self, features: Tensor, where: Tensor) -> Tensor:
        seen = features.movedim(1, -1)[where]
        hidden = self.species(seen)
        found = seen[:, -FIELDS : 2 - FIELDS] + self.corrected(hidden)
        unlike = ((found[:, None] - self.shapes) / self.tolerance.exp()).square().sum(-1)
        logits = self.learned(hidden) - self.trust * torch.log1p(unlike)
        return torch.cat([torch.full_like(logits[:, :1], -30.0), logits], dim=1)

    def binary_logits(self, features: Tensor) -> Tensor:
        return self.binary(features).squeeze(1)

    @torch.no_grad()
    def _fields(self, maps: Tensor) -> Tensor:
        arrays = maps.float().cpu().numpy()
        return torch.from_numpy(np.stack([self._fields_of(each) for each in arrays])).to(maps.device)

    def _fields_of(self, maps: np.ndarray) -> np.ndarray:
        """(FIELDS, N, N, N): logarithms of height and width, distance in widths, whether it is below one."""
        out = np.zeros((FIELDS, *maps.shape[1:]), dtype=np.float32)
        out[2] = _FARTHEST
        try:
            cell = cell_from_coordinates(maps[1:], self.box)
        except Undecodable:
            return out
        peaks = find_peaks(maps[0], cell, self.box)
        if not len(peaks):
            return out
        distance, nearest = _nearest(peaks, cell, self.box)
        shapes = peaks.log_shapes()[nearest]
        out[0], out[1] = shapes[..., 0], shapes[..., 1]
        out[2] = np.minimum(distance, _FARTHEST)
        out[3] = np.where(distance < 1, 1.0, -1.0)
        return out


def _nearest(peaks: Peaks, cell: np.ndarray, box: DensityGrid) -> tuple[np.ndarray, np.ndarray]:
    """(N, N, N) distances to the Gaussian that is nearest in units of its width, and which it is."""
    line = box.centres
    voxels = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1) @ cell
    distances = np.stack(
        [
            np.linalg.norm(voxels - place, axis=-1) / width
            for place, width in zip(peaks.frac @ cell, peaks.widths, strict=True)
        ]
    )
    nearest = distances.argmin(axis=0)
    return np.take_along_axis(distances, nearest[None], axis=0)[0], nearest


def laptop_unet(
    grid: int, numbers: Sequence[int], width: int, levels: int, margin: float, sigma: float | None = None
) -> PeaksUNet:
    """``width`` channels on half the grid, doubling at each of ``levels``, with group norm before each activation.

    ``margin`` and ``sigma`` are those of the maps (:class:`DensityGrid`).
    """
    check_grid(grid, levels + 1)
    channels = [width * 2**level for level in range(levels + 1)]
    halved = nn.Sequential(ScaledMaps(), nn.Conv3d(ScaledMaps.channels, width, 2, 2))
    down = [laptop_block(inner, outer) for inner, outer in pairwise([width, *channels[:-1]])]
    up = [laptop_block(inner + outer, inner) for inner, outer in reversed(list(pairwise(channels)))]
    bottom = laptop_block(channels[-2], channels[-1])
    return PeaksUNet(numbers, halved, down, bottom, up, width, DensityGrid(grid, margin, "true", sigma))
