"""What is left of attempts around a known compound, step by step: ICSG3D's table 2 (doi:10.1021/acs.jcim.0c00464)."""

from __future__ import annotations

from typing import Any

import numpy as np

from voxtal.generation.blocks import PREDICTED
from voxtal.parallel.communicator import Communicator, SerialCommunicator
from voxtal.parallel.tasks import shown
from voxtal.screening.comparison import Progress
from voxtal.screening.metrics import share
from voxtal.structures.matching import STRICT, Matcher, find_known, first_of_duplicates
from voxtal.structures.structure_set import FORMATION_ENERGY, REASON, StructureSet

NEAR = 0.2
"""Largest relative distance of a formation energy from the compound's."""

PUBLISHED = (100, 89, 35, 25, 6, 2)
"""Table 2: per cent that are left after each step, mean over 12 compounds, 1,000 attempts each."""


def around_funnel(
    candidates: StructureSet,
    base: StructureSet,
    training: StructureSet,
    progress: Progress,
    communicator: Communicator | None = None,
) -> dict[str, Any]:
    """Counts of the attempts that pass each step and all before it, and the ids of those that pass all.

    Steps: valid; the base's anonymous formula; equal to no training structure (strict matcher); predicted formation
    energy within 20% of the base's; unique (the first of equal ones, strict matcher). The paper keeps one of each
    composition in the last step, that of the lowest formation energy: ``unique_compositions`` counts these. Collective.

    Parameters
    ----------
    base
        The compound alone. Its formation energy is the target, eV/atom; where it is not known none is near it.
    training
        Structures that the generator was trained on.
    """
    communicator = communicator or SerialCommunicator()
    matcher = Matcher(STRICT)
    target = float(base.properties.get(FORMATION_ENERGY, np.array([np.nan]))[0])
    energies = candidates.properties[PREDICTED]
    valid = np.flatnonzero(candidates.provenance[REASON] == "")
    wanted = anonymous_formula(base, 0)
    alike = np.array([i for i in valid.tolist() if anonymous_formula(candidates, i) == wanted], dtype=np.int64)
    with shown(progress, "compare", 2, communicator) as advance:
        known = find_known(candidates.subset(alike), training, matcher, communicator)
        new = alike[[match is None for match in known]]
        advance(1, "with the training set")
        near = new[np.abs(energies[new] - target) <= NEAR * abs(target)]
        near = near[np.argsort(energies[near], kind="stable")]  # of equal ones, and of a composition, the lowest stays
        first = first_of_duplicates(candidates.subset(near), matcher, communicator)
        unique = near[np.asarray(first, dtype=np.int64) == np.arange(len(near))]
        advance(1, "with each other")
    closest = unique[np.argsort(np.abs(energies[unique] - target), kind="stable")]
    left = (len(candidates), len(valid), len(alike), len(new), len(near), len(unique))
    names = (
        "attempts",
        "valid",
        f"anonymous formula {wanted}",
        "not in the training set",
        f"within {NEAR:.0%} of the target formation energy",
        "unique",
    )
    steps = zip(names, left, PUBLISHED, strict=True)
    return {
        "base": str(base.ids[0]),
        "target_formation_energy_ev_per_atom": target,
        "steps": [{"step": name, **share(n, len(candidates)), "published_percent": p} for name, n, p in steps],
        "unique_compositions": len({composition(candidates, i) for i in unique.tolist()}),
        "passed": [str(candidates.ids[i]) for i in closest.tolist()],
    }


def composition(structures: StructureSet, i: int) -> tuple[tuple[int, int], ...]:
    """Atomic numbers of a crystal and how many of each its reduced formula has."""
    numbers, counts = np.unique(structures.arrays(i)[0], return_counts=True)
    return tuple(zip(numbers.tolist(), (counts // np.gcd.reduce(counts)).tolist(), strict=True))


def anonymous_formula(structures: StructureSet, i: int) -> str:
    """Such as ``ABC3``, elements by how many atoms there are."""
    counts = sorted(n for _, n in composition(structures, i))
    return "".join(f"{chr(65 + k)}{n if n > 1 else ''}" for k, n in enumerate(counts))
