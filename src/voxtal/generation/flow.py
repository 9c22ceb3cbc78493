"""The token generator: for each attempt a wish, a composition that fits it, and codes that follow from both.

A wish is the properties of a real crystal, drawn so that those that the objectives like better come more often: values
that are known to go together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import nn

from voxtal.config import ObjectiveConfig
from voxtal.errors import UserError
from voxtal.generation.codes import Codes, codes_of_tokens
from voxtal.generation.generators import Draw, drawn_of
from voxtal.generation.request import Request
from voxtal.generation.wishes import drawn_rows, likelihood
from voxtal.models.build import restore
from voxtal.models.composition import Allowed, draw_composition
from voxtal.models.crystal_flow import CrystalFlow
from voxtal.models.flow import Asked, follow
from voxtal.models.tokens import MAX_ELEMENTS
from voxtal.representations.crystal_graph import GraphLayout
from voxtal.training.device import Arithmetic
from voxtal.training.flow_data import Standard


@dataclass(frozen=True)
class FlowGenerator:
    """A trained :class:`CrystalFlow`, with the constraints that predict properties of what it draws.

    Attributes
    ----------
    conditions, likely
        (n, 2 x properties) and (n,): of the crystals that it was trained on, and how likely each is drawn.
    allowed
        What the request leaves to be drawn.
    steps
        Of the way from noise to codes.
    block
        Attempts that are always drawn together, so that each has the same company whoever asks for it.
    """

    network: CrystalFlow
    conditions: np.ndarray
    likely: np.ndarray
    allowed: Allowed
    constraints: Mapping[str, nn.Module]
    layout: GraphLayout
    seed: int
    steps: int
    device: torch.device
    block: int

    model = "flow"

    @classmethod
    def of(
        cls,
        saved: dict[str, Any],
        objectives: Sequence[ObjectiveConfig],
        constraints: Mapping[str, nn.Module],
        layout: GraphLayout,
        request: Request,
        seed: int,
        steps: int,
        arithmetic: Arithmetic,
        block: int,
    ) -> FlowGenerator:
        """The generator of a record, on the device of ``arithmetic``."""
        facts = saved["facts"]
        network: Any = arithmetic.place(restore(saved))
        values = facts["values"].numpy()
        conditions = Standard(facts["mean"].numpy(), facts["deviation"].numpy()).condition(values)
        likely = likelihood(values, facts["properties"], objectives)
        allowed = _allowed(layout, request, facts["atoms"], arithmetic.device)
        return cls(network, conditions, likely, allowed, constraints, layout, seed, steps, arithmetic.device, block)

    def draw(self, attempts: np.ndarray) -> Draw:
        """Draw at most ``block`` attempts of one block."""
        first = attempts[0] // self.block * self.block
        codes = self._block(np.arange(first, first + self.block))
        return drawn_of(codes, self.constraints, self.layout, self.device, attempts - first)

    @torch.no_grad()
    def _block(self, attempts: np.ndarray) -> Codes:
        chances, noise = self._random(attempts)
        condition = torch.from_numpy(self.conditions[drawn_rows(self.likely, chances[:, 0])]).to(self.device)
        chance = torch.from_numpy(chances[:, 1:]).to(self.device)
        numbers, counts = draw_composition(self.network.composition, condition, self.allowed, chance)
        lattice = np.zeros((len(attempts), self.layout.lattice_latent), dtype=np.float32)
        sites = np.zeros((len(attempts), MAX_ELEMENTS, self.layout.sites_latent), dtype=np.float32)
        n = (numbers > 0).sum(1)
        for tokens in n.unique().tolist():
            rows = n == tokens
            asked = Asked(numbers[rows][:, :tokens], counts[rows][:, :tokens], condition[rows])
            length = self.layout.lattice_latent + tokens * self.layout.sites_latent
            found = follow(self.network.flow, asked, noise[rows.cpu()][:, :length].to(self.device), self.steps)
            lattice[rows.cpu()], sites[rows.cpu().numpy(), :tokens] = (part.cpu().numpy() for part in found)
        owner, token = np.nonzero(numbers.cpu().numpy())
        return codes_of_tokens(lattice, owner, numbers.cpu().numpy()[owner, token], sites[owner, token])

    def _random(self, attempts: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
        """Numbers in [0, 1) and Gaussian noise of numbered attempts, one row each."""
        length = self.layout.lattice_latent + MAX_ELEMENTS * self.layout.sites_latent
        chances, noise = [], []
        for attempt in attempts.tolist():
            rng = np.random.default_rng([self.seed, 5, attempt])
            chances.append(rng.random(1 + 2 * MAX_ELEMENTS, dtype=np.float32))
            noise.append(rng.standard_normal(length, dtype=np.float32))
        return np.stack(chances), torch.from_numpy(np.stack(noise))


def _allowed(layout: GraphLayout, request: Request, atoms: int, device: torch.device) -> Allowed:
    if len(request.system) > MAX_ELEMENTS:
        raise UserError(f"--system {'-'.join(request.system)}: the generator draws at most {MAX_ELEMENTS} elements.")
    known = [chemical_symbols[z] for z in layout.elements]
    wanted = set(request.system or request.elements or known) - set(request.exclude)
    elements = torch.zeros(119, dtype=torch.bool, device=device)
    elements[[atomic_numbers[symbol] for symbol in known if symbol in wanted]] = True
    return Allowed(elements, bool(request.system), MAX_ELEMENTS, min(atoms, request.max_atoms or atoms))
