"""Networks on batches of one shape, on one thread: what comes out for a row does not depend on its company."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from threadpoolctl import threadpool_limits
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


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for PyTorch and NumPy: what sums come to would depend on how many share them.

    Blocks are shared out to ranks, so that nothing is lost where there is a rank for each core.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(before)
