"""Ranks started from within a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.parallel.conftest import is_alive
from voxtal.errors import Interrupted, UserError
from voxtal.parallel.launch import run_ranks


def test_every_rank_runs(mpirun: str, tmp_path: Path) -> None:
    """One rank that does all the work looks the same from outside."""
    program = "import sys, pathlib; from mpi4py import MPI; c = MPI.COMM_WORLD; "
    program += "pathlib.Path(sys.argv[1], f'{c.rank} of {c.size}').touch()"
    run_ranks([sys.executable, "-c", program, str(tmp_path)], 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0 of 2", "1 of 2"]


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [(2, UserError, "refused its input"), (75, Interrupted, "stopped early"), (1, RuntimeError, "exit code 1")],
)
def test_exit_codes(code: int, error: type[Exception], words: str, mpirun: str) -> None:
    """A stage that failed under mpirun and is taken for done, or a stop that is taken for a failure."""
    with pytest.raises(error, match=words):
        run_ranks([sys.executable, "-c", f"raise SystemExit({code})"], 1)


def test_missing_mpirun_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without MPI: what to install, not a traceback."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="No mpirun found"):
        run_ranks(["true"], 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ranks_end_with_the_run(number: int, mpirun: str, tmp_path: Path) -> None:
    """Ranks that outlive the run would write beside those that its next start makes."""
    rank = f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); "
    rank += "time.sleep(1000)"
    program = "import sys; from voxtal.cli.common import run_command; from voxtal.parallel.launch import run_ranks; "
    program += f"sys.exit(run_command(lambda: run_ranks([sys.executable, '-c', {rank!r}], 1)))"
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text().isdigit())
    pid = int((tmp_path / "pid").read_text())
    run.send_signal(number)
    code = run.wait(120)
    assert code == (75 if number == signal.SIGTERM else -signal.SIGKILL)
    try:
        _wait(lambda: not is_alive(pid))
    finally:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


def _wait(condition: object, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.05)
