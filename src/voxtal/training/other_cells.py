"""The same crystal in another cell, for training: an edge slanted along another, and another corner."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from voxtal.parallel.data_parallel import Share

BASES = torch.from_numpy(
    np.stack(
        [
            np.eye(3, dtype=np.float32),
            *(
                np.eye(3, dtype=np.float32) + sign * np.outer(np.eye(3)[i], np.eye(3)[j]).astype(np.float32)
                for i, j in permutations(range(3), 2)
                for sign in (1, -1)
            ),
        ]
    )
)
"""(13, 3, 3): the edges as they are, and one of them plus or minus another."""


def atoms_in_other_cells(positions: Tensor, counts: Tensor, cells: Tensor, part: float, share: Share) -> Tensor:
    """Atoms (batch, atoms, 3) of a rank's share of images, some taken from another cell.

    The middle of an image's atoms stays where it is.

    Parameters
    ----------
    counts, cells
        (batch,) atoms that there are, and (batch, 3, 3) the cells that they repeat with: rows.
    part
        How likely it is another cell.
    """
    bases = _bases(cells, share)
    fractions = positions.double() @ torch.linalg.inv(bases)
    moved = (fractions - torch.floor(fractions - share.rand(1, 3, device=cells.device))) @ bases
    there = (torch.arange(positions.shape[1], device=counts.device) < counts[:, None])[..., None]
    away = ((moved - positions) * there).sum(1, keepdim=True) / counts[:, None, None]
    other = share.rand(1, 1, device=cells.device) < part
    return torch.where(other, (moved - away).to(positions.dtype), positions)


def other_cells(cells: Tensor, part: float, share: Share) -> Tensor:
    """A rank's share of cells (batch, 3, 3), some of other edges; in the standard orientation, as they were."""
    turned = _in_standard_orientation(_bases(cells, share)).to(cells.dtype)
    return torch.where(share.rand(1, 1, device=cells.device) < part, turned, cells)


def all_other_cells(cells: Tensor) -> Tensor:
    """Every cell (13 * n, 3, 3) that :func:`other_cells` can make of cells (n, 3, 3); in the standard orientation."""
    every = BASES.to(cells.device)[:, None].double() @ cells.double()
    return _in_standard_orientation(every).to(cells.dtype).flatten(0, 1)


def _in_standard_orientation(bases: Tensor) -> Tensor:
    return torch.linalg.cholesky(bases @ bases.mT)


def _bases(cells: Tensor, share: Share) -> Tensor:
    """Other edges, in double precision: what is made of them must not depend on how many rows a rank has."""
    drawn = (len(BASES) * share.rand(device=cells.device)).long()
    return BASES.to(cells.device)[drawn].double() @ cells.double()
