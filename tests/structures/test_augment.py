from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from voxtal.errors import UserError
from voxtal.structures.augment import augmented
from voxtal.structures.structure_set import FORMATION_ENERGY, METHOD, SOURCE, SPLIT, StructureSet


def a_set(structures: list[Any], ids: list[str], energies: list[float], method: str = "emt-x") -> StructureSet:
    return StructureSet.from_structures(
        structures,
        ids,
        properties={FORMATION_ENERGY: energies},
        provenance={METHOD: [method] * len(ids), SPLIT: ["heldout"] * len(ids)},
    )


def test_what_is_new_is_added_once_and_the_rest_is_counted(copper_gold):
    """A held-out structure would be trained on under another id, or a training set grow by repetition."""
    training = a_set(copper_gold[:3], ["a", "b", "c"], [0.1, 0.2, 0.3])
    moved = copper_gold[1] * (1, 1, 2)
    moved.translate_sites(list(range(len(moved))), [0.1, 0.2, 0.3])
    doubled = copper_gold[5] * (2, 1, 1)
    labelled = a_set(
        [*copper_gold[3:7], moved, doubled, copper_gold[8]],
        ["a", "high", "new", "bad", "moved", "twice", "last"],
        [0.0, 1.1, -0.1, np.nan, 0.0, 0.0, 1.0],
    )
    following, counts = augmented(training, labelled, "round 4", 1.0)
    assert following.ids.tolist() == ["a", "b", "c", "new", "last"]
    assert following.provenance[SPLIT].tolist() == ["heldout"] * 3 + ["train"] * 2
    assert following.provenance[SOURCE].tolist() == ["", "", "", "round 4", "round 4"]
    assert list(counts.values()) == [2, 1, 1, 1, 2]
    again, counts = augmented(following, labelled, "round 5", 1.0)
    assert again.ids.tolist() == following.ids.tolist()
    assert counts["added"] == 0


@pytest.mark.parametrize("before", ["chgnet-y", ""])
def test_labels_of_two_methods_are_refused(copper_gold, before):
    """A model would be trained on energies that cannot be compared."""
    training = a_set(copper_gold[:1], ["a"], [0.1], before)
    labelled = a_set(copper_gold[1:2], ["b"], [0.1])
    with pytest.raises(UserError, match=f"by {before or 'an unknown method'}, those to add by emt-x"):
        augmented(training, labelled, "x", 1.0)
    both = StructureSet.concatenate([a_set(copper_gold[1:2], ["b"], [0.1], "chgnet"), labelled])
    with pytest.raises(UserError, match="chgnet, emt"):
        augmented(a_set([], [], []), both, "x", 1.0)


def test_nothing_to_add_and_no_labels(copper_gold):
    """A round in which every candidate failed would end in a traceback."""
    training = a_set(copper_gold[:2], ["a", "b"], [0.1, 0.2])
    following, counts = augmented(training, a_set([], [], []), "x", 1.0)
    assert following.ids.tolist() == ["a", "b"]
    assert set(counts.values()) == {0}
    with pytest.raises(UserError, match="no formation energies"):
        augmented(training, StructureSet.from_structures(copper_gold[2:3], ["c"]), "x", 1.0)


def test_other_labels_are_left_behind_where_that_is_asked_for(copper_gold):
    """A constraint on the source's labels would be trained on a calculator's, or the loop end at its first round."""
    training = a_set(copper_gold[:2], ["a", "b"], [0.1, 0.2], "source:1234")
    labelled = a_set(copper_gold[3:6], ["c", "high", "d"], [0.0, 5.0, 0.3])
    following, counts = augmented(training, labelled, "round 0", 1.0, leave_other_labels=True)
    assert following.ids.tolist() == ["a", "b", "c", "d"]
    assert counts["left out, too high in energy"] == 1
    assert np.isnan(following.properties[FORMATION_ENERGY]).tolist() == [False, False, True, True]
    assert following.provenance[METHOD].tolist() == ["source:1234", "source:1234", "", ""]
    assert following.provenance[SPLIT].tolist() == ["heldout", "heldout", "train", "train"]
    again, _ = augmented(following, a_set(copper_gold[7:8], ["e"], [0.0]), "round 1", 1.0, leave_other_labels=True)
    assert again.ids.tolist() == ["a", "b", "c", "d", "e"]
    same, _ = augmented(
        training, a_set(copper_gold[7:8], ["e"], [0.0], "source:1234"), "x", 1.0, leave_other_labels=True
    )
    assert same.properties[FORMATION_ENERGY].tolist() == [0.1, 0.2, 0.0]
