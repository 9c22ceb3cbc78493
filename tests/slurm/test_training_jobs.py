"""``sbatch slurm/train_ccdcgan.sh`` on two nodes: to its end, through every kind of stop, and a rank that dies."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from voxtal.config import build_config, write_config
from voxtal.data.voxelize import voxelize
from voxtal.parallel.communicator import SerialCommunicator
from voxtal.runs import Run
from voxtal.structures.structure_set import FORMATION_ENERGY, StructureSet
from voxtal.training.checkpoint import load_checkpoint
from voxtal.training.stages import models_of
from voxtal.training.trainer import is_whole

from .conftest import Cluster, wait_until

pytestmark = pytest.mark.slow

SCRIPT = "train_ccdcgan.sh"
LAST_TWO = ("constraint", "ccdcgan")


def losses(run: Run, model: str) -> list[dict[str, float]]:
    """Every line of a model's metrics, without the times."""
    path = run.round(0).train(model) / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    whole = [json.loads(line) for line in lines if line.endswith("}")]  # the last one may be half-written
    return [{key: value for key, value in line.items() if key != "seconds"} for line in whole]


def log_of(run: Run, job: str) -> str:
    return (run.root / f"train_ccdcgan-{job}.out").read_text()


def trains(cluster: Cluster, run: Run, job: str, model: str, restarts: int = 0) -> None:
    """Wait until a start of the job has trained a model for some steps, and kept them."""
    before = len(losses(run, model)) if restarts else 0

    def ready() -> bool:
        shown = cluster.job(job)
        kept = any((run.round(0).train(model) / "checkpoints").glob("step-*.pt"))
        return int(shown["Restarts"]) == restarts and len(losses(run, model)) > before + 1 and kept

    wait_until(ready, 120, lambda: f"{cluster.job(job)}\n{log_of(run, job)}")


def slowed(cluster: Cluster, folder: Path, *models: str) -> str:
    """A VOXTAL_ENV in which models train slowly until ``slow-MODEL`` in ``folder`` is removed: what is to happen before
    the last step then does, also where this process or Slurm has to wait for a core."""
    real = shutil.which("voxtal", path=cluster.environment["PATH"])
    slowly = cluster.script.parents[2] / "tests" / "slowly.py"
    program, environment = folder / "bin" / "voxtal", folder / "env"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {slowly} {real} "$@"\n')
    program.chmod(0o755)
    for model in models:
        (folder / f"slow-{model}").touch()
    environment.write_text(f"export PATH={program.parent}:$PATH SLOW_WHILE={folder}/slow\n")
    return str(environment)


@pytest.fixture(scope="module")
def voxelized(tmp_path_factory: pytest.TempPathFactory, tiny_tree: dict[str, Any], copper_gold: list[Any]) -> Run:
    """A run that is ready to be trained; each model takes a second or two."""
    tree = copy.deepcopy(tiny_tree)
    for model, steps in (("lattice_ae", 100), ("sites_ae", 20), ("constraint", 100), ("ccdcgan", 100)):
        tree["train"][model]["steps"] = steps
    run = Run(tmp_path_factory.mktemp("jobs") / "voxelized", build_config(tree))
    paths = run.round(0)
    gold = [structure.composition.get_atomic_fraction("Au") for structure in copper_gold]
    ids = [f"s{i}" for i in range(len(gold))]
    labels = {FORMATION_ENERGY: [-x * (1 - x) for x in gold]}
    StructureSet.from_structures(copper_gold, ids, properties=labels).write(paths.structures)
    write_config(run.root / "voxtal.toml", tree)
    voxelize(paths.structures, paths.voxels, run.config.voxels, SerialCommunicator())
    return run


def copied(run: Run, folder: Path, untrained: tuple[str, ...] = ()) -> Run:
    """A copy of a run without the training of some models."""
    twin = Run(shutil.copytree(run.root, folder, ignore=shutil.ignore_patterns("*.out")), run.config)
    for model in untrained:
        shutil.rmtree(twin.round(0).train(model))
    return twin


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, voxelized: Run) -> Run:
    """All four models, trained by one job on two nodes to its end."""
    run = copied(voxelized, voxelized.root.with_name("undisturbed"))
    job = cluster.submit(SCRIPT, run.root, "--nodes=2")
    assert cluster.finish(job) == "COMPLETED", log_of(run, job)
    return run


def test_job_on_two_nodes_trains_every_model(undisturbed: Run) -> None:
    """The second habit of every user would not work, or each rank would train a model of its own."""
    models = models_of(undisturbed, undisturbed.round(0))
    for model in models:
        assert (undisturbed.round(0).train(model) / "best.pt").is_file()
    commands = json.loads(undisturbed.manifest.read_text())["commands"]
    assert [command["world_size"] for command in commands] == [2] * len(models)


@pytest.mark.parametrize("parallel", ["ddp", "horovod"])
def test_icsg3ds_networks_are_trained_in_turn_on_two_nodes(parallel: str, cluster: Cluster, maps_run: Run) -> None:
    """Their job has a script of its own; the VAE would begin without its UNet, or each rank train another network."""
    models = ["unet", "vae", "cgcnn"]
    alone = {model: losses(maps_run, model) for model in models}
    shutil.rmtree(maps_run.round(0).train("unet").parent)
    maps_run.manifest.unlink(missing_ok=True)
    job = cluster.submit("train_icsg3d.sh", maps_run.root, "--nodes=2", PARALLEL=parallel)
    assert cluster.finish(job) == "COMPLETED", (maps_run.root / f"train_icsg3d-{job}.out").read_text()
    commands = json.loads(maps_run.manifest.read_text())["commands"]
    assert [command["command"] for command in commands] == [f"train {model}" for model in models]
    assert {(command["world_size"], command["parallel"]) for command in commands} == {(2, parallel)}
    for model in models:
        ours, theirs = ([line["loss"] for line in lines[:2]] for lines in (losses(maps_run, model), alone[model]))
        assert ours == pytest.approx(theirs, rel=1e-3)  # 20 steps, in sums of another order


def test_array_trains_the_network_of_every_element_once(cluster: Cluster, undisturbed: Run, tmp_path: Path) -> None:
    """Its tasks would wait for each other, train the same element, or fail where another one is at work."""
    run = copied(undisturbed, tmp_path / "run")
    write_config(run.root / "voxtal.toml", separated(run.config.model_dump(exclude_none=True), steps=40))
    job = cluster.submit(SCRIPT, run.root, "--array=1-2", MODELS="sites-ae-separated")
    for task in ("1", "2"):
        assert cluster.finish(f"{job}_{task}") == "COMPLETED", [log.read_text() for log in run.root.glob("*.out")]
    for model in ("sites-ae-Cu", "sites-ae-Au"):
        assert is_whole(run.round(0).train(model))
        assert [line["step"] for line in losses(run, model)] == [10, 20, 30, 40]


def separated(tree: dict[str, Any], steps: int) -> dict[str, Any]:
    tree["train"]["separated_steps"] = steps
    return tree


def test_warned_and_requeued_job_has_the_losses_of_an_undisturbed_one(
    cluster: Cluster, undisturbed: Run, tmp_path: Path
) -> None:
    """A job would end at its time limit or its preemption, start anew, or train something else after it."""
    run = copied(undisturbed, tmp_path / "run", untrained=LAST_TWO)
    environment = slowed(cluster, tmp_path, *LAST_TWO)
    job = cluster.submit(SCRIPT, run.root, "--nodes=2", MODELS=" ".join(LAST_TWO), VOXTAL_ENV=environment)
    trains(cluster, run, job, "constraint")
    cluster.call("scancel", "--signal=USR1", "--batch", job)
    wait_until(lambda: cluster.job(job)["Restarts"] == "1", 60, lambda: log_of(run, job))
    (tmp_path / "slow-constraint").unlink()
    trains(cluster, run, job, "ccdcgan", restarts=1)
    cluster.call("scontrol", "requeue", job)
    wait_until(lambda: "was ended from outside" in log_of(run, job), 90, lambda: log_of(run, job))
    (tmp_path / "slow-ccdcgan").unlink()
    assert cluster.finish(job) == "COMPLETED", log_of(run, job)
    assert cluster.job(job)["Restarts"] == "2"
    assert "was warned, stopped in order and requeued" in log_of(run, job)
    assert "was ended from outside" in log_of(run, job)
    for model in LAST_TWO:
        assert losses(run, model) == losses(undisturbed, model)


def test_stopped_job_carries_on_with_another_number_of_ranks(
    cluster: Cluster, undisturbed: Run, tmp_path: Path
) -> None:
    """A user who gets fewer nodes the next time would have to start anew. Here requeueing is forbidden, too."""
    run = copied(undisturbed, tmp_path / "run", untrained=("lattice-ae",))
    environment = slowed(cluster, tmp_path, "lattice-ae")
    job = cluster.submit(SCRIPT, run.root, "--nodes=2", "--no-requeue", MODELS="lattice-ae", VOXTAL_ENV=environment)
    trains(cluster, run, job, "lattice-ae")
    cluster.call("scancel", "--signal=USR1", "--batch", job)
    assert cluster.finish(job) == "FAILED"
    assert cluster.job(job)["ExitCode"] == "75:0"
    assert "cannot be requeued here; submit it again" in log_of(run, job)
    stopped = len(losses(run, "lattice-ae"))
    assert stopped < len(losses(undisturbed, "lattice-ae"))
    again = cluster.submit(SCRIPT, run.root, "--nodes=1", MODELS="lattice-ae")
    assert cluster.finish(again) == "COMPLETED", log_of(run, again)
    ours, theirs = ([line["loss"] for line in losses(r, "lattice-ae")] for r in (run, undisturbed))
    assert ours[: stopped + 3] == pytest.approx(theirs[: stopped + 3], abs=1e-4)  # a line for every ten steps
    assert ours == pytest.approx(theirs, abs=1e-3)  # sums in another order, amplified by a hundred steps


def test_time_limit_ends_in_a_requeue_and_scancel_in_none(cluster: Cluster, voxelized: Run, tmp_path: Path) -> None:
    """Slurm's own warning would be missed; or a job that its user cancels would come back."""
    run = endless(voxelized, tmp_path / "run")
    limit = ("--time=2", "--signal=B:USR1@80")  # a warning 40 to 70 s after the start
    job = cluster.submit(SCRIPT, run.root, "--nodes=2", *limit, MODELS="lattice-ae", PARALLEL="ddp")
    wait_until(lambda: cluster.job(job)["Restarts"] == "1", 150, lambda: log_of(run, job))
    requeued = "was warned, stopped in order and requeued"  # the script says so when Slurm has counted it
    wait_until(lambda: requeued in log_of(run, job), 60, lambda: log_of(run, job))
    assert load_checkpoint(run.round(0).train("lattice-ae") / "checkpoints")["step"] > 0
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=60")  # or it would be warned again and again
    trains(cluster, run, job, "lattice-ae", restarts=1)
    cluster.call("scancel", job)
    wait_until(lambda: "was ended from outside" in log_of(run, job), 90, lambda: log_of(run, job))
    assert cluster.finish(job) == "CANCELLED"
    assert cluster.job(job)["Restarts"] == "1"


def test_rank_that_dies_ends_the_job_within_a_minute(cluster: Cluster, voxelized: Run, tmp_path: Path) -> None:
    """The others would wait for it until the time limit, and the log would not say which it was."""
    run = endless(voxelized, tmp_path / "run")
    job = cluster.submit(SCRIPT, run.root, "--nodes=2", MODELS="lattice-ae")
    trains(cluster, run, job, "lattice-ae")
    (pid,) = ranks_of(job, "1")
    os.kill(pid, signal.SIGKILL)
    assert cluster.finish(job, 60) == "FAILED"
    log = log_of(run, job)
    assert "n2: task 1: Killed" in log
    assert "failed with code 137; what was finished is kept" in log
    assert not ranks_of(job, "0")
    assert load_checkpoint(run.round(0).train("lattice-ae") / "checkpoints")["step"] > 0


def ranks_of(job: str, rank: str) -> list[int]:
    """The processes of ``voxtal train`` that are one rank of a job."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode()}
        if b"train" in command and wanted <= set(environment):
            found.append(int(process.name))
    return found


def endless(run: Run, folder: Path) -> Run:
    """A copy of a run whose training takes longer than any test."""
    twin = copied(run, folder)
    configuration = twin.root / "voxtal.toml"
    configuration.write_text(configuration.read_text().replace("steps = 100\n", "steps = 100000000\n"))
    return twin


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RUN": "/nowhere"}, "/nowhere holds no voxtal.toml"),
        ({"VOXTAL_ENV": "/nowhere"}, "VOXTAL_ENV=/nowhere is neither a file"),
        ({"MODELS": "lattice-ea"}, "no model 'lattice-ea'"),
    ],
)
def test_wrong_use_is_told(cluster: Cluster, voxelized: Run, variables: dict[str, Any], message: str) -> None:
    """A job that failed in its first second would leave its user to guess."""
    job = cluster.submit(SCRIPT, voxelized.root, **variables)
    assert cluster.finish(job) == "FAILED"
    assert cluster.job(job)["ExitCode"] == "2:0"
    assert message in log_of(voxelized, job)


def test_copied_script_says_that_it_misses_the_project(cluster: Cluster, voxelized: Run, tmp_path: Path) -> None:
    """Users copy batch scripts; without a word they would look for a file in Slurm's spool folder."""
    script = cluster.script.parents[2] / "slurm" / SCRIPT
    job = cluster.call("sbatch", "--parsable", shutil.copy(script, tmp_path), cwd=voxelized.root).strip()
    assert cluster.finish(job) == "FAILED"
    assert "set VOXTAL_ROOT to the project's folder" in log_of(voxelized, job)
