"""Energies above the hull: pymatgen entry by entry, our facets for all entries at once, and a hull that grows.

    python benchmarks/hull.py [--entries 1000 10000] [--elements 2 3 4] [--asked 300] [--systems 2000]

Entries are random compositions of at most 20 atoms with energies of a regular solution and noise; one in a hundred is
a candidate of the newest round. pymatgen's PhaseDiagram is built from all entries and asked for --asked of them; its
time is that of the diagram plus what so many entries would take at that rate. "Next round" is the time to bring a hull
up to date with one entry in a hundred: from its corners and the new entries, heights of all. "hull.json" is the whole
``build_hull``, formulas and space groups included. The last rows are a run over many systems: every entry above the
hull of its own elements. The largest difference of heights, ours against pymatgen's, is printed with them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from voxtal.cli.common import print_table
from voxtal.screening.hull import HullEntry, build_hull, signed_heights
from voxtal.screening.lower_hull import heights, lower_hull

ELEMENTS = ("Al", "Co", "Hf", "Ni")
MANY = ("Li", "Be", "B", "C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "K", "Ca", "Sc", "Ti", "V", "Cr",
        "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Rb", "Sr", "Y", "Zr", "Nb")  # fmt: skip


def made_entries(n: int, k: int, seed: int) -> list[HullEntry]:
    """Entries of one system of ``k`` elements, the elements first."""
    random = np.random.default_rng([seed, n, k])
    counts = np.vstack([np.eye(k, dtype=int), random.multinomial(20, np.full(k, 1 / k), n - k)])
    counts = np.where(random.random(counts.shape) < 0.25, 0, counts) + (np.arange(n)[:, None] < k) * np.eye(
        n, k, dtype=int
    )
    counts[counts.sum(axis=1) == 0, 0] = 1
    fractions = counts / counts.sum(axis=1, keepdims=True)
    energies = 0.8 * ((fractions**2).sum(axis=1) - 1) + random.gumbel(0.3, 0.1, n) * (fractions.max(axis=1) < 1)
    newest = random.random(n) < 0.01
    return [
        HullEntry(
            id=f"e{i}",
            role="candidate" if newest[i] and i >= k else "training",
            composition={s: float(c) for s, c in zip(ELEMENTS, counts[i], strict=False) if c},
            formation_energy=float(energies[i]),
            structure=partial(_structure, counts[i]),
        )
        for i in range(n)
    ]


def many_systems(n: int, n_systems: int, seed: int) -> list[HullEntry]:
    """Entries of random binary and ternary systems."""
    random = np.random.default_rng([seed, n, n_systems])
    systems = [random.choice(MANY, random.integers(2, 4), replace=False) for _ in range(n_systems)]
    entries = []
    for i in range(n):
        system = systems[int(random.integers(n_systems))]
        composition = {str(s): float(random.integers(1, 7)) for s in system}
        entries.append(HullEntry(f"e{i}", "training", composition, float(random.normal(-0.3, 0.3))))
    return entries


def pymatgen_heights(entries: list[HullEntry], asked: int) -> tuple[float, np.ndarray]:
    """Seconds for all entries at the rate of ``asked`` of them, and the heights of those."""
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    began = time.perf_counter()
    points = []
    for entry in entries:
        composition = Composition(entry.composition)
        points.append(PDEntry(composition, entry.formation_energy * composition.num_atoms))
    diagram = PhaseDiagram(points)
    built = time.perf_counter()
    found = np.array([diagram.get_e_above_hull(point, allow_negative=True) for point in points[:asked]])
    return built - began + (time.perf_counter() - built) * len(entries) / len(found), found


def compare(n: int, k: int, asked: int) -> tuple[object, ...]:
    """One row of the table."""
    entries = made_entries(n, k, seed=1)
    naive, theirs = pymatgen_heights(entries, asked)

    def table() -> tuple[np.ndarray, np.ndarray]:
        amounts = np.array([[e.composition.get(s, 0.0) for s in ELEMENTS[:k]] for e in entries])
        return amounts / amounts.sum(axis=1, keepdims=True), np.array([e.formation_energy for e in entries])

    def all_at_once() -> np.ndarray:
        fractions, energies = table()
        return heights(fractions, energies, lower_hull(fractions, energies))

    ours, found = timed(all_at_once)
    fractions, energies = table()
    new = np.array([entry.role == "candidate" for entry in entries])
    last = lower_hull(fractions, energies, np.flatnonzero(~new))

    def next_round() -> np.ndarray:
        return lower_hull(fractions, energies, np.union1d(last, np.flatnonzero(new)))

    grown, facets = timed(next_round)
    whole, _ = timed(lambda: build_hull(entries, "-".join(ELEMENTS[:k]), ""), times=1)
    return (
        k,
        n,
        len(np.unique(facets)),
        f"{naive:.2f}",
        f"{ours:.3f}",
        f"{naive / ours:.0f}",
        f"{grown:.4f}",
        f"{whole:.2f}",
        f"{np.abs(found[: len(theirs)] - theirs).max():.0e}",
    )


def timed(work: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """Least seconds of a few calls, and what it gives."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - began)
    return min(seconds), result


def _structure(counts: np.ndarray) -> Any:
    """Some crystal of these atoms, for its space group to be found."""
    from pymatgen.core import Lattice, Structure

    symbols = [s for s, c in zip(ELEMENTS, counts, strict=False) for _ in range(c)]
    places = np.stack(np.meshgrid(*[np.arange(3) / 3] * 3), axis=-1).reshape(-1, 3)
    return Structure(Lattice.cubic(8.0), symbols, places[: len(symbols)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--elements", type=int, nargs="+", default=[2, 3, 4], choices=[2, 3, 4])
    parser.add_argument("--asked", type=int, default=300, help="entries that pymatgen is asked for")
    parser.add_argument("--systems", type=int, default=2_000, help="of the run over many systems")
    options = parser.parse_args()
    columns = ("elements", "entries", "corners", "pymatgen, s", "ours, s", "times faster", "next round, s",
               "hull.json, s", "difference")  # fmt: skip
    rows = [compare(n, k, options.asked) for k in options.elements for n in options.entries]
    print_table("Heights above one hull", columns, rows)
    many = []
    for n in options.entries:
        entries = many_systems(n, options.systems, seed=1)
        seconds, _ = timed(partial(signed_heights, entries), times=1)
        many.append((len({entry.elements for entry in entries}), n, f"{seconds:.2f}"))
    print_table("Heights above each entry's own system", ("systems", "entries", "ours, s"), many)


if __name__ == "__main__":
    main()
