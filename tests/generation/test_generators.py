"""The two generators that draw compositions: what is asked for is drawn, and an attempt is its number's alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from voxtal.config import ObjectiveConfig, load_config
from voxtal.errors import UserError
from voxtal.generation import folder
from voxtal.generation.request import Request, request_of
from voxtal.generation.stage import generate, graphs_of_attempts, open_generator
from voxtal.generation.wishes import drawn_rows, likelihood
from voxtal.runs import Run
from voxtal.structures.structure_set import REASON, StructureSet


@pytest.fixture(params=["flow", "analogue"])
def run(request: pytest.FixtureRequest, trained_run: Run) -> Run:
    settings = [f"generate.generator={request.param}", "generate.flow_steps=10"]
    return Run(trained_run.root, load_config(trained_run.root / "voxtal.toml", settings))


def test_attempts_are_the_same_in_blocks_of_any_size(run: Run, quiet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another number of attempts, or of ranks, would give other crystals."""
    monkeypatch.setattr(folder, "BLOCK", 8)
    path = generate(run, run.round(0), 40, quiet)
    small = StructureSet.read(path)
    for file in [path, *path.parent.glob("blocks/*.h5")]:
        file.unlink()
    monkeypatch.setattr(folder, "BLOCK", 64)
    large = StructureSet.read(generate(run, run.round(0), 40, quiet))
    for name in ("numbers", "frac_coords", "cells", "offsets"):
        assert getattr(small, name).tobytes() == getattr(large, name).tobytes()
    for column, values in (small.properties | small.provenance).items():
        np.testing.assert_array_equal(values, (large.properties | large.provenance)[column])


def test_what_is_drawn_becomes_crystals(run: Run, quiet: Any) -> None:
    """Codes that the decoders cannot read would be counted as invalid one by one, and no test would tell why."""
    made = StructureSet.read(generate(run, run.round(0), 64, quiet))
    assert np.mean(made.provenance[REASON] == "") > 0.5
    assert set(made.numbers.tolist()) == {29, 79}
    assert len(set(made.provenance["drawn_system"].tolist())) > 1
    assert set(made.provenance["source"].tolist()) == {run.config.generate.generator}


@pytest.mark.parametrize(
    ("words", "systems"),
    [({"system": "Cu-Au"}, {"Au-Cu"}), ({"exclude": "Au"}, {"Cu"}), ({"elements": "Au"}, {"Au"})],
)
def test_what_is_asked_for_is_drawn(words: dict[str, str], systems: set[str], run: Run) -> None:
    """Of a GAN's attempts most are thrown away, or decoded from codes that it never drew."""
    draw = open_generator(run, run.round(0), request_of(**words)).draw(np.arange(64))
    assert set(draw.codes.drawn.tolist()) == systems
    assert not draw.codes.reasons.any()
    assert np.isfinite(draw.predicted["formation_energy"]).all()


def test_few_atoms_are_drawn_where_few_are_asked_for(run: Run, quiet: Any) -> None:
    """--max-atoms would throw away most of what is drawn."""
    path = generate(run, run.round(0), 64, quiet, Request(max_atoms=2))
    made = StructureSet.read(path)
    valid = made.provenance[REASON] == ""
    assert np.diff(made.offsets)[valid].max() <= 2
    assert valid.mean() > 0.5


def test_graphs_of_attempts_are_what_was_decoded(run: Run) -> None:
    """Candidates would be chosen by the distance between other crystals than they are."""
    attempts = np.array([3, 5, 70])
    graphs = graphs_of_attempts(run, run.round(0), attempts)
    assert graphs.shape[0] == 3
    np.testing.assert_array_equal(graphs_of_attempts(run, run.round(0), attempts[1:]), graphs[1:])
    assert len(graphs_of_attempts(run, run.round(0), attempts[:0])) == 0


def test_analogues_that_nothing_known_can_be(trained_run: Run) -> None:
    """Attempts would be made for ever, or of the wrong size."""
    run = Run(trained_run.root, load_config(trained_run.root / "voxtal.toml", ["generate.generator=analogue"]))
    with pytest.raises(UserError, match=r"None of the .* known crystals has as many elements and atoms"):
        open_generator(run, run.round(0), Request(max_atoms=0))


def test_analogues_of_known_composition_are_drawn_again(trained_run: Run) -> None:
    """Attempts would be found known by the comparison, at the cost of all that comes before it."""
    run = Run(trained_run.root, load_config(trained_run.root / "voxtal.toml", ["generate.generator=analogue"]))
    generator: Any = open_generator(run, run.round(0), Request())
    allowed = torch.zeros_like(generator.allowed)
    allowed[20:40] = True
    free = replace(generator, allowed=allowed, compositions=set())

    def drawn(generator: Any) -> list[Any]:
        codes = generator.block(np.arange(64))
        return [frozenset(codes.numbers[codes.owner == i].tolist()) for i in range(64)]

    class Known:
        """Compositions of elements that were drawn before."""

        def __contains__(self, composition: frozenset[tuple[int, int]]) -> bool:
            return frozenset(number for number, _ in composition) in known

    before = drawn(free)
    known = set(before[:8])
    again = [elements in known for elements in drawn(replace(free, compositions=Known()))]
    assert np.mean([elements in known for elements in before]) > 2 * np.mean(again)


def asked(**goal: Any) -> list[ObjectiveConfig]:
    return [ObjectiveConfig(property="band_gap", **goal)]


def test_objectives_choose_what_attempts_are_like() -> None:
    """What a user asks for would not change what is generated."""
    gaps = np.array([[0.0], [1.5], [4.0], [np.nan]])
    names = ["band_gap"]
    even = likelihood(gaps, names, asked(goal="low", weight=0.0))
    np.testing.assert_allclose(even, [1 / 3, 1 / 3, 1 / 3, 0])
    ranged = likelihood(gaps, names, asked(range=(1.0, 2.0), weight=3.0, scale=0.5))
    assert ranged.argmax() == 1
    assert ranged[1] > 0.9
    high, higher = (likelihood(gaps, names, asked(goal="high", weight=weight)) for weight in (0.1, 1.0))
    assert even[2] < high[2] < higher[2]
    assert likelihood(gaps[3:], names, asked(goal="low")).tolist() == [1.0]


def test_rows_come_as_often_as_they_are_likely() -> None:
    """The last row has no number of its own where sums of floats end below one."""
    likely = np.array([0.2, 0.0, 0.5, 0.3, 0.0])
    rows = drawn_rows(likely, np.linspace(0, 1, 1001, endpoint=False))
    assert np.bincount(rows, minlength=5).tolist() == pytest.approx([200, 0, 500, 300, 0], abs=1)
    assert drawn_rows(likely, np.array([np.nextafter(1.0, 0)])).tolist() == [3]
