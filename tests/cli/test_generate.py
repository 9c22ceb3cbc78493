"""``voxtal generate`` and ``voxtal evaluate`` at the command line."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from voxtal.cli.generate import SHIPPED
from voxtal.cli.main import build_app
from voxtal.errors import UserError
from voxtal.runs import Run, read_json
from voxtal.structures.structure_set import StructureSet


def voxtal(run: Run, *arguments: str) -> Result:
    return CliRunner().invoke(build_app(), [*arguments, "--run", str(run.root)])


def test_table_adds_up(trained_run: Run) -> None:
    """Valid attempts and each reason of invalid ones, together as many as were asked for."""
    answer = voxtal(trained_run, "generate", "-n", "20")
    assert answer.exit_code == 0
    title, _, *rows = answer.output[answer.output.index("20 attempts:") :].splitlines()
    assert title.endswith("candidates.h5")
    assert sum(int(re.split(r"\s{2,}", row.strip())[-1]) for row in rows) == 20


def test_number_of_attempts_comes_from_the_configuration(trained_run: Run) -> None:
    """-n is for trying; the run's own number is what a round uses."""
    assert voxtal(trained_run, "generate", "--set", "generate.n=9").exit_code == 0
    assert len(StructureSet.read(trained_run.round(0).candidates)) == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--system", "Co-Hf"], "the model knows no Co, Hf; it knows Cu, Au"),
        (["--system", "Cu-Aux"], "'Aux' is no element"),
        (["--elements", "Cu,Agg"], "'Agg' is no element. Did you mean 'Ag'?"),
        (["--exclude", "Cu,Au"], "--exclude leaves no element"),
        (["--name", "../elsewhere"], "cannot be the name of a folder"),
        (["--set", "generate.m=3"], "unknown key 'generate.m'; known keys here: n"),
    ],
)
def test_wrong_use(arguments: list[str], message: str, trained_run: Run) -> None:
    """What was wrong, before any attempt is made."""
    answer = voxtal(trained_run, "generate", *arguments)
    assert isinstance(answer.exception, UserError)
    assert message in str(answer.exception)
    assert not trained_run.round(0).candidates.exists()


def test_restricted_attempts_lie_apart_and_are_told_apart(trained_run: Run) -> None:
    """Fragments of alloys, with the gold left out, would pass for copper that was drawn as such."""
    paths = trained_run.round(0)
    assert voxtal(trained_run, "generate", "-n", "24").exit_code == 0
    answer = voxtal(trained_run, "generate", "-n", "24", "--exclude", "Au", "--max-atoms", "1")
    assert answer.exit_code == 0
    apart = StructureSet.read(paths.candidates.parent / "without-Au_up-to-1-atoms" / "candidates.h5")
    assert set(apart.numbers.tolist()) <= {29}
    drawn = int(np.sum(apart.provenance["drawn_system"] == "Cu"))
    assert f"with no element added or left out: {drawn} attempts" in answer.output
    assert drawn < 24
    valid = apart.provenance["reason"] == ""
    assert np.diff(apart.offsets)[valid].max(initial=0) <= 1
    assert np.diff(StructureSet.read(paths.candidates).offsets).max() > 1


def test_no_attempts_are_refused(trained_run: Run) -> None:
    """-n 0."""
    assert voxtal(trained_run, "generate", "-n", "0").exit_code == 2


def test_the_model_that_comes_with_voxtal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be too large to ship, of other networks than the code's, or know nothing of what is asked for."""
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(build_app(), ["generate", "-n", "64", "--system", "Co-Hf"])
    assert answer.exit_code == 0, answer.output
    candidates = StructureSet.read(Path("generated/Co-Hf/candidates.h5"))
    valid = candidates.subset(np.flatnonzero(candidates.provenance["reason"] == ""))
    assert len(valid) > 55
    assert set(valid.numbers.tolist()) == {27, 72}
    predicted = valid.properties["predicted_formation_energy"]
    assert -1.0 < np.median(predicted) < 0.1


def test_without_a_run_the_packed_model_generates(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after an installation there is no run, and nothing to train one on."""
    assert voxtal(trained_run, "export", "-o", str(tmp_path / "shipped")).exit_code == 0
    monkeypatch.setattr("voxtal.cli.generate.SHIPPED", tmp_path / "shipped")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    answer = CliRunner().invoke(build_app(), ["generate", "-n", "24", "--cif"])
    assert answer.exit_code == 0, answer.output
    candidates = StructureSet.read(Path("generated/candidates.h5"))
    assert len(candidates) == 24
    valid = {f"{id_}.cif" for id_ in candidates.ids[candidates.provenance["reason"] == ""]}
    assert valid
    assert {path.name for path in Path("generated/cif").iterdir()} == valid
    assert read_json(Path("generated/manifest.json"))["commands"][0]["attempts"] == 24
    restricted = CliRunner().invoke(build_app(), ["generate", "-n", "9", "--exclude", "Au", "-o", "copper"])
    assert restricted.exit_code == 0, restricted.output
    assert len(StructureSet.read(Path("copper/without-Au/candidates.h5"))) == 9


def test_a_folder_that_is_named_gets_the_attempts_of_a_run(trained_run: Run, tmp_path: Path) -> None:
    """The round's own candidates, which the loop goes on with, would be replaced."""
    assert voxtal(trained_run, "generate", "-n", "9", "-o", str(tmp_path / "mine")).exit_code == 0
    assert len(StructureSet.read(tmp_path / "mine" / "candidates.h5")) == 9
    assert not trained_run.round(0).candidates.exists()


def test_neither_a_run_nor_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is mistyped is no run, whatever model comes with voxtal."""
    monkeypatch.setattr("voxtal.cli.generate.SHIPPED", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    for place in ([], ["--run", "runs/co-hff"]):
        answer = CliRunner().invoke(build_app(), ["generate", *place])
        assert isinstance(answer.exception, UserError)
        assert "No configuration at" in str(answer.exception)


def test_evaluate_judges_models_and_attempts(trained_run: Run) -> None:
    """Before anything is relaxed: reproduction, constraint and funnel, printed and written."""
    assert voxtal(trained_run, "generate").exit_code == 0
    answer = voxtal(trained_run, "evaluate")
    assert answer.exit_code == 0, answer.output
    for title in ("Reproduction", "Constraint", "Attempts"):
        assert title in answer.output
    evaluation = read_json(trained_run.round(0).evaluation)
    assert evaluation["funnel"]["attempts"] == 24
    with open(trained_run.round(0).screen / "candidates.csv", newline="") as handle:
        assert len(list(csv.DictReader(handle))) == 24


def test_models_are_judged_before_there_are_candidates(trained_run: Run) -> None:
    """A user who wants to know whether to train on, and would have to generate first."""
    answer = voxtal(trained_run, "evaluate")
    assert answer.exit_code == 0, answer.output
    assert "Reproduction" in answer.output
    assert re.search(r"Constraint\n.*\n +train", answer.output)
    assert re.search(r"no candidates at .*candidates\.h5.*voxtal generate", answer.output)
    assert not trained_run.round(0).evaluation.exists()
