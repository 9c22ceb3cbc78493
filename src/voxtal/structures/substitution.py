"""New structures by element substitution: the baseline that a generative model has to beat.

A known structure gets similar elements in place of its own and a volume that fits them. Which elements are similar was
learned from known compounds by Hautier et al., Inorg. Chem. 50, 656 (2011), doi:10.1021/ic102031h.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from voxtal.structures.structure_set import SOURCE, StructureSet
from voxtal.units import ATOMIC_NUMBERS

MIN_ATOMIC_VOLUME_ANGSTROM3 = 1.0
"""Lower bound of a fitted atomic volume: small cations fill gaps, and their fit may end at zero."""


def substituted(known: StructureSet, n: int, seed: int) -> StructureSet:
    """``n`` attempts, each a structure of ``known`` with one or more of its elements replaced.

    Attempt i depends on ``known``, ``seed`` and i alone. Its parent is drawn uniformly, as is how many of the parent's
    elements are replaced; the new elements are drawn by :func:`substitution_weights` from those of ``known`` that the
    attempt does not hold yet. The volume is scaled by the atomic volumes that fit ``known`` best.

    Parameters
    ----------
    known : StructureSet
        Parents; not empty.
    n : int
        Attempts.
    seed : int
        Of the random choices.

    Returns
    -------
    StructureSet
        Ids ``substitution-000000`` and so on; provenance ``source`` holds the parent's id.
    """
    weights = np.zeros((ATOMIC_NUMBERS, ATOMIC_NUMBERS))
    available = np.unique(known.numbers)
    weights[:, available] = substitution_weights()[:, available]
    volumes = atomic_volumes(known)
    parents, numbers, cells = [], [], []
    for i in range(n):
        rng = np.random.default_rng((seed, i))
        parent = int(rng.integers(len(known)))
        old, _, cell = known.arrays(parent)
        new = _replaced(old, weights, rng)
        parents.append(parent)
        numbers.append(new)
        cells.append(cell * (volumes[new].sum() / volumes[old].sum()) ** (1 / 3))
    chosen = known.subset(parents)
    return StructureSet(
        ids=np.array([f"substitution-{i:06d}" for i in range(n)], dtype=np.str_),
        offsets=chosen.offsets,
        numbers=np.concatenate(numbers) if numbers else chosen.numbers,
        frac_coords=chosen.frac_coords,
        cells=np.stack(cells) if cells else chosen.cells,
        provenance={SOURCE: chosen.ids},
    )


@cache
def substitution_weights() -> np.ndarray:
    """Relative frequency (119, 119) at which the element of a column takes the place of that of a row, by atomic
    number; zero on the diagonal and for pairs that were never seen.

    The table is of ions; elements get the sum over the pairs of ions of equal charge, whose exchange keeps a compound
    neutral.
    """
    from pymatgen.analysis.structure_prediction.substitution_probability import SubstitutionProbability

    table = SubstitutionProbability()
    never = np.exp(table.alpha)
    weights = np.zeros((ATOMIC_NUMBERS, ATOMIC_NUMBERS))
    species = sorted(table.species, key=str)
    for one in species:
        for other in species:
            if one.Z != other.Z and one.oxi_state == other.oxi_state:
                seen = np.exp(table.get_lambda(one, other))
                weights[one.Z, other.Z] += seen if seen > never else 0.0
    weights.setflags(write=False)
    return weights


def atomic_volumes(structures: StructureSet) -> np.ndarray:
    """Volume (119,) of an atom of each element, cubic angstrom, such that sums of them fit the volumes of the cells
    best (non-negative least squares of the relative errors)."""
    from scipy.optimize import nnls

    counts = np.zeros((len(structures), ATOMIC_NUMBERS))
    owners = np.repeat(np.arange(len(structures)), np.diff(structures.offsets))
    np.add.at(counts, (owners, structures.numbers), 1)
    present = np.flatnonzero(counts.any(axis=0))
    cells = np.abs(np.linalg.det(structures.cells))
    fitted, _ = nnls(counts[:, present] / cells[:, None], np.ones(len(cells)))
    volumes = np.full(ATOMIC_NUMBERS, MIN_ATOMIC_VOLUME_ANGSTROM3)
    volumes[present] = np.maximum(fitted, MIN_ATOMIC_VOLUME_ANGSTROM3)
    return volumes


def _replaced(numbers: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``numbers`` with a random choice of its elements replaced, none by one that is or was there."""
    elements = np.unique(numbers)
    taken = elements.tolist()
    new = numbers.copy()
    for element in rng.permutation(elements)[: rng.integers(1, len(elements) + 1)]:
        likely = weights[element].copy()
        likely[taken] = 0.0
        if likely.any():
            replacement = rng.choice(ATOMIC_NUMBERS, p=likely / likely.sum())
            new[numbers == element] = replacement
            taken.append(int(replacement))
    return new
