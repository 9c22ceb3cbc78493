"""The launchers as a new user calls them, without installing anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(sys.executable).parent
BARE_PATH = "/usr/bin:/bin"


def _run(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {"PATH": f"{HERE}{os.pathsep}{BARE_PATH}", "HOME": os.environ.get("HOME", "/")} | environment
    command = ["bash", str(script), *arguments]
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def clone(project_root: Path, tmp_path: Path) -> Path:
    """What the launchers need of a fresh clone, in a folder with a space in its name."""
    root = tmp_path / "fresh clone"
    shutil.copytree(project_root / "launchers", root / "launchers")
    (root / "hpc").mkdir()
    for name in ("setup.cfg", "pyproject.toml", "hpc/constraints-cpu.txt"):
        shutil.copy(project_root / name, root / name)
    return root


@pytest.fixture
def installed(clone: Path) -> Path:
    """A clone whose environment is up to date: a real one, with the stamp that an installation leaves."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(clone / ".venv")], check=True)
    stamp = (
        'cd "$1" && . launchers/_environment.sh && '
        'printf "%s\\n" "$(wanted_environment)" | tee .venv/.installed-plain >.venv/.installed-mpi'
    )
    subprocess.run(["bash", "-c", stamp, "-", str(clone)], check=True)
    return clone


def test_mpi_starts_real_ranks(project_root: Path) -> None:
    """Wrong settings for root, oversubscription or loopback end in an error or a hang of Open MPI."""
    if shutil.which("mpirun", path=f"{HERE}{os.pathsep}{BARE_PATH}") is None:
        pytest.skip("no mpirun on this machine")
    code = "from mpi4py import MPI; print('rank', MPI.COMM_WORLD.rank, 'of', MPI.COMM_WORLD.size)"
    answer = _run(project_root / "launchers" / "mpi.sh", "3", sys.executable, "-c", code)
    assert answer.returncode == 0, answer.stderr
    assert sorted(answer.stdout.splitlines()) == [f"rank {rank} of 3" for rank in range(3)]


@pytest.mark.parametrize("launcher", ["mpi.sh", "horovod.sh", "torchrun.sh"])
@pytest.mark.parametrize("arguments", [(), ("2",), ("none", "voxelize"), ("0", "voxelize")])
def test_wrong_use_exits_2(project_root: Path, launcher: str, arguments: tuple[str, ...]) -> None:
    """mpirun's own message for a missing command fills a screen."""
    answer = _run(project_root / "launchers" / launcher, *arguments)
    assert answer.returncode == 2
    assert f"launchers/{launcher} N COMMAND" in answer.stderr


@pytest.mark.parametrize(
    ("launcher", "words"),
    [("mpi.sh", "quickstart.sh"), ("horovod.sh", "hpc/install/horovod.sh"), ("torchrun.sh", "quickstart.sh")],
)
def test_a_missing_program_is_told_with_where_to_get_it(clone: Path, tmp_path: Path, launcher: str, words: str) -> None:
    """'command not found' would not tell that the project can install it."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "id", "grep"):
        found = shutil.which(tool)
        assert found
        (tools / tool).symlink_to(found)
    answer = _run(clone / "launchers" / launcher, "2", "voxelize", PATH=str(tools))
    assert answer.returncode == 2
    assert words in answer.stderr


def test_an_old_python_is_refused_clearly(clone: Path) -> None:
    """Installation on an unsupported Python fails late, with a message about some dependency."""
    for launcher in ("quickstart.sh", "test.sh"):
        answer = _run(clone / "launchers" / launcher, PYTHON="python-that-is-not-there")
        assert answer.returncode == 2
        assert "Python 3.11" in answer.stderr
        assert "PYTHON=" in answer.stderr
    assert not (clone / ".venv").exists()


def test_help_needs_no_installation(clone: Path) -> None:
    """Asking for help must not download two gigabytes."""
    answer = _run(clone / "launchers" / "quickstart.sh", "--help")
    assert answer.returncode == 0
    assert "Usage: launchers/quickstart.sh" in answer.stdout
    assert not (clone / ".venv").exists()


def test_a_finished_quickstart_says_so(installed: Path, tmp_path: Path) -> None:
    """A second call must neither install again nor start a third round."""
    run = tmp_path / "my run"
    for name in ("round-000/report/summary.json", "round-001/report/summary.json", "report/index.html"):
        (run / name).parent.mkdir(parents=True)
        (run / name).touch()
    answer = _run(installed / "launchers" / "quickstart.sh", str(run))
    assert answer.returncode == 0, answer.stderr
    assert "up to date" in answer.stdout
    assert "done before" in answer.stdout
    assert f"{run}/report/index.html" in answer.stdout


def test_a_changed_requirement_installs_again(installed: Path) -> None:
    """An environment that lags behind setup.cfg fails later with an import error."""
    with open(installed / "hpc" / "constraints-cpu.txt", "a") as handle:
        handle.write("# changed\n")
    answer = _run(installed / "launchers" / "quickstart.sh")
    assert "making .venv" in answer.stdout
    assert answer.returncode != 0  # this environment has no pip
