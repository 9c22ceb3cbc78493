"""The rules of the house, kept by tools: style, types, layers, shell scripts, documentation."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from voxtal.cli.main import VERBS

TOOLS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "import-linter": ["lint-imports"],
}


def _run(root: Path, command: list[str]) -> None:
    tool = Path(sys.executable).with_name(command[0])
    answer = subprocess.run([str(tool), *command[1:]], cwd=root, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, f"{shlex.join(command)}\n{answer.stdout}{answer.stderr}"


@pytest.mark.parametrize("tool", TOOLS)
def test_tool_passes(tool: str, project_root: Path) -> None:
    """Style, types and the layers of design.md hold only as long as something checks them."""
    _run(project_root, TOOLS[tool])


def test_shell_scripts_pass_shellcheck(project_root: Path) -> None:
    """An unquoted path breaks a launcher only on the machine of the user who has a space in it."""
    _run(project_root, ["shellcheck", "-x", *map(str, _shell_scripts(project_root))])


def test_launchers_are_short_and_executable(project_root: Path) -> None:
    """Launchers are thin (under 60 lines): logic in them is tested nowhere else."""
    for script in (project_root / "launchers").glob("*.sh"):
        assert len(script.read_text().splitlines()) < 60, script
        assert script.name.startswith("_") or script.stat().st_mode & 0o111, script
    assert (project_root / ".ci" / "run").stat().st_mode & 0o111


def test_commands_in_the_documentation_exist(project_root: Path) -> None:
    """A command that does not exist is the first thing that a new user would try."""
    commands = [line for path in _documents(project_root) for line in _shell_lines(path.read_text())]
    assert any(line.startswith("voxtal round") for line in commands)
    for line in commands:
        words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
        if words[0] == "mpirun":
            words = words[3:]
        if words[0] == "voxtal":
            assert words[1] in VERBS or words[1].startswith("-"), line
        elif "/" in words[0]:
            assert (project_root / words[0]).is_file(), line
        else:
            assert words[0] == "voxelize" or shutil.which(words[0]), line


def test_links_in_the_documentation_lead_somewhere(project_root: Path) -> None:
    """A dead link to a document or picture."""
    for path in _documents(project_root):
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            assert target.startswith("http") or (path.parent / target).exists(), f"{path.name}: {target}"


def test_no_paths_of_one_machine(project_root: Path) -> None:
    """A path of the developer's machine works nowhere else."""
    pattern = re.compile(r"(?<![\w./-])/(?:work|root|home|Users|tmp/w)/")
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=project_root,
        capture_output=True,
        text=True,
        check=False,
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.splitlines():
        path = project_root / name
        if path.is_file() and path != Path(__file__) and path.suffix not in (".png", ".svg", ".h5", ".gz"):
            match = pattern.search(path.read_text(encoding="utf-8", errors="ignore"))
            assert match is None, f"{name}: {match[0]}" if match else ""


def _documents(root: Path) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def _shell_lines(text: str) -> list[str]:
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def _shell_scripts(root: Path) -> list[Path]:
    folders = ("launchers", "slurm", "hpc")
    return [
        *(path for folder in folders for path in sorted((root / folder).rglob("*.sh"))),
        root / ".ci" / "run",
    ]
