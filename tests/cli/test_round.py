"""``voxtal round`` end to end: real structures, EMT relaxations, mpirun where there is one, real training."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from voxtal.cli.main import build_app
from voxtal.config import build_config, write_config
from voxtal.ledger import Ledger
from voxtal.runs import Run, read_json
from voxtal.structures.structure_set import FORMATION_ENERGY, METHOD, SPLIT, StructureSet
from voxtal.training.stages import models_of

SUMMARY_KEYS = {
    "n_training",
    "reproduction_ratio_strict",
    "reproduction_ratio_cdvae",
    "heldout_reproduction_ratio_strict",
    "n_attempts",
    "n_valid",
    "n_unique",
    "n_novel",
    "n_relaxed",
    "mean_abs_delta_ef_ev_per_atom",
    "fraction_negative_ef",
    "best_e_above_hull_ev_per_atom",
    "rediscovered",
    "wall_seconds",
}
pytestmark = pytest.mark.slow


def start_round(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("voxtal")), "round"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, out
    return out


def make_run(folder: Path, tree: dict[str, Any], structures: list[Any]) -> Run:
    tree = tree | {"structures": tree["structures"] | {"source": "given.json"}}
    folder.mkdir(exist_ok=True)
    (folder / "given.json").write_text(json.dumps([structure.as_dict() for structure in structures]))
    write_config(folder / "voxtal.toml", tree)
    return Run(folder, build_config(tree))


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_tree: dict[str, Any], copper_gold: list[Any]
) -> tuple[Run, list[str]]:
    """Two rounds, and what they printed."""
    run = make_run(tmp_path_factory.mktemp("finished"), tiny_tree, copper_gold)
    return run, [finish(start_round(run.root)) for _ in range(2)]


def losses(run: Run, model: str) -> list[dict[str, float]]:
    lines = (run.round(0).train(model) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def candidate_rows(run: Run, index: int) -> list[dict[str, str]]:
    with open(run.round(index).screen / "candidates.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def test_both_rounds_are_whole(finished: tuple[Run, list[str]]) -> None:
    """Every file of the contract is there, and every key that issue 2 asks for has a figure."""
    run, _ = finished
    for index in (0, 1):
        paths = run.round(index)
        for path in (paths.structures, paths.voxels / "index.h5", paths.graphs, paths.candidates, paths.hull):
            assert path.is_file(), path
        for model in models_of(run, paths):
            assert (paths.train(model) / "best.pt").is_file()
            assert losses(run, model)
        summary = read_json(paths.summary)
        assert summary["round"] == index
        assert summary.keys() >= SUMMARY_KEYS
        assert summary["n_attempts"] == run.config.generate.n
        assert summary["wall_seconds"] > 0
    assert read_json(run.manifest)["commands"][-1]["command"] == "round"


def test_figures_agree_with_the_tables(finished: tuple[Run, list[str]]) -> None:
    """candidates.csv has a row for each attempt, and the funnel of summary.json is counted from it."""
    run, _ = finished
    for index in (0, 1):
        summary, rows = read_json(run.round(index).summary), candidate_rows(run, index)
        outcomes = [row["outcome"] for row in rows]
        assert len({row["id"] for row in rows}) == summary["n_attempts"] == len(rows)
        assert summary["n_valid"] == len(rows) - outcomes.count("invalid")
        assert summary["n_unique"] == summary["n_valid"] - outcomes.count("duplicate")
        assert summary["n_novel"] == summary["n_unique"] - outcomes.count("known")
        believable = summary["n_novel"] - outcomes.count("element") - outcomes.count("too-close")
        assert outcomes.count("selected") == summary["n_selected"] == min(run.config.screen.select, believable)
        assert summary["n_relaxed"] <= summary["n_selected"]
    summaries = [read_json(run.round(index).summary) for index in (0, 1)]
    assert sum(summary["n_relaxed"] for summary in summaries) > 0
    assert all(summary["mean_abs_delta_ef_ev_per_atom"] > 0 for summary in summaries if summary["n_relaxed"])


def test_next_round_trains_on_this_one_and_its_candidates(finished: tuple[Run, list[str]]) -> None:
    """The loop is closed: round 1 has round 0's structures, unchanged, and the labelled candidates."""
    run, _ = finished
    first, second, third = (StructureSet.read(run.round(index).structures) for index in (0, 1, 2))
    for before, after, index in ((first, second, 0), (second, third, 1)):
        selected = {row["id"] for row in candidate_rows(run, index) if row["outcome"] == "selected"}
        added = set(after.ids[len(before) :])
        assert after.ids[: len(before)].tolist() == before.ids.tolist()
        assert np.array_equal(after.frac_coords[: len(before.frac_coords)], before.frac_coords)
        assert added <= selected
        assert set(after.provenance[SPLIT][len(before) :]) <= {"train"}
        assert (after.properties[FORMATION_ENERGY] <= 1.0).all()
        assert len(set(after.provenance[METHOD])) == 1
    assert len(third) > len(first)


def test_ledger_holds_every_calculation_and_candidate(finished: tuple[Run, list[str]]) -> None:
    """The truth for restarts: elements, the withheld phase, training structures, candidates of both rounds."""
    run, _ = finished
    with Ledger(run.ledger) as ledger:
        calculations, candidates = ledger.calculations(), ledger.candidates()
    purposes = [row["purpose"] for row in calculations]
    assert {"element", "training", "withheld", "candidate"} == set(purposes)
    assert purposes.count("withheld") == 1
    assert len(candidates) == 2 * run.config.generate.n
    trained_on = set(StructureSet.read(run.round(0).structures).ids)
    assert trained_on <= {row["id"] for row in calculations if row["purpose"] == "training"}
    relaxed = {row["id"] for row in calculations if row["purpose"] == "candidate"}
    selected = {row["id"] for row in candidates if row["outcome"] == "selected"}
    assert relaxed == selected


def test_it_says_what_it_does(finished: tuple[Run, list[str]]) -> None:
    """Progress at every stage, the figures and the next step at the end."""
    _, (first, second) = finished
    for number, name in ((1, "structures"), (4, "train sites-ae"), (12, "augment")):
        assert f"round 0, {number}/12: {name}" in first
        assert f"round 1, {number}/12: {name}" in second
    assert "Round 1 is done" in second
    assert "of 24 attempts" in second


def test_finished_stages_do_nothing_again(finished: tuple[Run, list[str]]) -> None:
    """A stage that is called again touches no result: what is done is found done."""
    run, _ = finished
    drawn = {"learning-curves.png", "parity.png"}  # by evaluate, each time
    aside = {".lock", "manifest.json", "request.json", *drawn}

    def dates() -> dict[str, int]:
        files = (path for path in run.root.rglob("*") if path.is_file() and path.name not in aside)
        return {str(path): path.stat().st_mtime_ns for path in files}

    before = dates()
    verbs = [*(["train", model] for model in models_of(run, run.round(1))), ["encode"], ["generate"], ["evaluate"]]
    for verb in verbs:
        answer = CliRunner().invoke(build_app(), [*verb, "--run", str(run.root), "--round", "0"])
        assert answer.exit_code == 0, answer.output
    assert dates() == before


def test_killed_round_carries_on_and_ends_the_same(
    finished: tuple[Run, list[str]],
    tmp_path: Path,
    tiny: dict[str, Any],
    copper_gold: list[Any],
    signalling_itself: Callable[[int, str, str], list[str]],
) -> None:
    """kill -9 while labelling, SIGTERM and kill -9 while training: the same structures, losses and candidates."""
    undisturbed, _ = finished
    run = make_run(tmp_path / "run", tiny, copper_gold)
    paths = run.round(0)
    command = [*signalling_itself(signal.SIGKILL, "voxtal.workflows.local._row", "calls == 13"), "round"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(command, cwd=run.root, env=environment, stdout=subprocess.DEVNULL, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not paths.structures.is_file()
    labelled = calculations_done(run)
    assert labelled >= 13
    assert disturb(run, signal.SIGTERM, lambda: lines(paths.train("sites-ae") / "metrics.jsonl") > 2) == 75
    assert calculations_done(run) >= labelled
    disturb(run, signal.SIGKILL, lambda: lines(paths.train("ccdcgan") / "metrics.jsonl") > 2)
    finish(start_round(run.root))
    for model in models_of(run, paths):
        assert losses(run, model) == losses(undisturbed, model)
    assert candidate_rows(run, 0) == candidate_rows(undisturbed, 0)
    ours, theirs = read_json(paths.summary), read_json(undisturbed.round(0).summary)
    for timing in ("wall_seconds", "stages"):
        del ours[timing], theirs[timing]
    assert ours == theirs


def disturb(run: Run, number: int, ready: Callable[[], bool]) -> int:
    """Send a signal to the round as soon as it is ``ready``; its exit code."""
    process = start_round(run.root)
    until = time.monotonic() + 1200
    try:
        while not ready():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(number)
        process.communicate(timeout=600)
    finally:
        process.kill()
        process.wait()
    return process.returncode


def calculations_done(run: Run) -> int:
    with Ledger(run.ledger) as ledger:
        return len(ledger.calculations())


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.is_file() else 0
