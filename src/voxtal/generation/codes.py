"""What a generator draws: latent codes, and which elements they are of. From crystal graphs, or straight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols

from voxtal.generation.request import Request
from voxtal.representations.crystal_graph import GraphLayout
from voxtal.structures.phases import system_name

MAX_ELEMENTS = 10
"""An attempt with more is none: nothing in the Materials Project has more than nine, and each would be decoded."""

NOT_DRAWN = "none of the elements asked for"
NO_ELEMENTS = "no elements"
TOO_MANY_ELEMENTS = f"more than {MAX_ELEMENTS} elements"


@dataclass(frozen=True)
class Codes:
    """Latent codes of n attempts.

    Attributes
    ----------
    lattice
        (n, lattice_latent) float32.
    owner, numbers, sites
        (m,) attempt, rising, (m,) atomic number and (m, sites_latent) code of every element that is to be decoded.
    drawn
        (n,) chemical system that the generator drew, such as ``Co-Hf``, whatever was asked for.
    reasons
        (n,) why there is nothing to decode; empty where there is.
    """

    lattice: np.ndarray
    owner: np.ndarray
    numbers: np.ndarray
    sites: np.ndarray
    drawn: np.ndarray
    reasons: np.ndarray

    def __len__(self) -> int:
        return len(self.lattice)

    def subset(self, rows: np.ndarray) -> Codes:
        """The codes of some attempts (k,), rising."""
        kept = np.isin(self.owner, rows)
        owner = np.searchsorted(rows, self.owner[kept])
        return Codes(
            self.lattice[rows], owner, self.numbers[kept], self.sites[kept], self.drawn[rows], self.reasons[rows]
        )


def codes_of_graphs(graphs: np.ndarray, layout: GraphLayout, threshold: float, request: Request | None = None) -> Codes:
    """The codes that crystal graphs (n, side, side) hold, and what of them is asked for.

    An element is present where the root mean square of its code is above ``threshold``. The published code draws
    elements at random instead.
    """
    request = request or Request()
    lattice, sites = layout.unpack(graphs)
    present = layout.strength(graphs) > threshold
    wanted = _wanted(present, [chemical_symbols[z] for z in layout.elements], request)
    count = wanted.sum(axis=1)
    reasons = np.where(count > MAX_ELEMENTS, TOO_MANY_ELEMENTS, "").astype(object)
    reasons[count == 0] = NOT_DRAWN if request.chooses else NO_ELEMENTS
    reasons[~present.any(axis=1) & (count == 0)] = NO_ELEMENTS
    owner, element = np.nonzero(wanted & (reasons == "")[:, None])
    drawn = [system_name(chemical_symbols[layout.elements[j]] for j in np.flatnonzero(row)) for row in present]
    return Codes(
        np.asarray(lattice, dtype=np.float32),
        owner,
        np.asarray(layout.elements)[element],
        np.asarray(sites[owner, element], dtype=np.float32),
        np.asarray(drawn, dtype=np.str_),
        reasons.astype(np.str_),
    )


def codes_of_tokens(lattice: np.ndarray, owner: np.ndarray, numbers: np.ndarray, sites: np.ndarray) -> Codes:
    """Codes of attempts that all have elements; ``owner`` to ``sites`` as :class:`Codes` has them."""
    ends = np.searchsorted(owner, np.arange(1, len(lattice)))
    drawn = np.asarray(
        [system_name(chemical_symbols[z] for z in part.tolist()) for part in np.split(numbers, ends)], dtype=np.str_
    )
    return Codes(lattice, owner, numbers, sites, drawn, np.full(len(lattice), "", dtype=np.str_))


def graphs_of_codes(codes: Codes, layout: GraphLayout) -> np.ndarray:
    """Crystal graphs (n, side, side) that hold these codes and nothing else."""
    sites = np.zeros((len(codes), len(layout.elements), layout.sites_latent), dtype=np.float32)
    sites[codes.owner, np.searchsorted(layout.elements, codes.numbers)] = codes.sites
    return layout.pack(codes.lattice, sites)


def _wanted(present: np.ndarray, symbols: Sequence[str], request: Request) -> np.ndarray:
    """(n, elements) which elements are to be decoded, of those (n, elements) that are ``present``."""
    if request.system:
        return np.broadcast_to(np.isin(symbols, request.system), present.shape)
    return present & np.isin(symbols, request.allowed(symbols))
