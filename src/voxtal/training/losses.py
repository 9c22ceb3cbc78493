"""Losses, as pure functions of network outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_OCCUPIED_WEIGHT = 20.0
"""Extra weight of a full voxel: one in a few hundred is not empty."""


def squared_error(logits: Tensor, images: Tensor) -> Tensor:
    """The published autoencoder loss, without the near-step threshold whose gradient vanishes (docs/conventions.md)."""
    return F.mse_loss(torch.sigmoid(logits.float()), images)


def weighted_cross_entropy(logits: Tensor, images: Tensor) -> Tensor:
    """Binary cross-entropy against soft targets, weight 1 + 20 x so that the few occupied voxels count.

    Where Gaussians overlap to more than one, the target is one.
    """
    targets = images.clamp(max=1.0)
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return torch.mean(loss * (1 + _OCCUPIED_WEIGHT * targets))


def discriminator_loss(original: Tensor, generated: Tensor) -> Tensor:
    """Eq. 1 as cross-entropy on logits: D -> 0 for original graphs and 1 for generated ones."""
    return 0.5 * (
        F.binary_cross_entropy_with_logits(original, torch.zeros_like(original))
        + F.binary_cross_entropy_with_logits(generated, torch.ones_like(generated))
    )


def generator_loss(generated: Tensor, formation_energy: Tensor, weight: float) -> Tensor:
    """Eq. 2: 1/2 E[D(z)] + omega E[exp(E_f(z))], D from logits."""
    return 0.5 * torch.sigmoid(generated).mean() + weight * torch.exp(formation_energy).mean()


def relativistic_loss(better: Tensor, worse: Tensor) -> Tensor:
    """Pairwise relativistic loss: the logit of ``better`` should lie below that of ``worse`` (D -> 0 for original).

    Source: A. Jolicoeur-Martineau, arXiv:1807.00734; with gradient penalties on both sides it converges locally
    (R3GAN, arXiv:2501.05441).
    """
    return F.softplus(better - worse).mean()


def gradient_penalty(discriminator: nn.Module, graphs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of ``graphs`` and the mean squared norm of their gradient (R1 on originals, R2 on generated)."""
    inputs = graphs.detach().requires_grad_()
    logits = discriminator(inputs)
    (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return logits, gradient.pow(2).flatten(1).sum(1).mean()
