"""Matching agrees with pymatgen's matcher and survives what it does not."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from voxtal.errors import Interrupted
from voxtal.structures import matching
from voxtal.structures.fitting import Reduced
from voxtal.structures.matching import (
    CDVAE,
    STRICT,
    Matcher,
    MatcherSettings,
    find_known,
    first_of_duplicates,
    time_limit,
)
from voxtal.structures.structure_set import StructureSet

B2 = Structure(Lattice.cubic(3.16), ["Co", "Hf"], [[0, 0, 0], [0.5, 0.5, 0.5]])
ROCKSALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.1), ["Co", "Hf"], [[0, 0, 0], [0.5] * 3])
LAVES = Structure.from_spacegroup("Fd-3m", Lattice.cubic(6.9), ["Hf", "Co"], [[0] * 3, [0.625] * 3])


def disturbed(structure: Structure, seed: int, size: float = 0.05) -> Structure:
    """Supercell, shifted origin, sites in another order and displaced, volume changed."""
    random = np.random.default_rng(seed)
    other = structure * (1, 1, 2)
    shift = random.random(3)
    sites = other.frac_coords + shift
    order = random.permutation(len(other))
    lattice = Lattice(other.lattice.matrix * 1.05)
    moved = Structure(lattice, [other[int(i)].specie for i in order], sites[order])
    moved.perturb(size, seed=seed)
    return moved


@pytest.mark.parametrize("settings", [STRICT, CDVAE])
def test_agrees_with_pymatgen(settings: MatcherSettings) -> None:
    """Reducing once and comparing often must not change the published metric."""
    theirs = StructureMatcher(ltol=settings.ltol, stol=settings.stol, angle_tol=settings.angle_tol)
    ours = Matcher(settings)
    several = [
        B2,
        ROCKSALT,
        LAVES,
        *(disturbed(s, i, 0.2 * i) for i, s in enumerate([B2, ROCKSALT, LAVES, B2])),
    ]
    for a in several:
        for b in several:
            assert ours.matches(a, b) == theirs.fit(a, b)
            expected = theirs.get_rms_dist(a, b)
            assert ours.rms(a, b) == (None if expected is None else pytest.approx(expected[0], abs=1e-8))


def test_charges_do_not_matter() -> None:
    """A structure with oxidation states is the same crystal."""
    charged = B2.copy()
    charged.add_oxidation_state_by_element({"Co": -2, "Hf": 2})
    assert Matcher().matches(B2, charged)
    assert find_known([charged], [B2], Matcher()) == [0]


def bad_structures() -> dict[str, Structure]:
    cell = Lattice(np.array([[1e5, 0, 0], [0, 1e-1, 0], [0, 0, 10.0]]))
    return {
        "singular": Structure(Lattice([[3, 0, 0], [3, 0, 0], [0, 0, 3]]), ["Co", "Hf"], [[0, 0, 0], [0.5] * 3]),
        "nan site": Structure(Lattice.cubic(3), ["Co", "Hf"], [[0, 0, 0], [np.nan, 0.5, 0.5]]),
        "nan cell": Structure(Lattice(np.full((3, 3), np.nan)), ["Co", "Hf"], [[0, 0, 0], [0.5] * 3]),
        "overlap": Structure(Lattice.cubic(3), ["Co", "Hf"], [[0, 0, 0], [0, 0, 0]]),
        "needle": Structure(cell, ["Co", "Hf"], [[0, 0, 0], [0.5] * 3]),
        "slab": Structure(Lattice.orthorhombic(2, 2, 4000), ["Co", "Hf"], [[0, 0, 0], [0, 0, 0.5]]),
        "empty": Structure(Lattice.cubic(3), [], []),
        "disordered": Structure(Lattice.cubic(3), [{"Co": 0.5}, "Hf"], [[0, 0, 0], [0.5] * 3]),
    }


@pytest.mark.parametrize("name", bad_structures())
def test_bad_structures_match_nothing_and_end_soon(name: str) -> None:
    """A generated structure that makes StructureMatcher hang or raise would stop a whole round."""
    bad = bad_structures()[name]
    started = time.process_time()  # not what other programs take
    matcher = Matcher()
    assert matcher.rms(bad, B2) is None
    assert matcher.rms(bad, bad) is None
    assert not matcher.matches(B2, bad)
    assert first_of_duplicates([bad, B2, bad], matcher) == [0, 1, 2]
    assert find_known([bad, B2], [bad, B2], matcher) == [None, 1]
    assert time.process_time() - started < 5


def test_pair_that_takes_too_long_counts_as_different(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is what guards against hangs that no check foresees."""

    def endless(*_: Any) -> None:
        while True:
            pass

    slow = (B2 * (4, 4, 3)).perturb(0.1, seed=0)
    reduced = Matcher(STRICT).reduce(slow)
    assert Matcher(STRICT).matches(slow, slow)
    monkeypatch.setattr(Matcher, "_rms", endless)
    assert Matcher(STRICT, pair_seconds=1e-3).rms(reduced, reduced) is None
    monkeypatch.setattr(Structure, "get_reduced_structure", endless)
    assert Matcher(STRICT, pair_seconds=1e-3).reduce(slow) is None


def test_stop_signal_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM arrives as Interrupted wherever the program is; a matcher that catches it loses the stop."""

    def stop(self: Structure) -> float:
        raise Interrupted("SIGTERM")

    monkeypatch.setattr(Structure, "is_ordered", property(stop))
    with pytest.raises(Interrupted):
        Matcher().matches(B2, B2)


def test_time_limit_leaves_no_alarm_behind() -> None:
    """A stray alarm would kill unrelated work later."""
    with time_limit(0.01):
        pass
    end = time.process_time() + 0.03  # a sleep takes no processor time, which is what the limit counts
    while time.process_time() < end:
        pass


def test_duplicates_point_at_the_first() -> None:
    """Unique counts the first of a set of duplicates, whatever their order."""
    structures = [LAVES, B2, disturbed(LAVES, 1), ROCKSALT, disturbed(B2, 2), B2]
    assert first_of_duplicates(structures, Matcher()) == [0, 1, 0, 3, 1, 1]


def test_known_are_found_by_index() -> None:
    """Novel is what is not among the references."""
    assert find_known([disturbed(B2, 3), ROCKSALT, LAVES], [LAVES, B2], Matcher()) == [1, None, 0]
    assert find_known([], [B2], Matcher()) == []
    assert find_known([B2], [], Matcher()) == [None]


@pytest.fixture(scope="module")
def crowd(real_set: StructureSet) -> StructureSet:
    """Real structures and disturbed copies of them, and many of two formulas, in random order; a few of them bad."""
    random = np.random.default_rng(5)
    chosen = [real_set.structure(int(i)) for i in random.choice(len(real_set), 12, replace=False)]
    several = [disturbed(s, k, 0.02) for k, s in enumerate(chosen)] + chosen
    several += [disturbed(s, 20 + k, 0.3 * (k % 4)) for k in range(4) for s in (B2, ROCKSALT, LAVES, real_polymorph())]
    several += [bad_structures()["overlap"], bad_structures()["slab"]]
    order = random.permutation(len(several))
    return StructureSet.from_structures([several[i] for i in order], [f"c{i}" for i in order])


def real_polymorph() -> Structure:
    """CoHf in the structure of CrB, which neither matcher takes for the others."""
    return Structure.from_spacegroup(
        "Cmcm", Lattice.orthorhombic(3.2, 9.8, 4.0), ["Co", "Hf"], [[0, 0.43, 0.25], [0, 0.14, 0.25]]
    )


def one_after_another(structures: list[Structure]) -> list[int]:
    """The definition, by pymatgen alone."""
    theirs = StructureMatcher()
    valid = [Matcher().reduce(structure) is not None for structure in structures]
    answer: list[int] = []
    for i, structure in enumerate(structures):
        firsts = (j for j in range(i) if answer[j] == j and valid[i] and valid[j])
        answer.append(next((j for j in firsts if theirs.fit(structures[j], structure)), i))
    return answer


def test_duplicates_are_those_of_all_pairs(crowd: StructureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups, blocks of groups, rejections: none of them may change an answer."""
    expected = one_after_another(list(crowd))
    assert len(set(expected)) < len(crowd) - 10
    assert first_of_duplicates(crowd, Matcher()) == expected
    monkeypatch.setattr(matching, "BLOCK", 3)
    assert first_of_duplicates(list(crowd), Matcher()) == expected


def test_known_are_those_of_all_pairs(crowd: StructureSet) -> None:
    """The first of several equal references is named, whatever is in between."""
    theirs = StructureMatcher()
    queries, references = crowd.subset(np.arange(0, len(crowd), 2)), crowd.subset(np.arange(1, len(crowd), 2))
    valid = [Matcher().reduce(structure) is not None for structure in references]
    expected = [
        next((j for j, known in enumerate(references) if valid[j] and theirs.fit(known, query)), None)
        if Matcher().reduce(query)
        else None
        for query in queries
    ]
    assert 5 < sum(match is not None for match in expected) < len(queries)
    assert find_known(queries, references, Matcher()) == expected
    assert find_known(list(queries), list(references), Matcher()) == expected


def test_what_has_no_partner_is_not_reduced(real_set: StructureSet) -> None:
    """Reducing takes milliseconds; most structures of a large set are the only ones of their formula."""

    class Counting(Matcher):
        reduced = 0

        def reduce(self, structure: Any) -> Reduced | None:
            self.reduced += not isinstance(structure, Reduced)
            return super().reduce(structure)

    counting = Counting()
    assert first_of_duplicates([B2, LAVES, *real_set.subset([0, 1])], counting) == [0, 1, 2, 3]
    assert find_known([B2, LAVES], real_set.subset([0, 1]), counting) == [None, None]
    assert counting.reduced == 0
    assert find_known([B2, LAVES], [ROCKSALT, *real_set.subset([0, 1])], counting) == [None, None]
    assert counting.reduced == 2
