"""Training on real ranks, under every launcher: the losses of one process, stops, kills, resumption."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.conftest import LAUNCH
from voxtal.config import write_config
from voxtal.runs import Run
from voxtal.structures.structure_set import StructureSet
from voxtal.training.checkpoint import load_checkpoint
from voxtal.training.stages import GENERATORS, MODELS

BIN = Path(sys.executable).parent
VOXTAL = BIN / "voxtal"
STEPS = 20
TORCHRUN, MPIRUN, HOROVODRUN = "torchrun", "mpirun", "horovodrun"
"""torch.distributed; Horovod over MPI; Horovod over Gloo."""


def command(launcher: str, ranks: int, program: list[str]) -> list[str]:
    """``program`` on some ranks of this machine; skips where the launcher is not installed."""
    if launcher == TORCHRUN:
        return [str(BIN / "torchrun"), f"--nproc-per-node={ranks}", "--no-python", "--", *program]
    if importlib.util.find_spec("horovod") is None:
        pytest.skip("no Horovod: hpc/install/horovod.sh")
    if launcher == HOROVODRUN:
        return [str(BIN / "horovodrun"), "--gloo", "-np", str(ranks), "-H", f"localhost:{ranks}", *program]
    mpirun = shutil.which("mpirun")
    if mpirun is None:
        pytest.skip("no mpirun")
    return [mpirun, "-n", str(ranks), *program]


def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        env={**os.environ, **LAUNCH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = 600) -> tuple[int, str]:
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out


def untrained(run: Run, root: Path, steps: int = STEPS) -> Path:
    """A run directory with ``run``'s voxels, two objectives, and nothing trained."""
    tree = copy.deepcopy(run.config.model_dump(exclude_none=True))
    for model in ("lattice_ae", "sites_ae", "constraint", "cgcnn", *GENERATORS):
        tree["train"][model]["steps"] = steps
    wishes = [{"property": "formation_energy", "goal": "low"}, {"property": "band_gap", "range": [1.0, 2.0]}]
    tree["train"]["ccdcgan"]["objectives"] = wishes
    tree["train"]["checkpoint_every_steps"] = 10
    shutil.copytree(run.round(0).voxels, root / "round-000" / "voxels")
    structures = StructureSet.read(run.round(0).structures)
    gaps = [max(0.0, i % 5 - 2.0) for i in range(len(structures))]
    structures.with_columns(properties={"band_gap": gaps}).write(root / "round-000" / "structures.h5")
    write_config(root / "voxtal.toml", tree)
    return root


def losses(root: Path, model: str) -> dict[int, dict[str, float]]:
    path = root / "round-000" / "train" / model / "metrics.jsonl"
    if not path.is_file():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return {line["step"]: {k: v for k, v in line.items() if k not in ("steps", "seconds")} for line in lines}


def assert_same_losses(
    one: dict[int, dict[str, float]], other: dict[int, dict[str, float]], tolerance: float = 1e-4
) -> None:
    assert list(one) == list(other)
    for step, values in one.items():
        assert values == pytest.approx(other[step], abs=tolerance), f"step {step}"


@pytest.fixture(scope="module")
def one_process(once_trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every model trained by one process."""
    root = untrained(once_trained_run, tmp_path_factory.mktemp("one") / "run")
    code, out = finish(start([sys.executable, str(Path(__file__).with_name("train_all.py")), str(root)]))
    assert code == 0, out
    return root


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("launcher", [TORCHRUN, MPIRUN, HOROVODRUN])
def test_losses_are_those_of_one_process(
    once_trained_run: Run, one_process: Path, tmp_path: Path, launcher: str, ranks: int
) -> None:
    """More ranks would train another model: gradients summed, not averaged; noise repeated; one optimizer forgotten."""
    root = untrained(once_trained_run, tmp_path / "run")
    program = [sys.executable, str(Path(__file__).with_name("train_all.py")), str(root)]
    code, out = finish(start(command(launcher, ranks, program)))
    assert code == 0, out
    for model in (*MODELS, "constraint-band_gap", "cgcnn-band_gap"):
        alone = losses(one_process, model)
        assert len(alone) == STEPS
        assert_same_losses(alone, losses(root, model))


@pytest.mark.slow
def test_published_generator_has_the_losses_of_one_process(once_trained_run: Run, tmp_path: Path) -> None:
    """Batch norm would see a rank's share only. Four steps: later, Adam divides rounding errors by themselves."""
    roots = {ranks: untrained(once_trained_run, tmp_path / f"{ranks}", 4) for ranks in (1, 2)}
    for ranks, root in roots.items():
        text = (root / "voxtal.toml").read_text()
        (root / "voxtal.toml").write_text(re.sub('preset = "laptop"', 'preset = "paper"', text))
        program = [sys.executable, str(Path(__file__).with_name("train_all.py")), str(root)]
        code, out = finish(start(program if ranks == 1 else command(TORCHRUN, ranks, program)), 300)
        assert code == 0, out
    for model in (*MODELS, "constraint-band_gap", "cgcnn-band_gap"):
        assert_same_losses(losses(roots[1], model), losses(roots[2], model))


def ranks_at_work(root: Path) -> dict[int, int]:
    """Rank -> process id, of the processes that train in ``root``."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = dict(word.partition(b"=")[::2] for word in (folder / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
        if str(root).encode() in words and str(VOXTAL).encode() in words[:3]:
            for name in (b"HOROVOD_RANK", b"OMPI_COMM_WORLD_RANK", b"RANK"):
                if name in environment and words[0].endswith((b"python", b"python3", b"python3.11")):
                    found[int(environment[name])] = int(folder.name)
                    break
    return found


def wait_until(true: Callable[[], Any], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


LONG = 400


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, MPIRUN, HOROVODRUN])
def test_dead_rank_ends_all_and_is_named(once_trained_run: Run, tmp_path: Path, launcher: str) -> None:
    """The others would wait for it until the time limit; or the checkpoint would be half of one."""
    root = untrained(once_trained_run, tmp_path / "run", 100_000)
    process = start(command(launcher, 2, [str(VOXTAL), "train", "lattice-ae", "--run", str(root)]))
    wait_until(lambda: max(losses(root, "lattice-ae"), default=0) >= 20)
    victim = ranks_at_work(root)[1]
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    code, out = finish(process, 60)
    assert time.monotonic() - began < 60
    assert code != 0
    assert re.search(r"rank\s*:? 1\b|Process name: 1\b", out), out
    assert not ranks_at_work(root)
    state = load_checkpoint(root / "round-000" / "train" / "lattice-ae" / "checkpoints")
    assert state is not None
    assert state["step"] >= 10


@pytest.mark.slow
def test_signal_to_one_rank_stops_all_and_any_number_carries_on(
    once_trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm's warning reaches one rank only, or a job comes back with other ranks: work lost, or another loss curve."""
    undisturbed, disturbed = (untrained(once_trained_run, tmp_path / name, LONG) for name in ("whole", "stopped"))
    alone = [str(VOXTAL), "train", "lattice-ae", "--run"]
    code, out = finish(start([*alone, str(undisturbed)]))
    assert code == 0, out
    launcher = MPIRUN if importlib.util.find_spec("horovod") else TORCHRUN
    # 400 steps may be over before the signal comes
    slowly = [sys.executable, str(Path(__file__).parents[1] / "slowly.py"), *alone, str(disturbed)]
    monkeypatch.setenv("SLOW_WHILE", str(tmp_path / "slow"))
    (tmp_path / "slow-lattice-ae").touch()
    process = start(command(launcher, 2, slowly))
    wait_until(lambda: max(losses(disturbed, "lattice-ae"), default=0) >= 10)
    os.kill(ranks_at_work(disturbed)[1], signal.SIGUSR1)
    code, out = finish(process)
    assert code == 75 or launcher == TORCHRUN, out
    assert "stopped early" in out
    state = load_checkpoint(disturbed / "round-000" / "train" / "lattice-ae" / "checkpoints")
    assert state is not None
    assert state["step"] < LONG
    code, out = finish(start(command(TORCHRUN, 3, [*alone, str(disturbed)])))
    assert code == 0, out
    ours, theirs = losses(disturbed, "lattice-ae"), losses(undisturbed, "lattice-ae")
    soon = [step for step in ours if step <= state["step"] + 30]
    assert_same_losses({step: theirs[step] for step in soon}, {step: ours[step] for step in soon})
    assert_same_losses(theirs, ours, 1e-3)  # sums in another order, amplified by hundreds of steps; the loss is about 1


def test_ranks_that_would_train_alone_are_refused(once_trained_run: Run, tmp_path: Path) -> None:
    """``--parallel none`` under a launcher: every rank would write the same files."""
    root = untrained(once_trained_run, tmp_path / "run")
    words = [str(VOXTAL), "train", "lattice-ae", "--run", str(root), "--parallel", "none"]
    _, out = finish(start(command(TORCHRUN, 2, words)))
    assert "torchrun started 2 ranks, and each would train alone" in out
    assert not (root / "round-000" / "train").exists()
