"""Layers whose result for one sample depends on the whole batch, or on its place in it, over many ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
        n = self.parallel.batch.total * x[0, 0].numel()
        with torch.no_grad():
            mean, variance = self._of_whole_batch(x, n)
            assert self.running_mean is not None
            assert self.running_var is not None
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(variance * (n / (n - 1)), self.momentum or 0.0)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        return _Normalized.apply(x, self.weight, self.bias, mean, variance, self.eps, n, self.parallel)

    def _of_whole_batch(self, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Mean and variance (channels,) of ``n`` numbers a channel, of which ``x`` holds some."""
        # three times as fast as torch.var_mean; of bfloat16 it would be as coarse
        found = torch.batch_norm_update_stats(x.to(self.weight.dtype), None, None, 0.0)
        own_mean, own_variance = (own.double() for own in found)
        share = x.numel() / x.shape[1] / n
        moments = [own_mean * share, (own_variance + own_mean.square()) * share]
        mean, square = (moment.clone() for moment in self.parallel.sum(moments, torch.float64))
        return mean.to(self.weight.dtype), (square - mean.square()).clamp_(min=0).to(self.weight.dtype)

    def _check_input_dim(self, x: Tensor) -> None:
        pass


class _Normalized(torch.autograd.Function):
    """``x`` normalized by the ``mean`` and ``variance`` (channels,) of ``n`` numbers a channel on all ranks.

    Both depend on ``x``, and on that of the other ranks: S. Ioffe, C. Szegedy, arXiv:1502.03167, section 3.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        n: int,
        parallel: DataParallel,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.n, ctx.parallel = eps, n, parallel
        return nn.functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )  # of constant statistics
        of_all_weights, of_all_biases = (
            total.clone() for total in ctx.parallel.sum([of_weight, of_bias], of_weight.dtype)
        )
        scale = torch.rsqrt(variance + ctx.eps)
        slope = -weight * scale.square() * of_all_weights / ctx.n
        offset = -weight * scale * of_all_biases / ctx.n - slope * mean
        shape = (-1, *[1] * (x.dim() - 2))
        of_x.addcmul_(x, slope.view(shape)).add_(offset.view(shape))
        return of_x, of_weight, of_bias, *[None] * 5
