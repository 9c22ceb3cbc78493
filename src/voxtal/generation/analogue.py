"""The analogue generator: new elements in the arrangement of a known crystal, drawn by a network, and a size that fits.

An attempt's crystal is drawn from those that the network was trained on, those that the objectives like better more
often. The result is encoded, so that it is a crystal graph like any other and everything after it is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor, nn

from voxtal.config import ObjectiveConfig
from voxtal.errors import UserError
from voxtal.generation.codes import Codes, codes_of_tokens
from voxtal.generation.generators import Draw, drawn_of
from voxtal.generation.request import Request
from voxtal.generation.wishes import drawn_rows, likelihood
from voxtal.models.atoms import AtomsAutoencoder, CellAutoencoder, in_order
from voxtal.models.build import restore
from voxtal.models.elements import NUMBERS, Arrangement, ElementNetwork, draw_elements
from voxtal.models.tokens import MAX_ELEMENTS
from voxtal.representations.crystal_graph import GraphLayout
from voxtal.training.analogue_data import Arrangements
from voxtal.training.device import Arithmetic


@dataclass(frozen=True)
class AnalogueGenerator:
    """A trained :class:`ElementNetwork` with the crystals that it knows, and the encoders.

    Attributes
    ----------
    likely
        (n,) how likely each known crystal is taken.
    allowed
        (119,) which elements there may be.
    anew
        Whether every element is drawn anew, the old ones among them; else one at least is exchanged, for another one.
    block
        Attempts that are always drawn together, so that each has the same company whoever asks for it.
    """

    network: ElementNetwork
    known: Arrangements
    likely: np.ndarray
    allowed: Tensor
    anew: bool
    lattice: CellAutoencoder
    sites: AtomsAutoencoder
    constraints: Mapping[str, nn.Module]
    layout: GraphLayout
    seed: int
    device: torch.device
    block: int

    model = "analogue"

    @classmethod
    def of(
        cls,
        saved: dict[str, Any],
        encoders: tuple[nn.Module, nn.Module],
        objectives: Sequence[ObjectiveConfig],
        constraints: Mapping[str, nn.Module],
        layout: GraphLayout,
        request: Request,
        seed: int,
        arithmetic: Arithmetic,
        block: int,
    ) -> AnalogueGenerator:
        """The generator of a record, on the device of ``arithmetic``.

        Raises
        ------
        UserError
            The autoencoders are of voxels, or no known crystal can be what is requested.
        """
        lattice, sites = encoders
        if not (isinstance(lattice, CellAutoencoder) and isinstance(sites, AtomsAutoencoder)):
            raise UserError(
                'generate.generator = "analogue" encodes crystals, which takes autoencoders with network = "atoms" '
                "(train.lattice_ae and train.sites_ae)."
            )
        known = Arrangements.from_facts(saved["facts"])
        allowed = _allowed(layout, request)
        likely = likelihood(known.values, saved["facts"]["properties"], objectives)
        likely = likely * _possible(known, request, int(allowed.sum()))
        if not likely.any():
            raise UserError(f"None of the {len(known)} known crystals has as many elements and atoms as are asked for.")
        network: Any = arithmetic.place(restore(saved))
        return cls(
            network,
            known,
            likely,
            allowed.to(arithmetic.device),
            bool(request.system),
            arithmetic.place(lattice),  # type: ignore[arg-type]
            arithmetic.place(sites),  # type: ignore[arg-type]
            constraints,
            layout,
            seed,
            arithmetic.device,
            block,
        )

    def draw(self, attempts: np.ndarray) -> Draw:
        """Draw at most ``block`` attempts of one block."""
        first = attempts[0] // self.block * self.block
        codes = self._block(np.arange(first, first + self.block))
        return drawn_of(codes, self.constraints, self.layout, self.device, attempts - first)

    @torch.no_grad()
    def _block(self, attempts: np.ndarray) -> Codes:
        streams = [np.random.default_rng([self.seed, 6, attempt]) for attempt in attempts.tolist()]
        chances = np.stack([rng.random(2 + 3 * MAX_ELEMENTS, dtype=np.float32) for rng in streams])
        rows = drawn_rows(self.likely, chances[:, 0])
        k = int(self.known.sizes[rows].max())
        numbers, counts, pairs = (torch.from_numpy(part).to(self.device) for part in self.known.batch(rows, k))
        arrangement = Arrangement(counts, pairs)
        chance = torch.from_numpy(chances[:, 1:]).to(self.device)
        kept = self._kept(numbers, chance[:, 0], chance[:, 1 : 1 + k])
        draws = chance[:, 1 + MAX_ELEMENTS :].unflatten(1, (2, MAX_ELEMENTS))[:, :, :k].flatten(1)
        taken = numbers * 0 if self.anew else numbers
        new = draw_elements(self.network, numbers, taken, kept, arrangement, self.allowed, draws)
        growth = self.network.log_volume(new, arrangement) - self.network.log_volume(numbers, arrangement)
        return self._encoded(rows, new, counts, (growth / 3).exp())

    def _kept(self, numbers: Tensor, chance: Tensor, order: Tensor) -> Tensor:
        """(batch, tokens) which elements stay: none that is not allowed, and not all of them."""
        there = numbers > 0
        if self.anew:
            return torch.zeros_like(there)
        exchanged = 1 + (chance * there.sum(1)).long()
        rank = order.masked_fill(~there, 2.0).argsort(1).argsort(1)
        return there & (rank >= exchanged[:, None]) & self.allowed[numbers]

    def _encoded(self, rows: np.ndarray, numbers: Tensor, counts: Tensor, scale: Tensor) -> Codes:
        """Codes of known crystals with new elements (batch, tokens), ``scale`` (batch,) times as long."""
        owner, token = (numbers > 0).nonzero(as_tuple=True)
        positions = torch.from_numpy(self.known.atoms_of(rows, self.sites.atoms)).to(self.device)
        there, elements = counts[owner, token], numbers[owner, token]
        sites = self.sites.encode(in_order(positions * scale[owner, None, None], there), there, elements)
        cells = torch.from_numpy(self.known.cells[rows]).to(self.device) * scale[:, None, None]
        lattice = self.lattice.encode(cells)
        return codes_of_tokens(lattice.cpu().numpy(), owner.cpu().numpy(), elements.cpu().numpy(), sites.cpu().numpy())


def _allowed(layout: GraphLayout, request: Request) -> Tensor:
    known = [chemical_symbols[z] for z in layout.elements]
    wanted = set(request.system or request.elements or known) - set(request.exclude)
    allowed = torch.zeros(NUMBERS, dtype=torch.bool)
    allowed[[atomic_numbers[symbol] for symbol in known if symbol in wanted]] = True
    return allowed


def _possible(known: Arrangements, request: Request, elements: int) -> np.ndarray:
    """(n,) which crystals an attempt may be like: of so many elements and atoms."""
    possible = known.sizes == len(request.system) if request.system else known.sizes <= elements
    return possible & (known.atoms <= request.max_atoms) if request.max_atoms is not None else possible
