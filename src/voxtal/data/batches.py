"""Batches as they are read, as dense tensors made on the device that trains."""

from __future__ import annotations

import numpy as np
import torch

from voxtal.data.dataset import AtomBatch, DensityBatch, SparseBatch
from voxtal.errors import UserError


def densify(batch: SparseBatch, device: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
    """The batch as a dense (batch, 1, G, G, G) tensor; only its non-zero voxels travel to ``device``."""
    images, *grid = batch.shape
    voxels = grid[0] * grid[1] * grid[2]
    place = torch.from_numpy(batch.batch_index * voxels + batch.flat_index).to(device)
    values = torch.from_numpy(batch.values).to(device=device, dtype=dtype)
    dense = torch.zeros(images * voxels, device=device, dtype=dtype)
    dense[place] = values
    return dense.view(images, 1, *grid)


def padded(batch: AtomBatch, atoms: int, box: float) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of every image from the middle of the box, angstrom (images, atoms, 3) float32, zeros beyond the last; and
    their counts (images,) int64.

    Raises
    ------
    UserError
        An image has more than ``atoms``.
    """
    counts = np.bincount(batch.batch_index, minlength=batch.images)
    if counts.max(initial=0) > atoms:
        raise UserError(
            f"A structure has {counts.max()} atoms of one element, but the sites autoencoder knows {atoms} at most: "
            "raise structures.max_atoms and train it anew, or leave that structure out."
        )
    place = np.arange(len(batch.batch_index)) - np.repeat(np.cumsum(counts) - counts, counts)
    positions = np.zeros((batch.images, atoms, 3), dtype=np.float32)
    positions[batch.batch_index, place] = batch.positions - box / 2
    return positions, counts


def coordinates(batch: DensityBatch, device: torch.device | str) -> torch.Tensor:
    """The coordinate grids (batch, 3, N, N, N) of density maps; only lines of them travel to ``device``."""
    x, y, z = torch.from_numpy(batch.coordinate_lines).to(device).movedim(-1, 1).unbind(2)
    return x[:, :, :, None, None] + y[:, :, None, :, None] + z[:, :, None, None, :]
