"""hpc/install/horovod.sh: what it says where it cannot build, and that it leaves a working Horovod alone."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def _install(project_root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(project_root / "hpc" / "install" / "horovod.sh"), *arguments]
    settings = {**os.environ, **environment}
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("arguments", [("--pyhton", "python3"), ("--python",), ("python3",)])
def test_wrong_use_exits_2(project_root: Path, arguments: tuple[str, ...]) -> None:
    """A mistyped option would build for another Python for minutes."""
    answer = _install(project_root, *arguments)
    assert answer.returncode == 2
    assert "horovod.sh [--python PYTHON]" in answer.stderr


def test_a_python_without_torch_is_refused(project_root: Path, tmp_path: Path) -> None:
    """Horovod's build would end without PyTorch in it, after minutes."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    answer = _install(project_root, "--python", str(tmp_path / "bare" / "bin" / "python"))
    assert answer.returncode == 2
    assert "no torch" in answer.stderr
    assert "launchers/test.sh" in answer.stderr


@pytest.mark.parametrize(
    ("tools", "words"), [([], "libopenmpi-dev"), (["mpicxx"], "g++"), (["mpicxx", "c++"], "no make")]
)
def test_what_is_missing_for_a_build_is_named(project_root: Path, tmp_path: Path, tools: list[str], words: str) -> None:
    """A build without its tools fails with a screen of CMake's words."""
    python = tmp_path / "bin" / "python"  # one that has torch and headers, as far as anyone can see
    (tmp_path / "torch.py").write_text("__version__ = '1.0'\nclass cuda:\n    is_available = lambda: False\n")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    for tool in ("bash", "cat", "dirname", "grep", "id", "mktemp", "rm", "sed", "tail", *tools):
        found = shutil.which(tool)
        if found is None:
            pytest.skip(f"no {tool} on this machine")
        (python.parent / tool).symlink_to(found)
    answer = _install(project_root, "--python", str(python), PATH=str(python.parent), PYTHONPATH=str(tmp_path))
    assert answer.returncode == 2, answer.stderr
    assert words in answer.stderr


@pytest.mark.slow
def test_a_working_horovod_is_left_alone(project_root: Path, tmp_path: Path) -> None:
    """A second run would build for minutes, or take a half-installed Horovod for a whole one."""
    if importlib.util.find_spec("horovod") is None:
        pytest.skip("no Horovod: hpc/install/horovod.sh builds it")
    answer = _install(project_root, "--python", sys.executable, VOXTAL_WHEELS=str(tmp_path / "wheels"))
    assert answer.returncode == 0, answer.stderr
    assert "and works" in answer.stdout
    assert not (tmp_path / "wheels").exists()
