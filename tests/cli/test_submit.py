"""``voxtal submit``: what is refused before anything is submitted, and what the script says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from voxtal.cli.submit import submit
from voxtal.errors import UserError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "voxtal.toml").write_text('system = "Co-Hf"\n')
    return tmp_path / "run"


def test_print_shows_a_whole_script_and_writes_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed must be what would be submitted, and printing must not need a cluster."""
    submit("train_ccdcgan", ["--nodes=3"], run, "gpu-cluster", show=True)
    script = capsys.readouterr().out
    assert "#SBATCH --gpus-per-node=4" in script
    assert f"#SBATCH --output={run}/slurm/%x-%j.out" in script
    assert f'export RUN="{run}"' in script
    assert f'export VOXTAL_ENV="{sys.prefix}"' in script
    assert "-- --nodes=3" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert not (run / "slurm").exists()


def test_a_round_shows_the_scripts_of_its_chain(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The chain submits the other stages: those must be the site's too."""
    submit("round", None, run, "cpu", show=True)
    printed = capsys.readouterr().out
    assert f"==> {run}/slurm/voxelize.sh <==" in printed
    assert f"==> {run}/slurm/round.sh <==" in printed


def test_the_choice_of_models_is_kept_with_the_script(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submitted again from another shell, the kept script must do the same."""
    monkeypatch.setenv("MODELS", "constraint ccdcgan")
    submit("train_ccdcgan", None, run, show=True)
    assert 'export MODELS="constraint ccdcgan"' in capsys.readouterr().out


def test_wrong_use_is_refused_before_anything_is_submitted(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that cannot work waits hours in the queue before it says so."""
    with pytest.raises(UserError, match="train_ccdcgan"):
        submit("train", None, run)
    with pytest.raises(UserError, match=r"voxtal\.toml"):
        submit("voxelize", None, tmp_path)
    site = tmp_path / "site.toml"
    site.write_text('source = "/no/such/place"')
    with pytest.raises(UserError, match="/no/such/place"):
        submit("voxelize", None, run, str(site))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no sbatch"):
        submit("voxelize", None, run)
    assert not (run / "slurm").exists()
