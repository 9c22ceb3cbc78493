"""Hypothetical structures: the elements of a chemical system put into known crystal structure prototypes.

The prototypes are the AFLOW library's (Mehl et al., Comput. Mater. Sci. 136, S1 (2017),
doi:10.1016/j.commatsci.2017.01.017), as pymatgen carries them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations
from math import gcd
from typing import Any

import numpy as np

from voxtal.structures.contacts import MIN_CONTACT, atomic_volume, too_close
from voxtal.structures.filters import SYMPREC_ANGSTROM, Selection, primitive_cell, why_dropped
from voxtal.structures.matching import STRICT, Matcher, first_of_duplicates
from voxtal.structures.phases import matches_phase, parse_system, with_spacegroup
from voxtal.structures.structure_set import SOURCE, StructureSet
from voxtal.structures.substitution import substitution_weights

__all__ = [
    "HypotheticalResult",
    "hypothetical_structures",
    "matches_phase",
    "parse_system",
    "prototype_compounds",
    "with_spacegroup",
]

MAX_ELEMENT_ATOMS = 8
"""Largest primitive cell of a prototype that is filled with one element."""

_LABEL_COUNT = re.compile(r"([A-Z])(\d*)")


@dataclass(frozen=True)
class Prototype:
    """A primitive cell; ``species`` numbers its sites 0, 1, ... in the order of the AFLOW label."""

    label: str
    mineral: str
    species: np.ndarray
    frac_coords: np.ndarray
    cell: np.ndarray

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(int(n) for n in np.bincount(self.species))


@dataclass(frozen=True)
class HypotheticalResult:
    """Prototypes ``tried``, each with an assignment: as many as ``structures`` and all ``dropped``."""

    structures: StructureSet
    tried: int
    dropped: dict[str, int]

    @property
    def made(self) -> int:
        """Structures before duplicates were removed."""
        return len(self.structures) + self.dropped.get(_DUPLICATE, 0)


_DUPLICATE = "duplicate"


def hypothetical_structures(
    system: str,
    max_atoms: int,
    max_length: float,
) -> HypotheticalResult:
    """Fill the prototypes with the elements of ``system`` and of each of its sub-systems.

    For k elements: every prototype of k species with all k! assignments of elements to sites, in its
    primitive cell, scaled to the sum of the elements' atomic volumes. Deterministic, in the order of the
    elements' number, the elements and the labels.

    Parameters
    ----------
    system
        Elements joined with hyphens, such as ``Co-Hf``.
    max_atoms
        Most atoms in a primitive cell (elements: at most 8 besides).
    max_length
        Longest lattice vector, angstrom.

    Raises
    ------
    UserError
        The system is malformed, or the volume of one of its elements is not known.
    """
    elements = parse_system(system)
    volumes = {symbol: atomic_volume(symbol) for symbol in elements}
    structures, ids, sources = [], [], []
    dropped: Counter[str] = Counter()
    tried = 0
    for structure_id, source, prototype, assigned in _assignments(elements):
        tried += 1
        limit = min(max_atoms, MAX_ELEMENT_ATOMS) if len(assigned) == 1 else max_atoms
        structure = _fill(prototype, assigned, volumes)
        reason = _why_unlikely(structure, Selection(max_atoms=limit, max_length=max_length))
        if reason is not None:
            dropped[reason] += 1
            continue
        structures.append(structure)
        ids.append(structure_id)
        sources.append(source)
    firsts = first_of_duplicates(structures, Matcher(STRICT))
    kept = [i for i, first in enumerate(firsts) if i == first]
    if len(kept) < len(structures):
        dropped[_DUPLICATE] = len(structures) - len(kept)
    made = StructureSet.from_structures(structures, ids, provenance={SOURCE: sources})
    return HypotheticalResult(made.subset(kept), tried, dict(dropped.most_common()))


def prototype_compounds() -> StructureSet:
    """The prototypes of compounds in their primitive cells, with the elements that they are named after.

    Where an element is at several Wyckoff positions there are also ordered derivatives, as L2_1 is one of D0_3: one of
    these positions at a time is taken by the element that most often takes the place of the one that was there.
    """
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY
    from pymatgen.core import Lattice, Structure

    structures: list[Any] = []
    ids: list[str] = []
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        given, label = entry["snl"].structure, entry["tags"]["aflow"]
        crystal = primitive_cell(np.array(given.atomic_numbers), given.frac_coords, given.lattice.matrix)
        for numbers in (crystal[0], *_derivatives(*crystal)):
            if len(set(numbers.tolist())) > 1:
                structures.append(Structure(Lattice(crystal[2]), numbers.tolist(), crystal[1]))
                ids.append(f"{label}-{len(ids)}")
    return StructureSet.from_structures(structures, ids)


def _derivatives(numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray) -> Iterator[np.ndarray]:
    """Atomic numbers with one of an element's Wyckoff positions taken by another; all but one of an element's."""
    import spglib

    crystal: Any = (cell, frac_coords, numbers)
    symmetry = spglib.get_symmetry_dataset(crystal, symprec=SYMPREC_ANGSTROM)
    orbits = np.arange(len(numbers)) if symmetry is None else symmetry.equivalent_atoms
    alike = substitution_weights().copy()
    alike[:, numbers] = 0
    for element in np.unique(numbers):
        for orbit in np.unique(orbits[numbers == element])[1:]:
            yield np.where(orbits == orbit, alike[element].argmax(), numbers)


def _assignments(
    elements: Sequence[str],
) -> Iterator[tuple[str, str, Prototype, tuple[str, ...]]]:
    """Id, source, prototype and elements in the order of its species, for each structure to try."""
    seen: Counter[str] = Counter()
    for k in range(1, len(elements) + 1):
        for subset in combinations(elements, k):
            for prototype in _prototypes().get(k, ()):
                for assigned in permutations(subset):
                    base = f"{'-'.join(subset)}/{prototype.label}/{_site_formula(prototype, assigned)}"
                    seen[base] += 1
                    structure_id = base if seen[base] == 1 else f"{base}-{seen[base]}"
                    mineral = f" ({prototype.mineral})" if prototype.mineral else ""
                    source = f"AFLOW {prototype.label}{mineral}, sites {'-'.join(assigned)}"
                    yield structure_id, source, prototype, assigned


def _site_formula(prototype: Prototype, assigned: Sequence[str]) -> str:
    divisor = gcd(*prototype.counts)
    counts = (n // divisor for n in prototype.counts)
    return "".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in zip(assigned, counts, strict=True))


def _fill(prototype: Prototype, assigned: Sequence[str], volumes: dict[str, float]) -> Any:
    from pymatgen.core import Lattice, Structure

    species = [assigned[i] for i in prototype.species]
    volume = sum(volumes[symbol] for symbol in species)
    scale = (volume / abs(np.linalg.det(prototype.cell))) ** (1 / 3)
    return Structure(Lattice(prototype.cell * scale), species, prototype.frac_coords)


def _why_unlikely(structure: Any, selection: Selection) -> str | None:
    verdict = why_dropped(np.array(structure.atomic_numbers), structure.lattice.matrix, selection)
    if verdict is not None:
        return verdict[0]
    if too_close(structure):
        return f"atoms closer than {MIN_CONTACT} of their radii's sum"
    return None


@cache
def _prototypes() -> dict[int, tuple[Prototype, ...]]:
    """The library by number of species, sorted by label (entries of one label in the library's order)."""
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    by_species: dict[int, list[Prototype]] = {}
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        prototype = _prototype(entry["snl"].structure, entry["tags"]["aflow"], entry["tags"]["mineral"])
        by_species.setdefault(len(prototype.counts), []).append(prototype)
    return {k: tuple(sorted(v, key=lambda p: p.label)) for k, v in sorted(by_species.items())}


def _prototype(structure: Any, label: str, mineral: str | None) -> Prototype:
    order = _label_order(structure, label)
    species = np.array([order.index(number) for number in structure.atomic_numbers])
    # Species count from 1 for spglib, which takes any positive integers as kinds of atoms.
    kinds, frac_coords, cell = primitive_cell(species + 1, structure.frac_coords, structure.lattice.matrix)
    return Prototype(label, mineral or "", kinds - 1, frac_coords, cell)


def _label_order(structure: Any, label: str) -> list[int]:
    """Atomic numbers in the order of the label; those of equal count in the order of the sites."""
    present = Counter(structure.atomic_numbers)
    left = list(present)
    divisor = gcd(*present.values())
    order = []
    for count in (int(n or 1) for _, n in _LABEL_COUNT.findall(label.split("_")[0])):
        fitting = [number for number in left if present[number] == count * divisor]
        order.extend(fitting[:1])
        left = [number for number in left if number not in order]
    return order + left
