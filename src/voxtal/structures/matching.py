"""Are two crystals the same: pymatgen's StructureMatcher, guarded against what makes it hang or fail."""

from __future__ import annotations

import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from voxtal.errors import Interrupted
from voxtal.structures.validity import reduced_cell, why_invalid

PAIR_SECONDS = 5.0
"""Wall-clock limit of one comparison; a pair that takes longer counts as different."""

_MAX_ELONGATION = 2000.0
"""Longest edge cubed over the volume of a reduced cell; StructureMatcher's search grows in proportion.
A slab of 3 x 3 x 35 A has 136."""


@dataclass(frozen=True)
class MatcherSettings:
    """Tolerances of StructureMatcher: fractional length, site (in (V/atoms)^(1/3)) and angle in degrees."""

    ltol: float
    stol: float
    angle_tol: float


STRICT = MatcherSettings(0.2, 0.3, 5)
"""pymatgen's defaults."""
CDVAE = MatcherSettings(0.3, 0.5, 10)
"""The looser ones of CDVAE's reconstruction metric (arXiv:2110.06197)."""


@dataclass(frozen=True)
class Reduced:
    """A structure's primitive Niggli cell and its reduced formula, made once and compared often."""

    formula: str
    structure: Any


class Matcher:
    """Compare structures with periodic sites, primitive cells, volumes scaled to be equal.

    A structure that is not valid (see :func:`voxtal.structures.validity.why_invalid`), that cannot be
    reduced or whose cell is extremely elongated matches nothing. No method raises for bad structures.
    """

    def __init__(self, settings: MatcherSettings = STRICT, pair_seconds: float = PAIR_SECONDS) -> None:
        from pymatgen.analysis.structure_matcher import StructureMatcher

        self._matcher = StructureMatcher(
            ltol=settings.ltol, stol=settings.stol, angle_tol=settings.angle_tol, primitive_cell=False
        )
        self._pair_seconds = pair_seconds

    def matches(self, a: Any, b: Any) -> bool:
        """Whether ``a`` and ``b`` (pymatgen structures, or what :meth:`reduce` made) are the same crystal."""
        return bool(self._compare(a, b, self._fit))

    def rms(self, a: Any, b: Any) -> float | None:
        """Root mean square site displacement of the best match over (V/atoms)^(1/3), none without a match."""
        return self._compare(a, b, self._rms)

    def reduce(self, structure: Any) -> Reduced | None:
        """What is compared of ``structure``: primitive Niggli cell; none where it cannot match anything."""
        try:
            numbers = np.asarray(structure.atomic_numbers)
            cell = structure.lattice.matrix
            if not structure.is_ordered or why_invalid(numbers, structure.frac_coords, cell):
                return None
            if _elongation(cell) > _MAX_ELONGATION:
                return None
            with time_limit(self._pair_seconds):
                primitive = structure.get_reduced_structure("niggli").get_primitive_structure()
            plain = _plain(primitive)
        except Interrupted:
            raise
        except Exception:  # pymatgen fails in many ways on cells that are nearly singular
            return None
        return Reduced(plain.reduced_formula, plain)

    def _compare(self, a: Any, b: Any, compare: Callable[[Any, Any], Any]) -> Any:
        one = a if isinstance(a, Reduced) else self.reduce(a)
        two = b if isinstance(b, Reduced) else self.reduce(b)
        if one is None or two is None or one.formula != two.formula:
            return None
        if len(one.structure) != len(two.structure):
            return None
        try:
            with time_limit(self._pair_seconds):
                return compare(one.structure, two.structure)
        except Interrupted:
            raise
        except Exception:
            return None

    def _fit(self, a: Any, b: Any) -> bool:
        return self._matcher.fit(a, b, skip_structure_reduction=True)

    def _rms(self, a: Any, b: Any) -> float | None:
        found = self._matcher.get_rms_dist(a, b)
        return None if found is None else float(found[0])


def first_of_duplicates(structures: Sequence[Any], matcher: Matcher) -> list[int]:
    """For each structure the index of the first one equal to it, its own where it is the first."""
    firsts: dict[str, list[tuple[int, Reduced]]] = defaultdict(list)
    answer = []
    for index, structure in enumerate(structures):
        reduced = matcher.reduce(structure)
        found = None if reduced is None else _first_match(reduced, firsts[reduced.formula], matcher)
        if found is None and reduced is not None:
            firsts[reduced.formula].append((index, reduced))
        answer.append(index if found is None else found)
    return answer


def find_known(queries: Sequence[Any], references: Sequence[Any], matcher: Matcher) -> list[int | None]:
    """For each query the index of the first reference equal to it, none where there is none."""
    wanted = {_formula(query) for query in queries}
    known: dict[str, list[tuple[int, Reduced]]] = defaultdict(list)
    for index, structure in enumerate(references):
        if _formula(structure) in wanted and (reduced := matcher.reduce(structure)) is not None:
            known[reduced.formula].append((index, reduced))
    answer: list[int | None] = []
    for query in queries:
        reduced = matcher.reduce(query) if _formula(query) in known else None
        answer.append(None if reduced is None else _first_match(reduced, known[reduced.formula], matcher))
    return answer


def _elongation(cell: np.ndarray) -> float:
    return float(np.linalg.norm(reduced_cell(cell), axis=1).max() ** 3 / abs(np.linalg.det(cell)))


def _first_match(reduced: Reduced, others: list[tuple[int, Reduced]], matcher: Matcher) -> int | None:
    return next((index for index, other in others if matcher.matches(other, reduced)), None)


def _formula(structure: Any) -> str:
    return structure.composition.element_composition.reduced_formula if len(structure) else ""


def _plain(structure: Any) -> Any:
    """The structure as elements and coordinates: no charges, spins or site properties to differ in."""
    from pymatgen.core import Structure

    numbers = list(structure.atomic_numbers)
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    return Structure(structure.lattice, [numbers[i] for i in order], structure.frac_coords[order])


class _TimeUpError(Exception):
    pass


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise inside the block once ``seconds`` have passed; without effect outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: Any) -> None:
        raise _TimeUpError

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
