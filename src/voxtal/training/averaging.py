"""A running mean of a network's weights: what a generator is kept as, since its last steps are noisy."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def blend(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move ``average`` the share ``1 - decay`` of the way to ``network``; what is no weight is copied."""
    live = network.state_dict()
    for name, mean in average.state_dict().items():
        if mean.is_floating_point():
            mean.lerp_(live[name], 1 - decay)
        else:
            mean.copy_(live[name])
