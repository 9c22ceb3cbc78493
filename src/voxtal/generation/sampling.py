"""Sampling of the generator: attempt ``i`` depends on the seed and ``i`` alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

_ROWS_AT_ONCE = 1024
"""Graphs of a prediction: the published constraint's first layer makes 200 kB of each."""


def noise_of(seed: int, attempts: np.ndarray, length: int) -> np.ndarray:
    """Gaussian input (n, length) of the numbered attempts."""
    rows = [np.random.default_rng([seed, 3, int(i)]).standard_normal(length) for i in attempts]
    return np.asarray(rows, dtype=np.float32).reshape(-1, length)


@torch.no_grad()
def sample_graphs(generator: nn.Module, seed: int, attempts: np.ndarray, device: torch.device) -> np.ndarray:
    """Crystal graphs (n, side, side) of the numbered attempts."""
    noise = noise_of(seed, attempts, generator.noise)  # type: ignore[arg-type]
    return generator(torch.from_numpy(noise).to(device)).float().cpu().numpy()


@torch.no_grad()
def predicted(constraints: Mapping[str, nn.Module], graphs: np.ndarray, device: torch.device) -> dict[str, np.ndarray]:
    """What each property's constraint predicts (n,) for graphs (n, side, side), in the property's unit."""
    blocks = torch.from_numpy(graphs).split(_ROWS_AT_ONCE)
    return {
        name: np.concatenate([constraint(block.to(device)).float().cpu().numpy() for block in blocks])
        for name, constraint in constraints.items()
    }
