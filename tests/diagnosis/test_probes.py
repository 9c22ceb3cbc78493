"""The doctor's probes on this machine."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from voxtal.diagnosis import examination, storage, threads
from voxtal.diagnosis.findings import Verdict
from voxtal.diagnosis.programs import ask, ask_python
from voxtal.parallel.communicator import SerialCommunicator


def test_programs_that_fail_give_a_reason() -> None:
    """A missing, failing or hanging program is a finding, never the end of the doctor."""
    assert not ask("no-such-program").ok
    assert ask_python("raise SystemExit('broken')").text == "broken"
    assert "no answer" in ask_python("import time; time.sleep(60)", seconds=0.5).text
    assert ask_python("import os; os.abort()").ok is False
    assert ask_python("print('fine')").text == "fine"


@pytest.mark.parametrize(
    ("files", "own", "quota"),
    [
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "250000 100000"}, "0::/a/b", 2.5),
        ({"a/cpu.max": "max 100000"}, "0::/a", None),
        (
            {"cpu,cpuacct/j/cpu.cfs_quota_us": "400000", "cpu,cpuacct/j/cpu.cfs_period_us": "100000"},
            "4:cpu,cpuacct:/j",
            4,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/", None),
        ({}, "9:name=systemd:/", None),
    ],
)
def test_the_limit_of_a_control_group_is_found(
    tmp_path: Path, files: dict[str, str], own: str, quota: float | None
) -> None:
    """In a container with 4 of 64 cores, 64 threads would be started."""
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(f"{text}\n")
    (tmp_path / "own").write_text(f"{own}\n")
    assert threads._quota(tmp_path / "groups", tmp_path / "own") == quota


def test_storage_is_looked_at_and_left_as_it_was(tmp_path: Path) -> None:
    """The doctor must leave nothing in a run directory."""
    facts = storage.probe(tmp_path, SerialCommunicator())
    assert facts.sees_token
    assert facts.respects_lock
    assert facts.file_system
    assert {space.what for space in facts.spaces} >= {"run directory", "TMPDIR"}
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_ignores_locks_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lustre without its mount option says that a lock was given, to everyone."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert not storage.probe(tmp_path, SerialCommunicator()).respects_lock


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """--run with a typo."""
    facts = storage.probe(tmp_path / "absent", SerialCommunicator())
    assert facts.write_error == "No such file or directory"
    assert storage.judge([facts], slurm=False)[0].verdict is Verdict.WRONG


def test_a_probe_that_crashes_is_a_row() -> None:
    """One check that fails must not hide what the others found."""
    crash = examination._attempt(lambda: 1 // 0)
    (finding,) = examination._findings("threads", [crash], lambda _: [])
    assert finding.verdict is Verdict.WARNING
    assert "ZeroDivisionError" in finding.found
