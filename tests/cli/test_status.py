"""``voxtal status``: what is done, running, stopped and waiting, from the files alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from voxtal.cli.status import status
from voxtal.config import build_config
from voxtal.errors import UserError
from voxtal.reports.stages import FRESH_SECONDS, Count, ledger_counts, owner_at_work, round_stages
from voxtal.runs import Run


def _states(run: Run, index: int, at_work: bool = False) -> dict[str, str]:
    return {stage.name: stage.state for stage in round_stages(run.round(index), [], at_work)}


def _age(path: Path) -> None:
    old = path.stat().st_mtime - 2 * FRESH_SECONDS
    os.utime(path, (old, old))


def test_a_finished_round_is_done_and_the_next_one_is_under_way(run_directory: Path) -> None:
    """A wrong state would make the user restart or wait for nothing."""
    run = Run(run_directory, build_config({}))
    assert set(_states(run, 0).values()) == {"done"}
    states = _states(run, 1)
    assert (states["structures"], states["train lattice-ae"]) == ("done", "done")
    assert (states["train sites-ae"], states["train ccdcgan"], states["hull"]) == (
        "running",
        "waiting",
        "waiting",
    )
    _age(run.round(1).train("sites-ae") / "metrics.jsonl")
    assert _states(run, 1)["train sites-ae"] == "stopped"


def test_the_first_open_stage_is_what_the_living_owner_works_at(run_directory: Path) -> None:
    """A stage that writes its file only at the end would look idle until then."""
    run = Run(run_directory, build_config({}))
    assert _states(run, 1, at_work=True)["voxels"] == "running"
    assert _states(run, 1, at_work=True)["encode"] == "waiting"


def test_training_shows_its_step(run_directory: Path) -> None:
    """The half-written last line of a running training must not hide how far it is."""
    run = Run(run_directory, build_config({}))
    detail = {stage.name: stage.detail for stage in round_stages(run.round(1), [], True)}
    assert detail["train sites-ae"].startswith("step 240/600, loss")


def test_a_model_without_its_final_weights_is_not_done(run_directory: Path) -> None:
    """Training killed between the last step and best.pt must run again."""
    run = Run(run_directory, build_config({}))
    (run.round(0).train("sites-ae") / "best.pt").unlink()
    assert _states(run, 0)["train sites-ae"] != "done"


def test_networks_of_single_elements_are_one_stage(run_directory: Path) -> None:
    """Eighty-four lines for the published preset, or none at all."""
    run = Run(run_directory, build_config({}))
    assert "train sites-ae-separated" not in _states(run, 0)
    paths = run.round(0)
    shutil.copytree(paths.train("sites-ae"), paths.train("sites-ae-Co"))
    assert _states(run, 0)["train sites-ae-separated"] == "done"
    shutil.copytree(run.round(1).train("sites-ae"), paths.train("sites-ae-Hf"))
    stages = {stage.name: stage for stage in round_stages(paths, [], False)}
    assert stages["train sites-ae-separated"].state == "running"
    assert stages["train sites-ae-separated"].detail == "elements done 1, begun 1"


def test_status_prints_stages_and_what_to_do(run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The user must see the next command, not only a table."""
    _age(run_directory / "round-001" / "train" / "sites-ae" / "metrics.jsonl")
    status(run_directory)
    printed = capsys.readouterr().out
    assert re.search("train sites-ae +stopped", printed)
    assert re.search(r"voxels +done +2 s", printed)
    assert f"voxtal report --run {run_directory}" in printed
    assert f"voxtal round --run {run_directory}" in printed


def test_an_empty_run_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing done yet is an answer, not an error; no configuration is one."""
    (tmp_path / "voxtal.toml").write_text('system = "Co-Hf"\n')
    status(tmp_path)
    printed = capsys.readouterr().out
    assert "Nothing has been done" in printed
    assert "voxtal round" in printed
    with pytest.raises(UserError, match=r"voxtal\.toml"):
        status(tmp_path / "elsewhere")


def test_calculations_are_counted_while_the_ledger_is_written(
    run_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status must neither block nor change a ledger that a running round holds open."""
    from voxtal.ledger import Calculation, Ledger

    ledger = Ledger(run_directory / "ledger.sqlite")
    for number in range(3):
        ledger.claim(Calculation(f"r1-{number}", "candidate", 1, "emt", "{}", f'"{number}"'))
    before = (run_directory / "ledger.sqlite").read_bytes()
    assert ledger_counts(run_directory / "ledger.sqlite") == [Count(1, "candidate", "running", "", 3)]
    status(run_directory)
    assert "candidate  running      3" in capsys.readouterr().out
    assert (run_directory / "ledger.sqlite").read_bytes() == before
    ledger.close()


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    """A broken ledger must give a message, not a traceback from SQLite."""
    path = tmp_path / "ledger.sqlite"
    path.write_text("not a database, but long enough to look like a file of some kind" * 20)
    with pytest.raises(UserError, match="not a voxtal ledger"):
        ledger_counts(path)
    assert ledger_counts(tmp_path / "absent.sqlite") == []


def test_the_owner_is_named_while_it_lives(tmp_path: Path) -> None:
    """A lock file outlives its process: only a living owner is at work."""
    code = (
        "import sys, pathlib\n"
        "from voxtal.runs import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1]), 'voxtal round'):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert f"voxtal round (pid {holder.pid}" in str(owner_at_work(tmp_path))
    holder.communicate("")
    assert owner_at_work(tmp_path) is None
