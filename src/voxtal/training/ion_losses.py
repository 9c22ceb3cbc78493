"""How far drawn ions are from those of a crystal: each ion against the slot that it is assigned to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from voxtal.models.ions_vae import DrawnIons, Ions

_ELEMENT_ANGSTROM = 0.3
"""What a nat of an element's or an ion's likelihood counts in the assignment, in angstrom."""
_SLOTS_AN_ION = 8
"""Slots' errors in telling whether there is an ion are summed, and divided by about as many as there are ions."""


@torch.no_grad()
def assigned(drawn: DrawnIons, ions: Ions) -> Tensor:
    """(b, n) the slot of each ion, where all of a crystal's fit best (Kuhn and Munkres); 0 beyond the last ion."""
    from scipy.optimize import linear_sum_assignment

    edges = _edges(ions)
    far = (drawn.places[:, :, None] - ions.places[:, None]).mul(edges[:, None, None]).abs().sum(-1)
    likely = drawn.likelihoods(ions.numbers) + drawn.presence[..., None]
    costs = (far - _ELEMENT_ANGSTROM * likely).double().cpu().numpy()
    out = np.zeros(ions.numbers.shape, dtype=np.int64)
    for b, n in enumerate(ions.counts.tolist()):
        slots, those = linear_sum_assignment(costs[b, :, :n])
        out[b, those] = slots
    return torch.from_numpy(out).to(ions.numbers.device)


def ion_losses(drawn: DrawnIons, ions: Ions, slots: Tensor | None = None) -> dict[str, Tensor]:
    """Of ions in their ``slots``, those of :func:`assigned` if not given: means over the crystals, each of a crystal a
    mean over its ions.

    ``place``: absolute differences of coordinates, angstrom, summed over the axes. ``element``, ``count``:
    cross-entropies. ``presence``: binary cross-entropy of the slots. ``cell``: absolute differences of the edges'
    logarithms and the angles' cosines, in angstrom of a mean edge.
    """
    slots = assigned(drawn, ions) if slots is None else slots
    there = ions.there.float()
    each = there / ions.counts.clamp_min(1)[:, None]
    places = drawn.places.gather(1, slots[..., None].expand(-1, -1, 3))
    likely = drawn.likelihoods(ions.numbers).gather(1, slots[:, None]).squeeze(1)
    edges = _edges(ions)
    far = (places - ions.places).mul(edges[:, None]).abs().sum(-1)
    filled = torch.zeros_like(drawn.presence).scatter_add_(1, slots, there)
    presence = F.binary_cross_entropy_with_logits(drawn.presence, filled, reduction="none").sum(1) / _SLOTS_AN_ION
    cell = (drawn.shapes - ions.shapes).abs().sum(1) * edges.mean(1)
    return {
        "place": (far * each).sum(1).mean(),
        "element": -(likely * each).sum(1).mean(),
        "presence": presence.mean(),
        "count": F.cross_entropy(drawn.counts, ions.counts),
        "cell": cell.mean(),
    }


@torch.no_grad()
def ion_errors(drawn: DrawnIons, ions: Ions) -> Tensor:
    """Mean over the crystals of ``place`` and ``cell`` of :func:`ion_losses`, angstrom, the share of ions of a wrong
    element or left out, and whether the number of ions is wrong."""
    slots = assigned(drawn, ions)
    losses = ion_losses(drawn, ions, slots)
    right = (drawn.numbers.gather(1, slots) == ions.numbers) & ions.there
    wrong = 1 - right.sum(1) / ions.counts.clamp_min(1)
    miscounted = (drawn.counts.argmax(1) != ions.counts).float()
    return losses["place"] + losses["cell"] + wrong.mean() + miscounted.mean()


def _edges(ions: Ions) -> Tensor:
    """(b, 3) lengths of the cells' edges, angstrom."""
    return ions.cells.norm(dim=2)
