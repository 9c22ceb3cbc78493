"""The whole periodic table in one command: what the launcher makes of its options, and the table at its end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from voxtal.cli.main import build_app
from voxtal.config import load_config
from voxtal.runs import Run

HERE = Path(sys.executable).parent


def launch(project_root: Path, where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(project_root / "launchers" / "periodic_table.sh"), *arguments],
        cwd=where,
        env=os.environ | {"PATH": f"{HERE}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def table(project_root: Path, *runs: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project_root / "benchmarks" / "periodic_table.py"), *map(str, runs)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a run directory"),
        (("--ranks",), "--ranks needs a value"),
        (("--rank", "2", "run"), "there is no option --rank"),
        (("run",), "name the files of known crystals"),
        (("--settings", "papers", "run", "known.csv"), "there is no launchers/periodic_table-papers.toml"),
    ],
)
def test_wrong_use_exits_2(arguments: tuple[str, ...], message: str, project_root: Path, tmp_path: Path) -> None:
    """Hours of training with other settings than were asked for."""
    answer = launch(project_root, tmp_path, *arguments)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert not (tmp_path / "run").exists()


def test_the_configuration_is_of_the_settings_and_the_files(project_root: Path, tmp_path: Path) -> None:
    """Files are named from where the user stands, not from the project; a second start must not change anything."""
    (tmp_path / "my data.csv").write_text("material_id,cif,formation_energy_per_atom\nmp-1,,-1\n")
    files = ["my run", "my data.csv", "--unlabelled", "/other.csv"]
    answer = launch(project_root, tmp_path, "--settings", "paper-32", *files)
    assert answer.returncode == 2, answer.stderr
    assert "/other.csv" in answer.stderr
    config = load_config(tmp_path / "my run" / "voxtal.toml")
    assert config.preset == "paper"
    assert config.voxels.sites_grid == 32
    assert config.structures.source == (str(tmp_path / "my data.csv"),)
    assert config.structures.unlabelled_source == ("/other.csv",)
    (tmp_path / "my run" / "voxtal.toml").write_text("[generate]\nnn = 3\n")
    assert "'generate.nn'" in launch(project_root, tmp_path, *files).stderr


@pytest.mark.parametrize("name", ["laptop", "paper", "paper-32"])
def test_settings_are_valid(name: str, project_root: Path, tmp_path: Path) -> None:
    """A key that was renamed would stop the run, on a cluster after hours in the queue."""
    settings = (project_root / "launchers" / f"periodic_table-{name}.toml").read_text()
    (tmp_path / "voxtal.toml").write_text(f'{settings}source = ["known.csv", ]\nunlabelled_source = []\n')
    config = load_config(tmp_path / "voxtal.toml")
    assert config.structures.labels == "source"
    assert config.structures.split == "composition"
    assert config.preset == name.partition("-")[0]


def test_the_table_is_of_what_the_stages_wrote(trained_run: Run, project_root: Path) -> None:
    """A figure that is read from the wrong place is believed; one that was not measured must not look like a zero."""

    def voxtal(*arguments: str) -> None:
        answer = CliRunner().invoke(build_app(), [*arguments, "--run", str(trained_run.root)])
        assert answer.exit_code == 0, answer.output

    voxtal("generate", "-n", "24")
    voxtal("evaluate")
    voxtal("evaluate", "--baseline", "substitution", "--attempts", "8")
    answer = table(project_root, trained_run.root)
    assert answer.returncode == 0, answer.stderr
    assert re.search(
        r"^ +E_f < 0 after relaxation +72% +>= 80% +not measured +not measured$", answer.stdout, re.MULTILINE
    )
    assert re.search(r"^ +figure +published +to reach +trained +substitution$", answer.stdout, re.MULTILINE)
    assert re.search(r"^ +valid, of attempts +18% +>= 80% +\d+/24 = .*\] +\d/8 = ", answer.stdout, re.MULTILINE)
    assert re.search(r"first 9,160 valid +not given +>= 95% +not measured +not measured$", answer.stdout, re.MULTILINE)
    assert re.search(r"strict, trained-on structures +87% +>= 99% +\d+/\d+ = ", answer.stdout)
    assert re.search(r"generate and decode .* 24 in \d+ s, ranks: 1; 50,000 at this rate: ", answer.stdout)
    assert re.search(r"training of sites-ae +200 steps, \d+ s, ranks: 1", answer.stdout)


def test_the_table_of_no_run(project_root: Path, tmp_path: Path) -> None:
    """Python's traceback would not tell what is wrong."""
    answer = table(project_root, tmp_path)
    assert answer.returncode == 2
    assert f"No configuration at {tmp_path}" in answer.stderr
