"""The run directory: files that are whole or absent, one writer at a time, and the manifest."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtal.config import build_config
from voxtal.errors import UserError
from voxtal.runs import Run, append_manifest, atomic_path, exclusive, read_json, sha256_of, write_json


def test_atomic_path_leaves_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    """Half of a new file in place of a whole old one would lose finished work."""
    target = tmp_path / "deep" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_a_kill_in_the_middle_of_writing_leaves_the_old_file(tmp_path: Path) -> None:
    """SIGKILL runs no cleanup: only writing aside and renaming protects the old file then."""
    target = tmp_path / "file.txt"
    target.write_text("old")
    code = (
        "import os, sys, pathlib\n"
        "from voxtal.runs import atomic_path\n"
        "with atomic_path(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert target.read_text() == "old"


def test_a_second_writer_is_refused_and_a_dead_one_forgotten(tmp_path: Path) -> None:
    """Two rounds in one directory would overwrite each other; a stale lock would block for ever."""
    code = (
        "import sys, pathlib\n"
        "from voxtal.runs import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1]), 'voxtal round'):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"voxtal round .pid {holder.pid}"), exclusive(tmp_path, "me"):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with exclusive(tmp_path, "me"):
        assert "me (pid" in (tmp_path / ".lock").read_text()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=_JSON)
def test_json_round_trip(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    """A summary that changes when it is written and read would misreport a run."""
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(path, value)
    assert read_json(path) == value


def test_json_has_no_nan_and_broken_json_is_named(tmp_path: Path) -> None:
    """NaN is not JSON: other programs could not read the summary."""
    path = tmp_path / "value.json"
    write_json(path, {"a": float("nan"), "b": [float("inf"), 1.5]})
    assert json.loads(path.read_text()) == {"a": None, "b": [None, 1.5]}
    path.write_text("{")
    with pytest.raises(UserError, match=r"value\.json"):
        read_json(path)


def test_rounds_are_found_in_order(tmp_path: Path) -> None:
    """A round taken for the newest that has no structures would start the next one from nothing."""
    run = Run(tmp_path, build_config({}))
    assert (run.rounds(), run.latest_round().index) == ([], 0)
    for index in (1, 0, 2):
        run.round(index).root.mkdir()
    run.round(1).structures.touch()
    (tmp_path / "round-other").mkdir()
    assert [paths.index for paths in run.rounds()] == [0, 1, 2]
    assert run.latest_round().index == 1


def test_manifest_records_every_command(tmp_path: Path) -> None:
    """Without seed, versions and the configuration's hash a run cannot be repeated."""
    (tmp_path / "voxtal.toml").write_text("seed = 3\n")
    run = Run(tmp_path, build_config({"seed": 3}))
    append_manifest(run, "voxtal round", round=0)
    append_manifest(run, "voxtal report", world_size=2)
    first, second = read_json(run.manifest)["commands"]
    assert (first["command"], first["seed"], first["round"], second["world_size"]) == (
        "voxtal round",
        3,
        0,
        2,
    )
    assert first["config_sha256"] == sha256_of(tmp_path / "voxtal.toml")
