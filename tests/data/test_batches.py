"""Sparse batches made dense."""

from __future__ import annotations

import numpy as np
import torch

from voxtal.data.batches import densify
from voxtal.data.dataset import SparseBatch


def test_every_voxel_lands_in_its_place():
    """Images would be shifted into each other or into another image of the batch."""
    image = np.zeros((3, 4, 4, 4), dtype=np.float32)
    image[0, 1, 2, 3], image[0, 3, 3, 3], image[2, 0, 0, 1] = 0.5, 0.25, 1.0
    batch_index, flat_index = np.nonzero(image.reshape(3, -1))
    batch = SparseBatch(batch_index, flat_index, image[image > 0], image.shape)
    for dtype in (torch.float32, torch.bfloat16):
        dense = densify(batch, "cpu", dtype)
        assert dense.dtype == dtype
        assert dense.shape == (3, 1, 4, 4, 4)
        assert np.array_equal(dense[:, 0].float().numpy(), image)


def test_an_empty_batch_is_dense_too():
    """The last batch of an epoch, or images without voxels, must not fail."""
    nothing = np.empty(0, dtype=np.int64)
    batch = SparseBatch(nothing, nothing, np.empty(0, dtype=np.float32), (2, 4, 4, 4))
    assert not densify(batch, "cpu", torch.float32).any()
