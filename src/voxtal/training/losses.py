"""Losses, as pure functions of network outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxtal.config import ObjectiveConfig
from voxtal.models.unet import UNet

_OCCUPIED_WEIGHT = 20.0
"""Extra weight of a full voxel: one in a few hundred is not empty."""
_LINEAR_FROM = 5.0
"""Where exp(s) goes on as its tangent: no crystal has E_f = 5 eV/atom, and far from a target exp overflows."""


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


def constraint_loss(outputs: Tensor, targets: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Error of a constraint's outputs (batch, 1 or 2) on targets (batch,), in units of ``scale`` about ``mean``.

    Squared for small errors and absolute for large ones. Of two outputs the second is the logit of the target not being
    zero, and the first is only judged where it is not.
    """
    error = F.smooth_l1_loss(outputs[:, 0], (targets - mean) / scale, reduction="none")
    if outputs.shape[1] == 1:
        return error.mean()
    there = (targets != 0).float()
    # means over the batch: a mean over those that are there would be another one on each rank
    return (there * error).mean() + F.binary_cross_entropy_with_logits(outputs[:, 1], there)


def species_loss(logits: Tensor, classes: Tensor, weights: Tensor, voxels: int) -> Tensor:
    """First term of ICSG3D's eq. 7: weighted categorical cross-entropy of the species, mean over ``voxels``.

    The weight of the background is zero, so that only the others' logits are needed.

    Parameters
    ----------
    logits
        (v, K) at the voxels that are in an ion.
    classes
        (v,) which of the K they are.
    weights
        (K,) of the classes.
    voxels
        All there are, the background's too. (The published code takes this mean, the equation a sum.)
    """
    return F.cross_entropy(logits.float(), classes, weights, reduction="sum") / voxels


def binary_map_loss(logits: Tensor, inside: Tensor) -> Tensor:
    """Second term of eq. 7: binary cross-entropy of a voxel being in an ion, mean over all voxels."""
    return F.binary_cross_entropy_with_logits(logits.float(), inside.float())


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """L_KLD of eq. 4: Kullback-Leibler divergence of Gaussian codes (b, latent) from the unit normal, nats; summed over
    the code and averaged over the batch."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1).mean()


def perceptual_loss(unet: UNet, maps: Tensor, decoded: Tensor) -> Tensor:
    """Third term of eq. 5, without alpha: mean squared differences of the UNet's features phi_p, summed over p."""
    with torch.no_grad():
        expected = list(unet.perceptual(maps))
    pairs = zip(unet.perceptual(decoded), expected, strict=True)
    return torch.stack([F.mse_loss(ours.float(), theirs.float()) for ours, theirs in pairs]).sum()


def discriminator_loss(original: Tensor, generated: Tensor) -> Tensor:
    """Eq. 1 as cross-entropy on logits: D -> 0 for original graphs and 1 for generated ones."""
    return 0.5 * (
        F.binary_cross_entropy_with_logits(original, torch.zeros_like(original))
        + F.binary_cross_entropy_with_logits(generated, torch.ones_like(generated))
    )


def generator_loss(generated: Tensor) -> Tensor:
    """First term of eq. 2: 1/2 E[D(z)], D from logits."""
    return 0.5 * torch.sigmoid(generated).mean()


def objective_term(objective: ObjectiveConfig, predicted: Tensor) -> Tensor:
    """exp(s) (batch,) of eq. 2's other terms, for predictions (batch,) in the property's unit.

    s is the prediction where it should be low (the published term: exp(E_f)), minus it where it should be high, its
    distance to a target, or its distance to a range, each over the objective's scale.
    """
    if objective.range is not None:
        lowest, highest = objective.range
        distance = F.relu(lowest - predicted) + F.relu(predicted - highest)
    elif objective.target is not None:
        distance = (predicted - objective.target).abs()
    else:
        distance = predicted if objective.goal == "low" else -predicted
    s = distance / objective.scale
    beyond = F.relu(s - _LINEAR_FROM)
    return torch.exp(s - beyond) * (1 + beyond)


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
