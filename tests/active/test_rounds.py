"""Stages of a round on made and on trained runs; the whole of it is in tests/cli/test_round.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from voxtal.active.bootstrap import relax_settings, withheld_path
from voxtal.active.rounds import (
    augment,
    next_round,
    rediscovered,
    relax_selected,
    relaxed_path,
    screen,
    selected_path,
    summarize,
    write_hull,
)
from voxtal.calculators.base import CalculatorSpec
from voxtal.config import build_config, load_config
from voxtal.generation.blocks import ATTEMPT, PREDICTED
from voxtal.ledger import Ledger
from voxtal.runs import Run, write_json
from voxtal.structures.structure_set import FORMATION_ENERGY, REASON, SOURCE, SPLIT, StructureSet
from voxtal.training.stages import GENERATORS
from voxtal.workflows.local import Local
from voxtal.workflows.relaxation import relax_set


def candidates_of(structures: list[Any], reasons: list[str]) -> StructureSet:
    n = len(structures)
    return StructureSet.from_structures(
        structures,
        [f"r0-{i:06d}" for i in range(n)],
        properties={ATTEMPT: np.arange(n), PREDICTED: np.linspace(-0.2, 0.2, n)},
        provenance={REASON: reasons},
    )


@pytest.fixture
def made_run(tmp_path: Any, tiny: dict[str, Any], copper_gold: list[Any]) -> Run:
    """B2 CuAu withheld in two energies, L1_2 in none."""
    tiny["structures"]["withhold"] = ["AuCu 221", "AuCu3 221"]
    run = Run(tmp_path, build_config(tiny))
    b2 = copper_gold[-1]
    StructureSet.from_structures(
        [copper_gold[-2], b2], ["high", "b2"], properties={FORMATION_ENERGY: [0.5, -0.1]}
    ).write(withheld_path(run.round(0)))
    return run


@pytest.mark.parametrize("where", ["generated", "relaxed", "invalid", "nowhere"])
def test_rediscovered(where: str, made_run: Run, copper_gold: list[Any]) -> None:
    """A phase counts as found only where a valid attempt or a relaxed candidate is that crystal."""
    paths, b2, other = made_run.round(0), copper_gold[-1], copper_gold[-3]
    b2 = b2 * (1, 1, 2)
    reasons = ["", "no cell" if where == "invalid" else ""]
    candidates_of([other, b2 if where in ("generated", "invalid") else other], reasons).write(paths.candidates)
    candidates_of([b2 if where == "relaxed" else other], [""]).write(relaxed_path(paths))
    found = rediscovered(made_run, paths)
    assert found == [
        {
            "phase": "AuCu 221",
            "known": True,
            "generated": where == "generated",
            "relaxed": where == "relaxed",
        },
        {"phase": "AuCu3 221", "known": False, "generated": False, "relaxed": False},
    ]


def test_next_round_is_the_first_without_a_summary(made_run: Run) -> None:
    """A round that was killed is carried on; a finished one is not done again."""
    assert next_round(made_run).index == 0
    write_json(made_run.round(0).summary, {})
    assert next_round(made_run).index == 1
    made_run.round(1).root.mkdir()
    assert next_round(made_run).index == 1
    write_json(made_run.round(1).summary, {})
    assert next_round(made_run).index == 2


def test_augmented_set_is_this_rounds_and_the_labelled_candidates(made_run: Run, copper_gold: list[Any]) -> None:
    """Structures that change or vanish between rounds; a candidate too high in energy that is trained on."""
    paths = made_run.round(0)
    StructureSet.from_structures(
        copper_gold[:3],
        ["a", "b", "c"],
        properties={FORMATION_ENERGY: [0.1, 0.2, 0.3]},
        provenance={SPLIT: ["train", "heldout", "train"], SOURCE: ["x", "y", "z"]},
    ).write(paths.structures)
    relaxed = candidates_of(copper_gold[3:6], ["", "", ""])
    relaxed.with_columns(properties={FORMATION_ENERGY: [0.0, 5.0, -0.1]}).write(relaxed_path(paths))
    augment(made_run, paths)
    following = StructureSet.read(made_run.round(1).structures)
    assert following.ids.tolist() == ["a", "b", "c", "r0-000000", "r0-000002"]
    assert following.properties[FORMATION_ENERGY].tolist() == [0.1, 0.2, 0.3, 0.0, -0.1]
    assert following.provenance[SPLIT].tolist() == ["train", "heldout", "train", "train", "train"]
    assert following.provenance[SOURCE].tolist() == ["x", "y", "z", "round 0", "round 0"]


def test_round_of_which_nothing_passes(trained_run: Run, copper_gold: list[Any], quiet: Any) -> None:
    """No valid attempt: every stage finds nothing to do, the figures say so, and the next round has this one's data."""
    paths = trained_run.round(0)
    settings = relax_settings(trained_run, 0)
    relax_set(
        StructureSet.read(paths.structures).subset([23]),
        CalculatorSpec("emt"),
        settings,
        trained_run.ledger,
        "training",
        backend=Local(1),
    )
    said: list[str] = []
    candidates_of(copper_gold[:4], ["no sites", "no sites", "not finite", "atoms closer than 0.5 A"]).write(
        paths.candidates
    )
    screen(trained_run, paths, quiet, said.append)
    relax_selected(trained_run, paths, quiet)
    write_hull(trained_run, paths)
    augment(trained_run, paths)
    summary = summarize(trained_run, paths, {})
    assert [summary[f"n_{gate}"] for gate in ("attempts", "valid", "unique", "novel", "selected", "relaxed")] == [
        4, 0, 0, 0, 0, 0,
    ]  # fmt: skip
    assert summary["best_e_above_hull_ev_per_atom"] is None
    before, after = StructureSet.read(paths.structures), StructureSet.read(trained_run.round(1).structures)
    assert before.ids.tolist() == after.ids.tolist()


def strangers(copper_gold: list[Any]) -> list[Any]:
    """Crystals that no training set holds."""
    strange = []
    for i, structure in enumerate(copper_gold[-6:]):
        doubled = structure * (1, 1, 2)
        doubled.translate_sites(0, [0.0, 0.0, 0.03 * (i + 1)])
        doubled.replace(len(doubled) - 1, "Cu" if doubled[-1].specie.symbol == "Au" else "Au")
        strange.append(doubled)
    return strange


def test_of_many_candidates_the_best_alone_are_compared(
    trained_run: Run, copper_gold: list[Any], quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs of 50,000 candidates do not fit into memory."""
    monkeypatch.setattr("voxtal.active.rounds.MOST_COMPARED", 1)
    paths = trained_run.round(0)
    candidates_of(strangers(copper_gold), [""] * 6).write(paths.candidates)
    counts = screen(trained_run, paths, quiet, print)["funnel"]
    assert counts["believable"] > counts["selected"] == 4
    with Ledger(trained_run.ledger) as ledger:
        outcomes = {row["id"]: row["outcome"] for row in ledger.candidates()}
    worth = [id_ for id_ in sorted(outcomes) if outcomes[id_] in ("selected", "not-selected")]
    assert [outcomes[id_] for id_ in worth] == ["selected"] * 4 + ["not-selected"] * (len(worth) - 4)


@pytest.mark.parametrize("generator", GENERATORS)
def test_screening_chooses_among_what_passed(
    generator: str, trained_run: Run, copper_gold: list[Any], quiet: Any
) -> None:
    """Selected candidates are valid, unique and novel, at most screen.select; the ledger holds every attempt."""
    trained_run = Run(
        trained_run.root, load_config(trained_run.root / "voxtal.toml", [f"generate.generator={generator}"])
    )
    paths = trained_run.round(0)
    strange = strangers(copper_gold)
    rows = [*strange, copper_gold[2], strange[0], copper_gold[0]]
    candidates_of(rows, [""] * 8 + ["no cell"]).write(paths.candidates)
    evaluation = screen(trained_run, paths, quiet, print)
    counts = evaluation["funnel"]
    selected = StructureSet.read(selected_path(paths))
    assert counts["attempts"] == 9
    assert counts["valid"] == 8
    assert counts["novel"] <= counts["unique"] <= 7
    assert len(selected) == counts["selected"] == min(4, counts["novel"]) > 0
    assert not {"r0-000006", "r0-000007", "r0-000008"} & set(selected.ids)
    with Ledger(trained_run.ledger) as ledger:
        recorded = {row["id"]: row["outcome"] for row in ledger.candidates()}
        assert {row["model"] for row in ledger.candidates()} == {generator}
    assert len(recorded) == 9
    assert {id_ for id_, outcome in recorded.items() if outcome == "selected"} == set(selected.ids)
