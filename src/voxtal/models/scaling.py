"""Networks that predict a property in units of what they are trained on."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Scaled(nn.Module):
    """Knows the mean and standard deviation of its training targets; 0 and 1 before they are set."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def set_scale(self, targets: Tensor) -> None:
        """Take mean and standard deviation from training targets (n,)."""
        self.mean.copy_(targets.mean())
        self.scale.copy_(targets.std().clamp_min(1e-3) if len(targets) > 1 else torch.ones(()))
