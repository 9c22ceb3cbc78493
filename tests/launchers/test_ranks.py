"""horovod.sh and torchrun.sh on real ranks: a stop reaches every rank, and its exit code comes back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parallel.conftest import is_alive

RANK = """
import os, pathlib, signal, sys, time

rank = int(os.environ.get("HOROVOD_RANK", os.environ.get("RANK")))
size = int(os.environ.get("HOROVOD_SIZE", os.environ.get("WORLD_SIZE")))
folder, what, signals = pathlib.Path(sys.argv[1]), sys.argv[2], []
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: signals.append(number))
(folder / f"pid-{rank}").write_text(str(os.getpid()))
(folder / f"pid-{rank}").rename(folder / f"begun-{rank}-of-{size}")
while what != "wait" and len(list(folder.glob("begun-*"))) < size:
    time.sleep(0.01)  # a rank that leaves ends those that have not begun yet
if what == "leave":
    assert sys.argv[4:] == ["--run", "a folder", "--set", "$HOME"], sys.argv
    sys.exit(int(sys.argv[3]) if rank else 0)
if what == "die" and rank:
    os.kill(os.getpid(), signal.SIGKILL)
while not signals:
    time.sleep(0.05)
if not rank:
    time.sleep(6)  # longer than horovodrun leaves a rank that it wants to end
    (folder / "checkpoint").touch()
sys.exit(75)
"""

LAUNCHERS = {"horovod.sh": "horovodrun", "torchrun.sh": "torchrun"}


@pytest.fixture(params=LAUNCHERS)
def start(request: pytest.FixtureRequest, project_root: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start RANK on two ranks, in a session of their own as a terminal would."""
    here = Path(sys.executable).parent
    if shutil.which(LAUNCHERS[request.param], path=str(here)) is None:
        pytest.skip(f"no {LAUNCHERS[request.param]}: hpc/install/horovod.sh builds Horovod")
    program = tmp_path / "a rank.py"
    program.write_text(RANK)
    launcher = ["bash", str(project_root / "launchers" / request.param)]

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*launcher, "2", sys.executable, str(program), str(tmp_path), *arguments],
            env={**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.mark.parametrize("code", [0, 2])
def test_exit_codes_come_back(code: int, start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """Both launchers make 1 of every code, and torchrun takes a command's --run for an option of its own."""
    process = start("leave", str(code), "--run", "a folder", "--set", "$HOME")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code, out
    assert sorted(path.name for path in tmp_path.glob("begun-*")) == ["begun-0-of-2", "begun-1-of-2"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_a_stop_lets_every_rank_finish(
    number: signal.Signals, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """The launchers would kill the rank that writes the checkpoint as soon as the other one has left."""
    process = start("wait")
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("begun-*"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(process.pid, number)  # as Ctrl-C in a terminal does
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75, out
    assert (tmp_path / "checkpoint").is_file(), out


def test_a_killed_rank_ends_the_others(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """A rank that waits for a dead one would hold the machine for ever."""
    process = start("die")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL, out
    ranks = [int(begun.read_text()) for begun in tmp_path.glob("begun-*")]
    until = time.monotonic() + 20
    while any(is_alive(pid) for pid in ranks):  # the last of them may still be ending
        assert time.monotonic() < until
        time.sleep(0.05)
