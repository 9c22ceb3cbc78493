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
from voxtal.training.analogue_data import Arrangements, composition_of
from voxtal.training.device import Arithmetic

TEMPERATURE = 1.2
"""Of drawn elements: fewer attempts are the same."""
TRIES = 4
"""Draws of an attempt's elements: a composition that is known already is drawn again but for the last time."""


@dataclass(frozen=True)
class AnalogueGenerator:
    """A trained :class:`ElementNetwork` with the crystals that it knows, and the encoders.

    Attributes
    ----------
    compositions
        Of the known crystals.
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
    compositions: set[frozenset[tuple[int, int]]]
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
        # a prototype of a thousand crystals would fill the attempts with the same few compositions
        prototypes = known.prototypes()
        likely = likely / np.sqrt(np.bincount(prototypes)[prototypes])
        likely = likely * _possible(known, request, int(allowed.sum()))
        if not likely.any():
            raise UserError(f"None of the {len(known)} known crystals has as many elements and atoms as are asked for.")
        network: Any = arithmetic.place(restore(saved))
        return cls(
            network,
            known,
            known.compositions(),
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
        chances = np.stack([rng.random(2 + (1 + 2 * TRIES) * MAX_ELEMENTS, dtype=np.float32) for rng in streams])
        rows = drawn_rows(self.likely, chances[:, 0])
        k = int(self.known.sizes[rows].max())
        numbers, counts, pairs = (torch.from_numpy(part).to(self.device) for part in self.known.batch(rows, k))
        arrangement = Arrangement(counts, pairs)
        chance = torch.from_numpy(chances[:, 1:]).to(self.device)
        kept = self._kept(numbers, chance[:, 0], chance[:, 1 : 1 + k])
        draws = chance[:, 1 + MAX_ELEMENTS :].unflatten(1, (TRIES, 2, MAX_ELEMENTS))[..., :k].flatten(2)
        new = self._drawn(numbers, kept, arrangement, draws)
        growth = self.network.log_volume(new, arrangement) - self.network.log_volume(numbers, arrangement)
        return self._encoded(rows, new, counts, (growth / 3).exp())

    def _drawn(self, numbers: Tensor, kept: Tensor, arrangement: Arrangement, draws: Tensor) -> Tensor:
        """New elements (batch, tokens); ``draws`` (batch, tries, 2 x tokens) decide."""
        avoided = numbers * 0 if self.anew else numbers
        new, again = numbers, torch.ones_like(kept[:, 0])
        for i in range(1 if self.anew else TRIES):
            drawn = draw_elements(
                self.network, numbers, avoided, kept, arrangement, self.allowed, draws[:, i], TEMPERATURE
            )
            new = torch.where(again[:, None], drawn, new)
            again = again & self._is_known(new, arrangement.counts)
            if not again.any():
                break
        return new

    def _is_known(self, numbers: Tensor, counts: Tensor) -> Tensor:
        """(batch,) whether there is a known crystal of the same composition."""
        rows = zip(numbers.cpu().numpy(), counts.cpu().numpy(), strict=True)
        known = [composition_of(row[row > 0], amounts[row > 0]) in self.compositions for row, amounts in rows]
        return torch.tensor(known, device=numbers.device)

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
