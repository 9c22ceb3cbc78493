"""Sampling of the generator: attempt ``i`` depends on the seed and ``i`` alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


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
def predicted_energy(constraint: nn.Module, graphs: np.ndarray, device: torch.device) -> np.ndarray:
    """Formation energy (n,) that the constraint predicts for graphs (n, side, side), eV/atom."""
    return constraint(torch.from_numpy(graphs).to(device)).float().cpu().numpy()
