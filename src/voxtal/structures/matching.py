"""Are two crystals the same: StructureMatcher's answer, guarded against what makes it hang or fail; one or many."""

from __future__ import annotations

import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from math import gcd
from typing import Any

import numpy as np

from voxtal.errors import Interrupted
from voxtal.parallel.communicator import Communicator, SerialCommunicator
from voxtal.parallel.tasks import results
from voxtal.structures.fitting import MatcherSettings, Reduced, fits, lattices_may_fit
from voxtal.structures.structure_set import StructureSet
from voxtal.structures.validity import reduced_cell, why_invalid

PAIR_SECONDS = 5.0
"""Processor time of one comparison; a pair that takes longer counts as different, on any number of ranks."""

_MAX_ELONGATION = 2000.0
"""Longest edge cubed over the volume of a reduced cell; StructureMatcher's search grows in proportion.
A slab of 3 x 3 x 35 A has 136."""

STRICT = MatcherSettings(0.2, 0.3, 5)
"""pymatgen's defaults."""
CDVAE = MatcherSettings(0.3, 0.5, 10)
"""The looser ones of CDVAE's reconstruction metric (arXiv:2110.06197)."""

BLOCK = 64
"""Structures of one formula and number of atoms that are compared with each other before the next ones."""

_REDUCED_AT_ONCE = 32
_PAIRS_AT_ONCE = 200
"""What a rank takes at a time: structures to reduce, pairs to compare."""

Structures = StructureSet | Sequence[Any]
"""A structure set, or pymatgen structures."""


class Matcher:
    """Compare structures with periodic sites, primitive cells, volumes scaled to be equal.

    A structure that is not valid (see :func:`voxtal.structures.validity.why_invalid`), that cannot be
    reduced or whose cell is extremely elongated matches nothing. No method raises for bad structures.
    """

    def __init__(self, settings: MatcherSettings = STRICT, pair_seconds: float = PAIR_SECONDS) -> None:
        self.settings = settings
        self._pair_seconds = pair_seconds

    def matches(self, a: Any, b: Any) -> bool:
        """Whether ``a`` and ``b`` (pymatgen structures, or what :meth:`reduce` made) are the same crystal."""
        return bool(self._compare(a, b, self._fit))

    def rms(self, a: Any, b: Any) -> float | None:
        """Root mean square site displacement of the best match over (V/atoms)^(1/3), none without a match."""
        found: float | None = self._compare(a, b, self._rms)
        return found

    def reduce(self, structure: Any) -> Reduced | None:
        """What is compared of ``structure``: primitive Niggli cell; none where it cannot match anything."""
        if structure is None or isinstance(structure, Reduced):
            return structure
        try:
            if not structure.is_ordered:
                return None
            numbers = np.asarray(structure.atomic_numbers)
            cell = structure.lattice.matrix
            if why_invalid(numbers, structure.frac_coords, cell) or _elongation(cell) > _MAX_ELONGATION:
                return None
            with time_limit(self._pair_seconds):
                niggli = structure.get_reduced_structure("niggli")
                # Without a common divisor there is no smaller cell, and pymatgen returns a copy.
                return _plain(niggli.get_primitive_structure() if _common_divisor(numbers) > 1 else niggli)
        except Interrupted:
            raise
        except Exception:  # pymatgen fails in many ways on cells that are nearly singular
            return None

    def first_match(self, query: Reduced, others: Sequence[tuple[int, Reduced]]) -> int | None:
        """Index of the first of ``others`` (index and crystal, of the query's atoms) that is equal to ``query``."""
        if not others:
            return None
        possible = lattices_may_fit(np.stack([other.minima for _, other in others]), query, self.settings)
        candidates = (others[i] for i in np.flatnonzero(possible).tolist())
        return next((index for index, other in candidates if self.matches(other, query)), None)

    def _compare(self, a: Any, b: Any, compare: Callable[[Reduced, Reduced], Any]) -> Any:
        one, two = self.reduce(a), self.reduce(b)
        if one is None or two is None or not np.array_equal(one.numbers, two.numbers):
            return None
        try:
            with time_limit(self._pair_seconds):
                return compare(one, two)
        except Interrupted:
            raise
        except Exception:
            return None

    def _fit(self, a: Reduced, b: Reduced) -> bool:
        return fits(a, b, self.settings)

    def _rms(self, a: Reduced, b: Reduced) -> float | None:
        from pymatgen.analysis.structure_matcher import StructureMatcher

        ltol, stol, angle_tol = self.settings.ltol, self.settings.stol, self.settings.angle_tol
        matcher = StructureMatcher(ltol=ltol, stol=stol, angle_tol=angle_tol, primitive_cell=False)
        found = matcher.get_rms_dist(a.structure, b.structure)
        return None if found is None else float(found[0])


def first_of_duplicates(
    structures: Structures, matcher: Matcher, communicator: Communicator | None = None
) -> list[int]:
    """For each structure the index of the first one equal to it, its own where it is the first.

    Collective: every rank calls it with the same structures and has the answer, which does not depend on how many
    there are. Only structures of one reduced formula, and as many atoms once reduced, are compared.
    """
    communicator = communicator or SerialCommunicator()
    groups = [group for group in _by_formula(structures).values() if len(group) > 1]
    reduced = _reduce_all(structures, [i for group in groups for i in group], matcher, communicator)
    queues = [queue for queue in _by_atoms(groups, reduced) if len(queue) > 1]
    firsts: list[list[tuple[int, Reduced]]] = [[] for _ in queues]
    answer = list(range(len(structures)))
    longest = max(map(len, queues), default=0)
    for start in range(0, longest, BLOCK):
        blocks = {k: queue[start : start + BLOCK] for k, queue in enumerate(queues) if len(queue) > start}
        earlier = [(i, firsts[k]) for k, block in blocks.items() for i in block if firsts[k]]
        found = _first_matches(earlier, reduced, matcher, communicator)
        answer = [found.get(i, own) for i, own in enumerate(answer)]
        new = [[i for i in block if i not in found] for block in blocks.values()]
        found = _among_themselves([block for block in new if len(block) > 1], reduced, matcher, communicator)
        answer = [found.get(i, own) for i, own in enumerate(answer)]
        for k, block in zip(blocks, new, strict=True):
            firsts[k] += [(i, reduced[i]) for i in block if i not in found]
    return answer


def find_known(
    queries: Structures, references: Structures, matcher: Matcher, communicator: Communicator | None = None
) -> list[int | None]:
    """For each query the index of the first reference equal to it, none where there is none.

    Collective, as :func:`first_of_duplicates`.
    """
    communicator = communicator or SerialCommunicator()
    asked, known = _by_formula(queries), _by_formula(references)
    common = [formula for formula in asked if formula in known]
    reduced_queries = _reduce_all(queries, [i for formula in common for i in asked[formula]], matcher, communicator)
    reduced = _reduce_all(references, [i for formula in common for i in known[formula]], matcher, communicator)
    others: dict[Hashable, list[tuple[int, Reduced]]] = defaultdict(list)
    for i, reference in sorted(reduced.items()):
        others[reference.numbers.tobytes()].append((i, reference))
    tasks = [(i, others[query.numbers.tobytes()]) for i, query in sorted(reduced_queries.items())]
    found = _first_matches([task for task in tasks if task[1]], reduced_queries, matcher, communicator)
    return [found.get(i) for i in range(len(queries))]


def _first_matches(
    tasks: list[tuple[int, list[tuple[int, Reduced]]]],
    reduced: dict[int, Reduced],
    matcher: Matcher,
    communicator: Communicator,
) -> dict[int, int]:
    """Index -> the first match, of those that have one among the others they are to be compared with."""
    batches = _batches([len(others) for _, others in tasks])

    def work(batch: int) -> list[tuple[int, int | None]]:
        return [(i, matcher.first_match(reduced[i], others)) for i, others in tasks[batches[batch]]]

    shared = results(communicator, len(batches), work)
    return {i: match for part in shared for i, match in part if match is not None}


def _among_themselves(
    blocks: list[list[int]], reduced: dict[int, Reduced], matcher: Matcher, communicator: Communicator
) -> dict[int, int]:
    """Index -> the first match within its block, of those that have one."""
    batches = _batches([len(block) ** 2 // 2 for block in blocks])

    def work(batch: int) -> dict[int, int]:
        found: dict[int, int] = {}
        for block in blocks[batches[batch]]:
            firsts: list[tuple[int, Reduced]] = []
            for i in block:
                match = matcher.first_match(reduced[i], firsts)
                if match is None:
                    firsts.append((i, reduced[i]))
                else:
                    found[i] = match
        return found

    return {i: match for part in results(communicator, len(batches), work) for i, match in part.items()}


def _batches(pairs: Sequence[int]) -> list[slice]:
    """Tasks of so many pairs cut into stretches of about :data:`_PAIRS_AT_ONCE`."""
    number = np.concatenate([[0], np.cumsum(pairs)])[:-1] // _PAIRS_AT_ONCE
    starts = [*np.flatnonzero(np.diff(number, prepend=-1)).tolist(), len(pairs)]
    return [slice(first, last) for first, last in pairwise(starts)]


def _by_formula(structures: Structures) -> dict[Hashable, list[int]]:
    """Reduced formula -> indices, rising; of those that are ordered and have atoms."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    if isinstance(structures, StructureSet):
        atoms = [structures.numbers[a:b] for a, b in pairwise(structures.offsets)]
    else:
        atoms = [np.asarray(one.atomic_numbers) if one.is_ordered else np.empty(0, int) for one in structures]
    for i, numbers in enumerate(atoms):
        if len(numbers):
            counts = np.bincount(numbers)
            present = np.flatnonzero(counts)
            groups[present.tobytes(), (counts[present] // np.gcd.reduce(counts[present])).tobytes()].append(i)
    return groups


def _by_atoms(groups: list[list[int]], reduced: dict[int, Reduced]) -> list[list[int]]:
    """The groups split by the atoms of the reduced cells, largest first; without what could not be reduced."""
    split: dict[Hashable, list[int]] = defaultdict(list)
    for group in groups:
        for i in group:
            if i in reduced:
                split[reduced[i].numbers.tobytes()].append(i)
    return sorted(split.values(), key=len, reverse=True)


def _reduce_all(
    structures: Structures, wanted: list[int], matcher: Matcher, communicator: Communicator
) -> dict[int, Reduced]:
    """Index -> reduced, of those ``wanted`` that can be reduced."""
    get = structures.structure if isinstance(structures, StructureSet) else structures.__getitem__
    blocks = [wanted[first : first + _REDUCED_AT_ONCE] for first in range(0, len(wanted), _REDUCED_AT_ONCE)]
    shared = results(communicator, len(blocks), lambda block: [matcher.reduce(get(i)) for i in blocks[block]])
    found = zip(wanted, (one for part in shared for one in part), strict=True)
    return {i: one for i, one in found if one is not None}


def _elongation(cell: np.ndarray) -> float:
    return float(np.linalg.norm(reduced_cell(cell), axis=1).max() ** 3 / abs(np.linalg.det(cell)))


def _common_divisor(numbers: np.ndarray) -> int:
    return gcd(*np.unique(numbers, return_counts=True)[1].tolist())


def _plain(structure: Any) -> Reduced:
    """The structure as elements and coordinates: no charges, spins or site properties to differ in."""
    numbers = np.asarray(structure.atomic_numbers)
    order = np.argsort(numbers, kind="stable")
    return Reduced(numbers[order], structure.frac_coords[order], structure.lattice.matrix)


class _TimeUpError(Exception):
    pass


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise inside the block once it has taken ``seconds`` of processor time; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: Any) -> None:
        raise _TimeUpError

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
