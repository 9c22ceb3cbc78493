"""The token generator: for each attempt a wish, a composition that fits it, and codes that follow from both.

A wish is the properties of a real crystal, drawn so that those that the objectives like better come more often: values
that are known to go together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from voxtal.errors import UserError
from voxtal.generation.codes import Codes, codes_of_tokens
from voxtal.generation.generators import BlockGenerator, Setting
from voxtal.generation.wishes import drawn_rows, likelihood
from voxtal.models.build import restore
from voxtal.models.composition import Allowed, draw_composition
from voxtal.models.crystal_flow import CrystalFlow
from voxtal.models.flow import Asked, follow
from voxtal.models.tokens import MAX_ELEMENTS
from voxtal.training.flow_data import Standard


@dataclass(frozen=True)
class FlowGenerator(BlockGenerator):
    """A trained :class:`CrystalFlow`, with the constraints that predict properties of what it draws.

    Attributes
    ----------
    conditions, likely
        (n, 2 x properties) and (n,): of the crystals that it was trained on, and how likely each is drawn.
    allowed
        What the request leaves to be drawn.
    steps
        Of the way from noise to codes.
    """

    network: CrystalFlow
    conditions: np.ndarray
    likely: np.ndarray
    allowed: Allowed
    steps: int

    model = "flow"

    @classmethod
    def of(cls, setting: Setting, saved: dict[str, Any], steps: int) -> FlowGenerator:
        """The generator of a record; UserError where more elements are requested than it draws."""
        request, facts = setting.request, saved["facts"]
        if len(request.system) > MAX_ELEMENTS:
            raise UserError(
                f"--system {'-'.join(request.system)}: the generator draws at most {MAX_ELEMENTS} elements."
            )
        values = facts["values"].numpy()
        most = min(facts["atoms"], request.max_atoms or facts["atoms"])
        network: Any = setting.arithmetic.place(restore(saved))
        return cls(
            setting,
            network,
            Standard(facts["mean"].numpy(), facts["deviation"].numpy()).condition(values),
            likelihood(values, facts["properties"], setting.objectives),
            Allowed(setting.allowed(), bool(request.system), MAX_ELEMENTS, most),
            steps,
        )

    @torch.no_grad()
    def block(self, attempts: np.ndarray) -> Codes:
        """Codes of all attempts of a block."""
        layout, device = self.setting.layout, self.setting.device
        chances, noise = self._random(attempts)
        condition = torch.from_numpy(self.conditions[drawn_rows(self.likely, chances[:, 0])]).to(device)
        chance = torch.from_numpy(chances[:, 1:]).to(device)
        numbers, counts = draw_composition(self.network.composition, condition, self.allowed, chance)
        lattice = np.zeros((len(attempts), layout.lattice_latent), dtype=np.float32)
        sites = np.zeros((len(attempts), MAX_ELEMENTS, layout.sites_latent), dtype=np.float32)
        n = (numbers > 0).sum(1)
        for tokens in n.unique().tolist():
            rows = n == tokens
            asked = Asked(numbers[rows][:, :tokens], counts[rows][:, :tokens], condition[rows])
            length = layout.lattice_latent + tokens * layout.sites_latent
            found = follow(self.network.flow, asked, noise[rows.cpu()][:, :length].to(device), self.steps)
            lattice[rows.cpu()], sites[rows.cpu().numpy(), :tokens] = (part.cpu().numpy() for part in found)
        owner, token = np.nonzero(numbers.cpu().numpy())
        return codes_of_tokens(lattice, owner, numbers.cpu().numpy()[owner, token], sites[owner, token])

    def _random(self, attempts: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
        """Numbers in [0, 1) and Gaussian noise of numbered attempts, one row each."""
        layout = self.setting.layout
        length = layout.lattice_latent + MAX_ELEMENTS * layout.sites_latent
        chances, noise = [], []
        for attempt in attempts.tolist():
            rng = np.random.default_rng([self.setting.seed, 5, attempt])
            chances.append(rng.random(1 + 2 * MAX_ELEMENTS, dtype=np.float32))
            noise.append(rng.standard_normal(length, dtype=np.float32))
        return np.stack(chances), torch.from_numpy(np.stack(noise))
