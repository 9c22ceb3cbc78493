"""The analogue generator: new elements in the arrangement of a known crystal, drawn by a network, and a size that fits.

An attempt's crystal is drawn from those that the network was trained on, those that the objectives like better more
often. The result is encoded, so that it is a crystal graph like any other and everything after it is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voxtal.errors import UserError
from voxtal.generation.codes import Codes, codes_of_tokens
from voxtal.generation.generators import BlockGenerator, Setting
from voxtal.generation.request import Request
from voxtal.generation.wishes import drawn_rows, likelihood
from voxtal.models.atoms import AtomsAutoencoder, CellAutoencoder, in_order
from voxtal.models.build import restore
from voxtal.models.elements import Arrangement, ElementNetwork, draw_elements
from voxtal.models.tokens import MAX_ELEMENTS
from voxtal.training.analogue_data import Arrangements, composition_of
from voxtal.training.separated import by_network

TEMPERATURE = 1.2
"""Of drawn elements: fewer attempts are the same."""
TRIES = 4
"""Draws of an attempt's elements: a composition that is known already is drawn again but for the last time."""


@dataclass(frozen=True)
class AnalogueGenerator(BlockGenerator):
    """A trained :class:`ElementNetwork` with the crystals that it knows, and the encoders.

    Attributes
    ----------
    compositions
        Of the known crystals.
    likely
        (n,) how likely each known crystal is taken.
    allowed
        (119,) which elements there may be.
    lattice, sites, own
        Encoders: of cells, of the sites of an element, and of those of elements that have one of their own.
    """

    network: ElementNetwork
    known: Arrangements
    compositions: set[frozenset[tuple[int, int]]]
    likely: np.ndarray
    allowed: Tensor
    lattice: CellAutoencoder
    sites: AtomsAutoencoder
    own: Mapping[int, AtomsAutoencoder]

    model = "analogue"

    @classmethod
    def of(
        cls,
        setting: Setting,
        saved: dict[str, Any],
        lattice: nn.Module,
        sites: nn.Module,
        own: Mapping[int, nn.Module],
    ) -> AnalogueGenerator:
        """The generator of a record, with the round's autoencoders.

        Raises
        ------
        UserError
            The autoencoders are of voxels, or no known crystal can be what is requested.
        """
        if not (isinstance(lattice, CellAutoencoder) and isinstance(sites, AtomsAutoencoder)):
            raise UserError(
                'generate.generator = "analogue" encodes crystals, which takes autoencoders with network = "atoms" '
                "(train.lattice_ae and train.sites_ae)."
            )
        known = Arrangements.from_facts(saved["facts"])
        allowed = setting.allowed()
        # a prototype of a thousand crystals would fill the attempts with the same few compositions
        prototypes = known.prototypes()
        likely = likelihood(known.values, saved["facts"]["properties"], setting.objectives)
        likely = likely / np.sqrt(np.bincount(prototypes)[prototypes])
        likely = likely * _possible(known, setting.request, int(allowed.sum()))
        if not likely.any():
            raise UserError(f"None of the {len(known)} known crystals has as many elements and atoms as are asked for.")
        place: Any = setting.arithmetic.place
        return cls(
            setting,
            place(restore(saved)),
            known,
            known.compositions(),
            likely,
            allowed,
            place(lattice),
            place(sites),
            {number: place(network) for number, network in own.items()},
        )

    @property
    def anew(self) -> bool:
        """Whether all elements are drawn anew, the old ones among them; else one at least is exchanged for another."""
        return bool(self.setting.request.system)

    @torch.no_grad()
    def block(self, attempts: np.ndarray) -> Codes:
        """Codes of all attempts of a block."""
        device = self.setting.device
        streams = [np.random.default_rng([self.setting.seed, 6, attempt]) for attempt in attempts.tolist()]
        chances = np.stack([rng.random(2 + (1 + 2 * TRIES) * MAX_ELEMENTS, dtype=np.float32) for rng in streams])
        rows = drawn_rows(self.likely, chances[:, 0])
        k = int(self.known.sizes[rows].max())
        numbers, counts, pairs = (torch.from_numpy(part).to(device) for part in self.known.batch(rows, k))
        arrangement = Arrangement(counts, pairs)
        chance = torch.from_numpy(chances[:, 1:]).to(device)
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
        positions = torch.from_numpy(self.known.atoms_of(rows, self.sites.atoms)).to(numbers.device)
        there, elements = counts[owner, token], numbers[owner, token]
        ordered = in_order(positions * scale[owner, None, None], there)
        sites = ordered.new_empty(len(elements), self.setting.layout.sites_latent)
        for number, places in by_network(elements.cpu().numpy(), self.own):
            network = self.own.get(number, self.sites)
            sites[places] = network.encode(ordered[places], there[places], elements[places])
        cells = torch.from_numpy(self.known.cells[rows]).to(numbers.device) * scale[:, None, None]
        lattice = self.lattice.encode(cells)
        return codes_of_tokens(*(part.cpu().numpy() for part in (lattice, owner, elements, sites)))


def _possible(known: Arrangements, request: Request, elements: int) -> np.ndarray:
    """(n,) which crystals an attempt may be like: of so many elements and atoms."""
    possible = known.sizes == len(request.system) if request.system else known.sizes <= elements
    return possible & (known.atoms <= request.max_atoms) if request.max_atoms is not None else possible
