"""A training set with newly labelled structures added: one method, none of them twice."""

from __future__ import annotations

import numpy as np

from voxtal.errors import UserError
from voxtal.structures.matching import STRICT, Matcher, find_known, first_of_duplicates
from voxtal.structures.structure_set import FORMATION_ENERGY, METHOD, SOURCE, SPLIT, StructureSet


def augmented(
    training: StructureSet,
    labelled: StructureSet,
    source: str,
    max_formation_energy: float,
    leave_other_labels: bool = False,
) -> tuple[StructureSet, dict[str, int]]:
    """``training`` and what of ``labelled`` is new to it.

    Parameters
    ----------
    training : StructureSet
        Kept as it is, first.
    labelled : StructureSet
        With the property ``formation_energy``, eV/atom.
    source : str
        Becomes the provenance ``source`` of what is added.
    max_formation_energy : float
        Higher ones are left out, eV/atom.
    leave_other_labels : bool
        Where the labels are by another method than the training set's, add the structures without their labels instead
        of refusing them: autoencoders and generators learn from them, constraints do not.

    Returns
    -------
    StructureSet
        What is added is marked ``train``.
    dict
        Counts: ``added``, and what was left out, why. The strict matcher tells equal structures.

    Raises
    ------
    UserError
        The labels are not all of one method, or there are none.
    """
    before, new = _methods(training), _known_methods(labelled)
    same = not before or not new or before == new
    if len(new) > 1 or not (same or leave_other_labels):
        raise UserError(
            f"The training set's labels are by {_names(before)}, those to add by {_names(new)}: formation energies of "
            "different methods must not be mixed. Label both with one calculator."
        )
    energies = labelled.properties[FORMATION_ENERGY]
    has_label = np.isfinite(energies)
    low = has_label & (energies <= max_formation_energy)
    new_id = ~np.isin(labelled.ids, training.ids)
    rows = np.flatnonzero(low & new_id)
    chosen = labelled.subset(rows)
    matcher = Matcher(STRICT)
    known = np.array([match is not None for match in find_known(chosen, training, matcher)], dtype=bool)
    repeated = np.asarray(first_of_duplicates(chosen, matcher), dtype=int) != np.arange(len(chosen))
    added = chosen.subset(np.flatnonzero(~known & ~repeated))
    if not same:
        added = added.without_labels()
    added = added.with_columns(provenance={SPLIT: ["train"] * len(added), SOURCE: [source] * len(added)})
    counts = {
        "added": len(added),
        "left out, no label": int((~has_label).sum()),
        "left out, too high in energy": int((has_label & ~low).sum()),
        "left out, id already there": int((low & ~new_id).sum()),
        "left out, structure already there": int((known | repeated).sum()),
    }
    return StructureSet.concatenate([training, added]), counts


def _known_methods(labelled: StructureSet) -> set[str]:
    if FORMATION_ENERGY not in labelled.properties:
        raise UserError("The structures to add carry no formation energies; label them with `voxtal relax`.")
    return _methods(labelled)


def _methods(structures: StructureSet) -> set[str]:
    """Of the rows that carry a label; empty for one that does not tell its method."""
    unknown = np.full(len(structures), "")
    labelled = np.isfinite(structures.properties.get(FORMATION_ENERGY, np.full(len(structures), np.nan)))
    return set(structures.provenance.get(METHOD, unknown)[labelled].tolist())


def _names(methods: set[str]) -> str:
    return ", ".join(sorted(name or "an unknown method" for name in methods))
