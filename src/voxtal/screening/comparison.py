"""Which structures are equal to each other, and which are known."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from voxtal.parallel.communicator import Communicator
from voxtal.parallel.tasks import shown
from voxtal.structures.matching import STRICT, Matcher, find_known, first_of_duplicates
from voxtal.structures.structure_set import StructureSet

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]

UNKNOWN = -1


def compare(
    structures: StructureSet, known: StructureSet, progress: Progress, communicator: Communicator
) -> tuple[np.ndarray, np.ndarray]:
    """Compare valid structures with each other and with the known ones, by the strict matcher. Collective.

    Returns
    -------
    first : (n,) int
        Index of the first structure equal to this one; its own where it is the first.
    match : (n,) int
        Index in ``known`` of the first one equal to that first structure, :data:`UNKNOWN` where there is none.
    """
    matcher = Matcher(STRICT)
    with shown(progress, "compare", 2, communicator) as advance:
        first = np.asarray(first_of_duplicates(structures, matcher, communicator), dtype=np.int64)
        advance(1, "with each other")
        unique = np.flatnonzero(first == np.arange(len(structures)))
        found = find_known(structures.subset(unique), known, matcher, communicator)
        advance(1, "with the known")
    match = np.full(len(structures), UNKNOWN)
    match[unique] = [UNKNOWN if i is None else i for i in found]
    return first, match[first]
