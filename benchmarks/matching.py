"""Which of many candidates are unique and novel: grouped by reduced formula, beside comparing all pairs.

    python benchmarks/matching.py STRUCTURES.h5 [STRUCTURES.h5 ...] [-n 50000] [--full 300] [--pairs 2000]
    mpirun -n 2 python benchmarks/matching.py ...

Known structures: the real ones, then copies of them with the elements of another real structure of the same
stoichiometry, so that formulas stay those of real compounds, each with several structures. Candidates: one half are
known structures with the origin moved, strained (2%) and perturbed (0.1 A); the other half such copies of real
structures, with other elements. With --full, small sets of both are first compared in full in both ways.
The cost of StructureMatcher on all pairs is measured on random pairs, and on random pairs of equal formula.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.cli.common import duration, print_table
from voxtal.parallel.communicator import Communicator, SerialCommunicator, world
from voxtal.structures.matching import STRICT, Matcher, find_known, first_of_duplicates
from voxtal.structures.structure_set import StructureSet

Row = tuple[np.ndarray, np.ndarray, np.ndarray]


def made_sets(real: StructureSet, n: int, seed: int) -> tuple[StructureSet, StructureSet]:
    """Candidates and known structures, ``n`` each."""
    random = np.random.default_rng(seed)
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i in range(len(real)):
        alike[_stoichiometry(real.arrays(i)[0])].append(i)

    def exchanged() -> Row:
        i = int(random.integers(len(real)))
        numbers, frac_coords, cell = real.arrays(i)
        other = real.arrays(int(random.choice(alike[_stoichiometry(numbers)])))[0]
        return _renamed(numbers, other), frac_coords, cell

    def disturbed(row: Row) -> Row:
        numbers, frac_coords, cell = row
        moved = frac_coords + random.random(3) + random.normal(0, 0.1 / 3**0.5, frac_coords.shape) @ np.linalg.inv(cell)
        return numbers, moved % 1, cell @ (np.eye(3) + random.normal(0, 0.02, (3, 3)))

    order = random.permutation(len(real))[:n].tolist()
    known = [real.arrays(i) for i in order] + [exchanged() for _ in range(n - len(order))]
    candidates = [disturbed(known[int(random.integers(n))] if i % 2 else exchanged()) for i in range(n)]
    return _packed(candidates), _packed(known)


def _stoichiometry(numbers: np.ndarray) -> tuple[int, ...]:
    counts = np.unique(numbers, return_counts=True)[1]
    return tuple(np.sort(counts // np.gcd.reduce(counts)).tolist())


def _renamed(numbers: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``numbers`` with the elements of ``other``, the rarest for the rarest."""
    (old, counts), (new, other_counts) = (np.unique(z, return_counts=True) for z in (numbers, other))
    table = np.zeros(256, dtype=np.uint8)
    table[old[np.argsort(counts, kind="stable")]] = new[np.argsort(other_counts, kind="stable")]
    return table[numbers]


def _packed(rows: list[Row]) -> StructureSet:
    return StructureSet(
        ids=np.array([f"s{i}" for i in range(len(rows))]),
        offsets=np.concatenate([[0], np.cumsum([len(numbers) for numbers, _, _ in rows])]).astype(np.int64),
        numbers=np.concatenate([numbers for numbers, _, _ in rows]),
        frac_coords=np.concatenate([frac_coords for _, frac_coords, _ in rows]),
        cells=np.stack([cell for _, _, cell in rows]),
    )


def judged(candidates: StructureSet, known: StructureSet, communicator: Communicator) -> tuple[list[Any], list[Any]]:
    """First equal candidate of each, and the first equal known structure of the unique ones."""
    first = first_of_duplicates(candidates, Matcher(STRICT), communicator)
    unique = [i for i, own in enumerate(first) if i == own]
    return first, find_known(candidates.subset(unique), known, Matcher(STRICT), communicator)


def judged_naively(candidates: StructureSet, known: StructureSet) -> tuple[list[Any], list[Any]]:
    """The same by StructureMatcher on every pair."""
    fit = _structure_matcher()
    structures, references = list(candidates), list(known)
    first: list[int] = []
    for i, structure in enumerate(structures):
        earlier = (j for j in range(i) if first[j] == j)
        first.append(next((j for j in earlier if fit(structures[j], structure)), i))
    unique = [structure for i, structure in enumerate(structures) if first[i] == i]
    return first, [next((j for j, one in enumerate(references) if fit(one, own)), None) for own in unique]


def _structure_matcher() -> Callable[[Any, Any], bool]:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(ltol=STRICT.ltol, stol=STRICT.stol, angle_tol=STRICT.angle_tol).fit


def seconds_a_pair(one: StructureSet, two: StructureSet, pairs: list[tuple[int, int]]) -> float:
    """Processor time of StructureMatcher on a pair of pymatgen structures that are there already."""
    fit = _structure_matcher()
    ready = [(one.structure(i), two.structure(j)) for i, j in pairs]
    fit(*ready[0])
    began = time.process_time()
    for a, b in ready:
        fit(a, b)
    return (time.process_time() - began) / len(ready)


def equal_formulas(
    candidates: StructureSet, known: StructureSet
) -> tuple[np.ndarray, Callable[[int], tuple[int, int]]]:
    """How many known structures have each candidate's reduced formula, and one random pair for each number."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for j in range(len(known)):
        groups[_formula(known.arrays(j)[0])].append(j)
    own = [groups.get(_formula(candidates.arrays(i)[0]), []) for i in range(len(candidates))]
    sizes = np.array([len(group) for group in own])

    def pair(seed: int) -> tuple[int, int]:
        random = np.random.default_rng(seed)
        i = int(random.choice(len(own), p=sizes / sizes.sum()))
        return i, own[i][int(random.integers(len(own[i])))]

    return sizes, pair


def _formula(numbers: np.ndarray) -> bytes:
    present, counts = np.unique(numbers, return_counts=True)
    return present.tobytes() + (counts // np.gcd.reduce(counts)).tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path, nargs="+")
    parser.add_argument("-n", type=int, default=50_000)
    parser.add_argument("--full", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    communicator = world()
    root = communicator.rank == 0
    real = StructureSet.concatenate([StructureSet.read(path) for path in arguments.structures])
    if arguments.full and root:
        compare_in_full(real, arguments.full, arguments.seed)
    n = arguments.n
    candidates, known = made_sets(real, n, arguments.seed)
    communicator.barrier()
    began, began_cpu = time.monotonic(), time.process_time()
    first, matches = judged(candidates, known, communicator)
    wall = time.monotonic() - began
    cpu = sum(communicator.gather(time.process_time() - began_cpu) or [])
    if not root:
        return
    sizes, pair = equal_formulas(candidates, known)
    all_pairs, grouped_pairs = n * (n - 1) // 2 + n * n, int(sizes.sum())
    random = np.random.default_rng(arguments.seed)
    sample = [(int(i), int(j)) for i, j in random.integers(n, size=(arguments.pairs, 2))]
    each = seconds_a_pair(candidates, known, sample)
    each_grouped = seconds_a_pair(candidates, known, [pair(k) for k in range(arguments.pairs)])
    naive, grouped = each * all_pairs, each_grouped * grouped_pairs
    ranks = f"{communicator.size} rank{'s' if communicator.size > 1 else ''}"
    print_table(
        f"{n} candidates, each other and {n} known ({len(real)} real structures), {ranks}",
        ("way", "pairs", "processor time", "ratio", "measured"),
        [
            ("grouped, voxtal", "", duration(cpu), 1.0, f"in full; wall {duration(wall)}"),
            ("StructureMatcher, all pairs", all_pairs, duration(naive), naive / cpu, f"{len(sample)} pairs"),
            ("StructureMatcher, equal formula, known only", grouped_pairs, duration(grouped), grouped / cpu, "as many"),
        ],
    )
    unique = sum(own == i for i, own in enumerate(first))
    novel = sum(match is None for match in matches)
    print(f"{unique} of {n} candidates are unique, {novel} of {n} novel too;")
    print(f"known structures of a candidate's formula: {sizes.mean():.1f} on average, {sizes.max()} at most.")


def compare_in_full(real: StructureSet, n: int, seed: int) -> None:
    candidates, known = made_sets(real.subset(np.random.default_rng(seed).permutation(len(real))[:n]), n, seed)
    began = time.process_time()
    ours = judged(candidates, known, SerialCommunicator())
    between = time.process_time()
    theirs = judged_naively(candidates, known)
    ended = time.process_time()
    differing = sum(a != b for mine, naive in zip(ours, theirs, strict=True) for a, b in zip(mine, naive, strict=False))
    rows = [
        ("grouped, voxtal", between - began, 1.0),
        ("all pairs", ended - between, (ended - between) / (between - began)),
    ]
    print_table(f"{n} candidates, {n} known, both in full", ("way", "processor s", "ratio"), rows)
    print(f"answers that differ: {differing} of {n + len(ours[1])}\n")


if __name__ == "__main__":
    main()
