"""Draws that given random numbers decide, so that a sample depends on nothing else."""

from __future__ import annotations

from torch import Tensor


def chosen(logits: Tensor, chance: Tensor) -> Tensor:
    """(batch,) choices among logits (batch, n): the first whose cumulative probability exceeds ``chance`` (batch,)."""
    cumulative = logits.softmax(1).nan_to_num(0.0).cumsum(1)  # NaN: nothing may be chosen
    return (cumulative <= chance[:, None] * cumulative[:, -1:]).sum(1).clamp_max(logits.shape[1] - 1)


def random_order(chance: Tensor, there: Tensor) -> Tensor:
    """Places (batch, tokens) in a random order: first those that are ``there`` (batch, tokens).

    ``chance`` (batch, tokens) in [0, 1) decides.
    """
    return chance.masked_fill(~there, 2.0).argsort(1)


def random_rank(chance: Tensor, there: Tensor) -> Tensor:
    """When each place's turn is (batch, tokens) in :func:`random_order`."""
    return random_order(chance, there).argsort(1)
