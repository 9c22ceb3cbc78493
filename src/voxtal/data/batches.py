"""Batches as they are read, as dense tensors made on the device that trains."""

from __future__ import annotations

import torch

from voxtal.data.dataset import DensityBatch, SparseBatch


def densify(batch: SparseBatch, device: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
    """The batch as a dense (batch, 1, G, G, G) tensor; only its non-zero voxels travel to ``device``."""
    images, *grid = batch.shape
    voxels = grid[0] * grid[1] * grid[2]
    place = torch.from_numpy(batch.batch_index * voxels + batch.flat_index).to(device)
    values = torch.from_numpy(batch.values).to(device=device, dtype=dtype)
    dense = torch.zeros(images * voxels, device=device, dtype=dtype)
    dense[place] = values
    return dense.view(images, 1, *grid)


def coordinates(batch: DensityBatch, device: torch.device | str) -> torch.Tensor:
    """The coordinate grids (batch, 3, N, N, N) of density maps; only lines of them travel to ``device``."""
    x, y, z = torch.from_numpy(batch.coordinate_lines).to(device).movedim(-1, 1).unbind(2)
    return x[:, :, :, None, None] + y[:, :, None, :, None] + z[:, :, None, None, :]
