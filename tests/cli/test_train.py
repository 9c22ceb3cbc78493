"""``voxtal train`` and ``voxtal encode`` at the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from voxtal.cli.main import build_app
from voxtal.errors import UserError
from voxtal.runs import Run, exclusive, read_json
from voxtal.structures.structure_set import StructureSet


def voxtal(run: Run, *arguments: str) -> Result:
    return CliRunner().invoke(build_app(), [*arguments, "--run", str(run.root)])


def test_trained_model_is_said_to_be(trained_run: Run) -> None:
    """A user who calls it twice waits for nothing and is told so."""
    answer = voxtal(trained_run, "train", "sites-ae")
    assert answer.exit_code == 0
    assert "sites-ae is trained already" in answer.output


def test_training_says_where_the_model_is(trained_run: Run) -> None:
    """Progress, the file that was made, and a line in the manifest."""
    folder = trained_run.round(0).train("constraint")
    shutil.rmtree(folder)
    answer = voxtal(trained_run, "train", "constraint")
    assert answer.exit_code == 0
    assert "train constraint: 60/60 (100%)" in answer.output
    assert str(folder / "best.pt") in answer.output
    assert (folder / "best.pt").is_file()
    assert read_json(trained_run.manifest)["commands"][-1]["command"] == "train constraint"


def test_training_on_graphs_encodes_first(trained_run: Run) -> None:
    """One command less to forget between the autoencoders and the constraint."""
    graphs = trained_run.round(0).graphs
    graphs.unlink()
    assert voxtal(trained_run, "train", "constraint").exit_code == 0
    assert graphs.is_file()


def test_properties_of_the_objectives_are_trained(trained_run: Run) -> None:
    """``train constraint`` trains what the configuration names, ``--property`` that one, and ``train ccdcgan`` what it
    needs and is not there; a property that no structure has leaves nothing behind."""
    paths = trained_run.round(0)
    structures = StructureSet.read(paths.structures)
    structures.with_columns(properties={"band_gap": [float(i % 3) for i in range(len(structures))]}).write(
        paths.structures
    )
    shutil.rmtree(paths.root / "train" / "constraint")
    shutil.rmtree(paths.root / "train" / "ccdcgan")
    objective = ["--set", 'train.ccdcgan.objectives=[{property="band_gap", range=[1, 2]}]']
    answer = voxtal(trained_run, "train", "constraint", "--property", "band_gab")
    assert isinstance(answer.exception, UserError)
    assert "Did you mean 'band_gap'?" in str(answer.exception)
    assert not list((paths.root / "train").glob("constraint*"))
    answer = voxtal(trained_run, "train", "ccdcgan", *objective)
    assert answer.exit_code == 0
    assert [line for line in answer.output.splitlines() if line.startswith("Trained")] == [
        f"Trained {model}: {paths.train(model) / 'best.pt'}" for model in ("constraint-band_gap", "ccdcgan")
    ]
    answer = voxtal(trained_run, "train", "constraint", *objective)
    assert "Trained constraint: " in answer.output
    assert "constraint-band_gap is trained already" in answer.output


def test_cgcnn_of_a_property_comes_after_that_of_the_formation_energy(trained_run: Run) -> None:
    """``train cgcnn --property`` trains what it starts from where that is not there, and never encodes; a typo costs no
    training of anything."""
    paths = trained_run.round(0)
    structures = StructureSet.read(paths.structures)
    structures.with_columns(properties={"band_gap": [float(i % 3) for i in range(len(structures))]}).write(
        paths.structures
    )
    for folder in (paths.root / "train", paths.graphs.parent, paths.voxels):
        shutil.rmtree(folder)
    answer = voxtal(trained_run, "train", "cgcnn", "--property", "band_gab")
    assert isinstance(answer.exception, UserError)
    assert "Did you mean 'band_gap'?" in str(answer.exception)
    assert not (paths.root / "train").exists()
    answer = voxtal(trained_run, "train", "cgcnn", "--property", "band_gap")
    assert answer.exit_code == 0, answer.exception
    assert [line for line in answer.output.splitlines() if line.startswith("Trained")] == [
        f"Trained {model}: {paths.train(model) / 'best.pt'}" for model in ("cgcnn", "cgcnn-band_gap")
    ]
    answer = voxtal(trained_run, "train", "cgcnn", "--property", "formation_energy")
    assert "cgcnn is trained already" in answer.output


def test_encode_says_what_it_made(trained_run: Run) -> None:
    """The number of graphs and their size."""
    trained_run.round(0).graphs.unlink()
    answer = voxtal(trained_run, "encode")
    assert answer.exit_code == 0
    assert "24 crystal graphs of 16 x 16" in answer.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "sites-ea"], "no model 'sites-ea' to train; models are lattice-ae, sites-ae"),
        (["train", "sites-ae", "--set", "train.sites_ae.learning_rate=0.5"], "made with other data or settings"),
        (["train", "sites-ae", "--set", "voxels.sites_grid=32"], "was made with other settings"),
        (["train", "sites-ae", "--set", "train.device=abacus"], "train.device = 'abacus' cannot be used"),
        (["train", "sites-ae", "--round", "7"], "is not there yet"),
        (["train", "sites-ae-separated"], "train.separated_steps is 0"),
        (["train", "sites-ae-Qq"], "no model 'sites-ae-Qq' to train"),
        (["train", "sites-ae", "--property", "band_gap"], "--property band_gap belongs to `voxtal train constraint`"),
        (["train", "cgcnn-band_gap"], "no numeric column 'band_gap'"),
    ],
)
def test_wrong_use(arguments: list[str], message: str, trained_run: Run) -> None:
    """What was wrong and where; nothing of the model that is there changes."""
    before = {path: path.stat().st_mtime_ns for path in trained_run.root.rglob("*.pt")}
    answer = voxtal(trained_run, *arguments)
    assert isinstance(answer.exception, UserError)
    assert message in str(answer.exception)
    assert before == {path: path.stat().st_mtime_ns for path in trained_run.root.rglob("*.pt")}


def test_second_trainer_is_refused(trained_run: Run) -> None:
    """Two jobs that write the same checkpoints."""
    with exclusive(trained_run.round(0).train("sites-ae"), "voxtal train sites-ae"):
        answer = voxtal(trained_run, "train", "sites-ae")
    assert isinstance(answer.exception, UserError)
    assert "in use by voxtal train sites-ae" in str(answer.exception)


def test_tasks_of_an_array_share_out_the_elements(trained_run: Run) -> None:
    """Each would wait for the others, or train what another one trains."""
    paths, separated = trained_run.round(0), ("sites-ae-separated", "--set", "train.separated_steps=3")
    with exclusive(paths.train("sites-ae-Cu"), "another task"):
        answer = voxtal(trained_run, "train", *separated)
    assert answer.exit_code == 0, answer.exception
    assert "Trained sites-ae-Au" in answer.output
    assert "sites-ae-Cu" not in answer.output
    answer = voxtal(trained_run, "train", *separated)
    assert "Trained sites-ae-Cu" in answer.output
    assert "sites-ae-Au is trained already" in answer.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_stopped_training_exits_75_and_carries_on(
    number: int, trained_run: Run, signalling_itself: Callable[[int, str, str], list[str]]
) -> None:
    """What Slurm's batch scripts requeue on: a checkpoint, code 75, and the same command to go on with."""
    folder = trained_run.round(0).train("lattice-ae")
    shutil.rmtree(folder)
    steps = ["--set", "train.lattice_ae.steps=300"]
    first = signalling_itself(number, "voxtal.training.metrics.Metrics.write", "given[1] == 50")
    stopped = subprocess.run(
        [*first, "train", "lattice-ae", "--run", str(trained_run.root), *steps],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert stopped.returncode == 75, stopped.stderr
    assert f"stopped early ({signal.Signals(number).name} after step" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not (folder / "trained.json").exists()
    answer = voxtal(trained_run, "train", "lattice-ae", *steps)
    assert answer.exit_code == 0, answer.output
    done = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert done == list(range(10, 301, 10))
