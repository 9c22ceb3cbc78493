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
from voxtal.generation.wishes import evenly_drawn_rows, likelihood
from voxtal.models.atoms import AtomsAutoencoder, CellAutoencoder, in_order
from voxtal.models.build import restore
from voxtal.models.drawing import random_rank
from voxtal.models.elements import Arrangement, ElementNetwork, bonded, draw_elements, pseudo_log_likelihood
from voxtal.models.tokens import MAX_ELEMENTS
from voxtal.training.analogue_data import Arrangements, composition_of
from voxtal.training.separated import by_network

TEMPERATURE = 1.5
"""Of drawn elements: fewer attempts are the same."""
PROPOSALS = 8
"""Draws of an attempt's elements. The first that fits is kept, or the likeliest: a draw in two fits badly."""
FITTING = -3.0
"""Elements fit whose log likelihood is no more than this below that of the old ones; of the likeliest, too many
attempts would be the same."""
GROWTH = (-0.15, 0.25)
"""And whose crystal is not much smaller or larger (logarithm of the ratio of volumes): elements of another size want
another coordination (benchmarks/analogue_fit.py)."""
BONDED = 0.68
"""Elements with atoms closer than this, in cube roots of the volume of an atom, are groups such as phosphate: no other
elements fit there, so that they stay."""
GIVEN_BACK_ANGSTROM = 0.2
"""Crystals whose sites the autoencoder moves further are left out, but for the better half where it is a poor one."""
_OTHER_SIZE = 10.0
"""Taken from the log likelihood where the size is another."""
_WORSE = 1e4
"""Taken from the log likelihood of a known composition: any other is better."""


@dataclass(frozen=True)
class Exchange:
    """Known crystals, and what takes the place of their elements.

    Attributes
    ----------
    rows
        (n,) which of the known crystals.
    numbers, counts
        (n, tokens) the new elements, 0 where there are no more, and how many atoms of each.
    gain
        (n,) log likelihood of the new elements less that of the old ones.
    growth
        (n,) logarithm of the new volume over the old one.
    """

    rows: np.ndarray
    numbers: Tensor
    counts: Tensor
    gain: Tensor
    growth: Tensor


@dataclass(frozen=True)
class AnalogueGenerator(BlockGenerator):
    """A trained :class:`ElementNetwork` with the crystals that it knows, and the encoders.

    Attributes
    ----------
    compositions
        Of the known crystals.
    prototypes
        (n,) of the known crystals, numbered.
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
    prototypes: np.ndarray
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
        # a prototype or a system of a thousand crystals would fill the attempts with the same few compositions
        prototypes = known.prototypes()
        likely = likelihood(known.values, saved["facts"]["properties"], setting.objectives)
        for kinds in (prototypes, known.systems()):
            likely = likely / np.sqrt(np.bincount(kinds)[kinds])
        likely = likely * _possible(known, setting.request, int(allowed.sum()))
        if not likely.any():
            raise UserError(f"None of the {len(known)} known crystals has as many elements and atoms as are asked for.")
        place: Any = setting.arithmetic.place
        placed, placed_own = place(sites), {number: place(network) for number, network in own.items()}
        moved = _moved(known, placed, placed_own, setting.device)
        likely = likely * (moved <= max(GIVEN_BACK_ANGSTROM, np.median(moved[likely > 0])))
        return cls(
            setting,
            place(restore(saved)),
            known,
            known.compositions(),
            prototypes,
            likely,
            allowed,
            place(lattice),
            placed,
            placed_own,
        )

    @property
    def anew(self) -> bool:
        """Whether all elements are drawn anew, the old ones among them; else one at least is exchanged for another."""
        return bool(self.setting.request.system)

    def block(self, attempts: np.ndarray) -> Codes:
        """Codes of all attempts of a block."""
        return self._encoded(self.exchange(attempts))

    @torch.no_grad()
    def exchange(self, attempts: np.ndarray) -> Exchange:
        """The known crystals of all attempts of a block, and what takes the place of their elements."""
        rows = evenly_drawn_rows(self.likely, self.prototypes, attempts, self.setting.seed)
        streams = [np.random.default_rng([self.setting.seed, 6, attempt]) for attempt in attempts.tolist()]
        chances = np.stack([rng.random((PROPOSALS, 1 + 3 * MAX_ELEMENTS), dtype=np.float32) for rng in streams])
        chance = torch.from_numpy(chances).to(self.setting.device)
        sizes = self.known.sizes[rows]
        counts, new = (torch.zeros(len(rows), sizes.max(), dtype=torch.int64, device=chance.device) for _ in range(2))
        gain, growth = (torch.zeros(len(rows), device=chance.device) for _ in range(2))
        for k in np.unique(sizes).tolist():  # padded to the largest, small ones would take far longer
            places = np.flatnonzero(sizes == k)
            numbers, *parts = (torch.from_numpy(part).to(chance.device) for part in self.known.batch(rows[places], k))
            arrangement = Arrangement(*parts)
            new[places, :k], gain[places], growth[places] = self._fitting(numbers, arrangement, chance[places])
            counts[places, :k] = arrangement.counts
        return Exchange(rows, new, counts, gain, growth)

    def _fitting(self, numbers: Tensor, arrangement: Arrangement, chance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """New elements (batch, tokens), their gain and growth: the first that fit and are new, else the best.

        ``chance`` (batch, proposals, 1 + 3 x most tokens) in [0, 1) decides.
        """
        proposals, k = chance.shape[1], numbers.shape[1]
        old, counts, pairs = (
            part.repeat_interleave(proposals, 0) for part in (numbers, arrangement.counts, arrangement.pairs)
        )
        each, chance = Arrangement(counts, pairs), chance.flatten(0, 1)
        kept = self._kept(old, each, chance[:, 0], chance[:, 1 : 1 + k])
        avoided = old * 0 if self.anew else old
        draws = chance[:, 1 + k : 1 + 3 * k]
        new = draw_elements(self.network, old, avoided, kept, each, self.allowed, draws, TEMPERATURE)
        before = pseudo_log_likelihood(self.network, numbers, arrangement).repeat_interleave(proposals)
        gain = pseudo_log_likelihood(self.network, new, each) - before
        growth = self.network.log_volume(new, each) - self.network.log_volume(old, each)
        merit = gain - _OTHER_SIZE * ((growth < GROWTH[0]) | (growth > GROWTH[1]))
        if not self.anew:
            merit = merit - _WORSE * self._is_known(new, counts)
        fits = (merit >= FITTING).view(-1, proposals)
        best = merit.view(-1, proposals).argmax(1)
        picked = torch.where(fits.any(1), fits.int().argmax(1), best)
        place = torch.arange(len(numbers), device=picked.device) * proposals + picked
        return new[place], gain[place], growth[place]

    def _is_known(self, numbers: Tensor, counts: Tensor) -> Tensor:
        """(batch,) whether there is a known crystal of the same composition."""
        rows = zip(numbers.cpu().numpy(), counts.cpu().numpy(), strict=True)
        known = [composition_of(row[row > 0], amounts[row > 0]) in self.compositions for row, amounts in rows]
        return torch.tensor(known, device=numbers.device)

    def _kept(self, numbers: Tensor, arrangement: Arrangement, chance: Tensor, order: Tensor) -> Tensor:
        """(batch, tokens) which elements stay: bonded groups, and not all of the others; none that is not allowed."""
        there = arrangement.there
        if self.anew:
            return torch.zeros_like(there)
        free = there & ~bonded(arrangement, BONDED)
        free = torch.where(free.any(1, keepdim=True), free, there)
        exchanged = 1 + (chance * free.sum(1)).long()
        return there & self.allowed[numbers] & ~(free & (random_rank(order, free) < exchanged[:, None]))

    @torch.no_grad()
    def _encoded(self, made: Exchange) -> Codes:
        """Codes of known crystals with new elements, and of the size that these want."""
        scale = (made.growth / 3).exp()
        owner, token = (made.numbers > 0).nonzero(as_tuple=True)
        positions = torch.from_numpy(self.known.atoms_of(made.rows, self.sites.atoms)).to(scale.device)
        there, elements = made.counts[owner, token], made.numbers[owner, token]
        ordered = in_order(positions * scale[owner, None, None], there)
        sites = ordered.new_empty(len(elements), self.setting.layout.sites_latent)
        for number, places in by_network(elements.cpu().numpy(), self.own):
            network = self.own.get(number, self.sites)
            sites[places] = network.encode(ordered[places], there[places], elements[places])
        cells = torch.from_numpy(self.known.cells[made.rows]).to(scale.device) * scale[:, None, None]
        lattice = self.lattice.encode(cells)
        return codes_of_tokens(*(part.cpu().numpy() for part in (lattice, owner, elements, sites)))


def _possible(known: Arrangements, request: Request, elements: int) -> np.ndarray:
    """(n,) which crystals an attempt may be like: of so many elements and atoms."""
    possible = known.sizes == len(request.system) if request.system else known.sizes <= elements
    return possible & (known.atoms <= request.max_atoms) if request.max_atoms is not None else possible


@torch.no_grad()
def _moved(
    known: Arrangements, sites: AtomsAutoencoder, own: Mapping[int, AtomsAutoencoder], device: torch.device
) -> np.ndarray:
    """(n,) how far the autoencoders move an atom of each crystal at most, angstrom; infinite if they miscount."""
    rows = np.arange(len(known))
    positions = torch.from_numpy(known.atoms_of(rows, sites.atoms)).to(device)
    counts, numbers = (torch.from_numpy(part).to(device) for part in (known.counts, known.numbers))
    ordered = in_order(positions, counts)
    moved = ordered.new_empty(len(numbers))
    for number, places in by_network(known.numbers, own):
        network = own.get(number, sites)
        moved[places] = network.moved(ordered[places], counts[places], numbers[places])
    return np.maximum.reduceat(moved.cpu().numpy(), known.offsets[:-1])
