"""Networks on batches of one shape: what comes out for a row does not depend on its company."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor


@torch.no_grad()
def batched(
    network: Callable[[Tensor], Tensor], rows: np.ndarray, size: int, device: torch.device
) -> Iterator[np.ndarray]:
    """Outputs (up to ``size``, ...) float32 of ``network`` for ``rows`` (n, ...), batch by batch.

    The last batch is filled up with zeros: libraries choose their way by the shape, and ways differ in the last bit.
    """
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        batch = np.zeros((size, *rows.shape[1:]), dtype=np.float32)
        batch[: len(part)] = part
        yield network(torch.from_numpy(batch).to(device))[: len(part)].float().cpu().numpy()
