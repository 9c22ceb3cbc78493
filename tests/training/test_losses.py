"""Losses: their optimum, their sign, and their value on numbers done by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from voxtal.config import ObjectiveConfig
from voxtal.training.losses import (
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    objective_term,
    relativistic_loss,
    squared_error,
    weighted_cross_entropy,
)

LOW = ObjectiveConfig(property="formation_energy", goal="low")


def test_discriminator_calls_originals_zero_and_generated_ones_one() -> None:
    """Eq. 1 of the paper has D -> 0 for originals; the other way round the generator learns to be found out."""
    low, high = torch.full((4,), -8.0), torch.full((4,), 8.0)
    assert discriminator_loss(low, high) < 1e-3
    assert discriminator_loss(high, low) > 7
    undecided = torch.zeros(4)
    assert float(discriminator_loss(undecided, undecided)) == pytest.approx(math.log(2))


def test_generator_loss_is_eq_2() -> None:
    """1/2 E[D(z)] and E[exp(E_f)] with D = 1/2, 3/4 and E_f = 0, ln 3: 0.3125 and 2."""
    logits = torch.tensor([0.0, math.log(3.0)])
    energies = torch.tensor([0.0, math.log(3.0)])
    assert float(generator_loss(logits)) == pytest.approx(0.3125)
    assert float(objective_term(LOW, energies).mean()) == pytest.approx(2)


def test_generator_gains_by_fooling_and_by_low_energy() -> None:
    """A sign that rewards unstable or unlikely structures."""
    logits = torch.zeros(3, requires_grad=True)
    energies = torch.zeros(3, requires_grad=True)
    (generator_loss(logits) + objective_term(LOW, energies).mean()).backward()
    assert logits.grad is not None
    assert energies.grad is not None
    assert (logits.grad > 0).all()
    assert (energies.grad > 0).all()


@pytest.mark.parametrize(
    ("asked", "terms"),
    [
        ({"goal": "low"}, [-2, 0, 1, 3]),
        ({"goal": "high"}, [2, 0, -1, -3]),
        ({"target": 1.0}, [3, 1, 0, 2]),
        ({"range": (0.5, 1.5)}, [2.5, 0.5, 0, 1.5]),
        ({"range": (0.5, 1.5), "scale": 0.5}, [5, 1, 0, 3]),
    ],
)
def test_terms_by_hand(asked: dict[str, Any], terms: list[float]) -> None:
    """s of predictions -2, 0, 1 and 3: a distance of the wrong sign, or without its scale, asks for something else."""
    objective = ObjectiveConfig(property="band_gap", **asked)
    predicted = torch.tensor([-2.0, 0.0, 1.0, 3.0])
    assert torch.log(objective_term(objective, predicted)).tolist() == pytest.approx(terms, abs=1e-5)


def test_term_far_from_its_goal_is_finite() -> None:
    """A bulk modulus in GPa that is 200 off its target, without a scale: exp(200) ends the training in NaN."""
    predicted = torch.tensor([0.0, 5.0, 5.1, 200.0], requires_grad=True)
    terms = objective_term(LOW, predicted)
    terms.sum().backward()
    assert torch.isfinite(terms).all()
    assert (terms.diff() > 0).all()
    assert predicted.grad is not None
    assert predicted.grad.tolist() == pytest.approx([1, *[math.exp(5)] * 3], rel=1e-4)


def test_relativistic_loss_wants_the_better_logit_lower() -> None:
    """The discriminator calls relativistic_loss(original, generated): original must end below generated."""
    low, high = torch.tensor([-5.0]), torch.tensor([5.0])
    assert relativistic_loss(low, high) < 1e-3
    assert relativistic_loss(high, low) > 9
    assert float(relativistic_loss(low, low)) == pytest.approx(math.log(2))


def test_weighted_cross_entropy_is_least_at_the_image() -> None:
    """A weight that depends on the prediction, or a clamp of the wrong side, moves the optimum off the target."""
    images = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0, 1.4]).reshape(1, 1, 1, 1, 6)
    logits = torch.zeros_like(images, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(400):
        optimizer.zero_grad()
        weighted_cross_entropy(logits, images).backward()
        optimizer.step()
    assert torch.allclose(torch.sigmoid(logits.detach()), images.clamp(max=1.0), atol=0.01)


def test_weighted_cross_entropy_by_hand() -> None:
    """At logit 0 every voxel costs ln 2, a full one 21 times."""
    loss = weighted_cross_entropy(torch.zeros(1, 1, 1, 1, 2), torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 1, 2))
    assert float(loss) == pytest.approx(math.log(2) * (1 + 21) / 2)


def test_squared_error_has_a_gradient_where_the_published_threshold_has_none() -> None:
    """A decoded voxel that is on the right side of 0.5 must still be pulled to its value."""
    logits = torch.full((1, 1, 2, 2, 2), 1.0, requires_grad=True)
    squared_error(logits, torch.ones(1, 1, 2, 2, 2)).backward()
    assert logits.grad is not None
    assert (logits.grad < 0).all()


def test_gradient_penalty_of_a_plane() -> None:
    """The squared slope of a linear discriminator, the same for every graph."""
    plane = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1), torch.nn.Flatten(0))
    weight = plane[1].weight
    logits, penalty = gradient_penalty(plane, torch.randn(3, 2, 2))
    assert logits.shape == (3,)
    assert torch.allclose(penalty, weight.pow(2).sum())
    penalty.backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad, 2 * weight.detach())
