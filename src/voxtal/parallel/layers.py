"""Layers whose result for one sample depends on the whole batch, or on its place in it, over many ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from voxtal.parallel.data_parallel import DataParallel


def globalize(module: nn.Module, parallel: DataParallel) -> None:
    """Have the dropout and batch norm layers within ``module`` do what they would in one process, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Dropout):
            setattr(module, name, _GlobalDropout(child.p, parallel))
        elif isinstance(child, (nn.BatchNorm2d, nn.BatchNorm3d)) and parallel.size > 1:
            synchronized = _GlobalBatchNorm(child.num_features, child.eps, child.momentum)
            synchronized.load_state_dict(child.state_dict())
            synchronized.parallel = parallel
            synchronized.to(child.weight.device)
            # the optimizer knows these
            synchronized.weight, synchronized.bias = child.weight, child.bias
            setattr(module, name, synchronized)
        else:
            globalize(child, parallel)


class _GlobalDropout(nn.Module):
    """Dropout whose mask is the rank's part of the whole batch's."""

    def __init__(self, p: float, parallel: DataParallel) -> None:
        super().__init__()
        self.p, self.parallel = p, parallel

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = self.parallel.batch.bernoulli(1 - self.p, *x.shape[1:], device=x.device).to(x.dtype)
        return x * kept.div_(1 - self.p)


class _GlobalBatchNorm(nn.BatchNorm2d):
    """Batch norm by the statistics of the whole batch, in any number of dimensions. torch's own works on GPUs only."""

    parallel: DataParallel

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        rest = (0, *range(2, x.dim()))
        shape = (-1, *[1] * (x.dim() - 2))
        n = self.parallel.batch.total * x[0, 0].numel()
        mean = self.parallel.differentiable_sum(x.sum(rest) / n)
        x = x - mean.view(shape)
        variance = self.parallel.differentiable_sum(x.square().sum(rest) / n)
        assert self.running_mean is not None
        assert self.running_var is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(variance * (n / (n - 1)), self.momentum or 0.0)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return x * scale.view(shape) + self.bias.view(shape)

    def _check_input_dim(self, x: Tensor) -> None:
        pass
