"""The training loop: what a stop, a kill and a damaged file leave behind, on a task small enough to see through."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from voxtal.errors import Interrupted, UserError
from voxtal.parallel.data_parallel import DataParallel
from voxtal.training.checkpoint import load_checkpoint
from voxtal.training.trainer import batch_rows, cosine_rate, is_trained, train

STEPS = 40


class LineTask:
    """Fits y = 3 x with dropout-like noise, so that a wrong random state shows."""

    def __init__(self, steps: int = STEPS, scores: list[float | None] | None = None) -> None:
        torch.manual_seed(0)
        self.network = torch.nn.Linear(1, 1)
        self.modules = {"network": self.network}
        self.optimizers = {"network": torch.optim.Adam(self.network.parameters(), lr=0.05)}
        self.steps, self.parallel = steps, DataParallel()
        self.done: list[int] = []
        self.scores = scores

    def step(self, index: int, rng: np.random.Generator) -> dict[str, float]:
        self.done.append(index)
        x = torch.from_numpy(rng.standard_normal((8, 1)).astype(np.float32))
        loss = ((self.network(x) - 3 * x) * torch.rand(8, 1)).pow(2).mean()
        self.optimizers["network"].zero_grad()
        loss.backward()
        self.optimizers["network"].step()
        return {"loss": float(loss.detach())}

    def validate(self) -> float | None:
        return None if self.scores is None else self.scores.pop(0)

    def export(self) -> dict[str, Any]:
        return {"weight": self.network.weight.detach().clone()}


class KilledError(Exception):
    """Stands for a kill: nothing more is written."""


def run(task: LineTask, folder: Path, progress: Callable[..., None] = lambda _n, _text: None, **given: Any) -> None:
    settings: dict[str, Any] = {"seed": 1, "fingerprint": "a", "checkpoint_every": 10} | given
    train(task, folder, progress=progress, **settings)


def after(steps: int, act: Callable[[], None]) -> Callable[[int, str], None]:
    """A progress that acts once, after that many steps."""
    done = 0

    def progress(n: int, _text: str) -> None:
        nonlocal done
        before, done = done, done + n
        if before < steps <= done:
            act()

    return progress


def kill() -> None:
    raise KilledError


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(record["step"], record["loss"]) for record in map(json.loads, lines)]


def weight(folder: Path) -> torch.Tensor:
    return torch.load(folder / "best.pt", weights_only=True)["weight"]


@pytest.fixture
def undisturbed(tmp_path: Path) -> Path:
    folder = tmp_path / "undisturbed"
    run(LineTask(), folder)
    return folder


def same(folder: Path, other: Path) -> bool:
    return losses(folder) == losses(other) and torch.equal(weight(folder), weight(other))


@pytest.mark.parametrize("step", [1, 9, 10, 11, 25, STEPS - 1, STEPS])
def test_killed_training_ends_the_same(step: int, undisturbed: Path, tmp_path: Path) -> None:
    """A kill after any step costs the steps since the checkpoint, and changes no number."""
    folder = tmp_path / "run"
    with pytest.raises(KilledError):
        run(LineTask(), folder, after(step, kill))
    assert not is_trained(folder, "a")
    task = LineTask()
    run(task, folder)
    assert task.done == list(range(step // 10 * 10 if step < STEPS else STEPS - 0, STEPS))
    assert same(folder, undisturbed)
    assert is_trained(folder, "a")


@pytest.mark.parametrize("step", [1, 9, 10, 25])
def test_stopped_training_ends_the_same(step: int, undisturbed: Path, tmp_path: Path) -> None:
    """SIGTERM writes a checkpoint and raises Interrupted; the next start repeats at most the step it came in."""
    folder = tmp_path / "run"
    with pytest.raises(Interrupted, match=f"SIGTERM after step {step + 1} of {STEPS}"):
        run(LineTask(), folder, after(step, terminate))
    task = LineTask()
    run(task, folder)
    assert task.done == list(range(step + 1, STEPS))
    assert same(folder, undisturbed)


def test_stop_in_the_last_step_is_not_forgotten(undisturbed: Path, tmp_path: Path) -> None:
    """Slurm's warning that is swallowed lets the next stage begin, and the job is killed in it."""
    folder = tmp_path / "run"
    with pytest.raises(Interrupted, match="SIGTERM"):
        run(LineTask(), folder, after(STEPS, terminate))
    assert is_trained(folder, "a")
    assert same(folder, undisturbed)


def test_stop_signal_handler_is_put_back(tmp_path: Path) -> None:
    """A later stage that could no longer be stopped."""
    before = signal.getsignal(signal.SIGTERM)
    run(LineTask(), tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before


def test_damaged_checkpoint_falls_back_to_the_one_before(undisturbed: Path, tmp_path: Path) -> None:
    """A checkpoint that a full disk cut short must not cost the run."""
    folder = tmp_path / "run"
    with pytest.raises(KilledError):
        run(LineTask(), folder, after(25, kill))
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    task = LineTask()
    run(task, folder)
    assert task.done[0] == 10
    assert same(folder, undisturbed)


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", b"PK\x03\x04" + b"\0" * 100])
def test_only_damaged_checkpoints_start_anew(damage: bytes, undisturbed: Path, tmp_path: Path) -> None:
    """Whatever stands in the files, training begins at step 0 and not with a traceback."""
    folder = tmp_path / "run"
    with pytest.raises(KilledError):
        run(LineTask(), folder, after(25, kill))
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(damage)
    run(LineTask(), folder)
    assert same(folder, undisturbed)


def test_flipped_bytes_in_the_weights_are_noticed(undisturbed: Path, tmp_path: Path) -> None:
    """Silently wrong weights would be worse than none."""
    folder = tmp_path / "run"
    with pytest.raises(KilledError):
        run(LineTask(), folder, after(25, kill))
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    content = newest.read_bytes()
    network = load_checkpoint(folder / "checkpoints")["modules"]["network"]  # type: ignore[index]
    raw = network["weight"].numpy().tobytes()
    assert content.count(raw) == 1
    newest.write_bytes(content.replace(raw, bytes(255 - byte for byte in raw)))
    run(LineTask(), folder)
    assert same(folder, undisturbed)


def test_two_checkpoints_are_kept(undisturbed: Path) -> None:
    """All of them would fill the disk, one alone leaves nothing to fall back to."""
    assert [path.name for path in sorted((undisturbed / "checkpoints").iterdir())] == [
        "step-00000030.pt",
        "step-00000040.pt",
    ]


def test_checkpoint_of_other_settings_is_refused(undisturbed: Path) -> None:
    """Resuming other data's weights without a word would make numbers that nobody can explain."""
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="other data or settings"):
        run(LineTask(), undisturbed, fingerprint="b")
    assert before == {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}


def test_metrics_of_a_killed_run_hold_each_step_once(undisturbed: Path, tmp_path: Path) -> None:
    """Half a line at the end, and steps that are done again after a kill."""
    folder = tmp_path / "run"
    with pytest.raises(KilledError):
        run(LineTask(), folder, after(31, kill), checkpoint_every=20)
    with open(folder / "metrics.jsonl", "a") as handle:
        handle.write('{"step": 3')
    run(LineTask(), folder, checkpoint_every=20)
    assert [step for step, _ in losses(folder)] == [10, 20, 30, 40]
    assert losses(folder) == losses(undisturbed)


def test_best_weights_are_those_of_the_lowest_score(tmp_path: Path) -> None:
    """The last weights instead of the best ones; a resumed run that forgot what the best score was."""
    folder, scores = tmp_path / "run", [3.0, 1.0, 2.0, 4.0]
    reference = LineTask(steps=20)
    run(reference, tmp_path / "reference")
    with pytest.raises(KilledError):
        run(LineTask(scores=scores[:3]), folder, after(35, kill))
    run(LineTask(scores=scores[3:]), folder)
    assert torch.equal(weight(folder), reference.export()["weight"])


def test_a_stop_between_validations_does_not_choose_other_weights(tmp_path: Path) -> None:
    """A stopped run that validates once more than an undisturbed one keeps other weights."""
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(LineTask(scores=[3.0]), folder, after(13, terminate))
    task = LineTask(scores=[1.0, 2.0, 4.0])
    run(task, folder)
    reference = LineTask(steps=20)
    run(reference, tmp_path / "reference")
    assert torch.equal(weight(folder), reference.export()["weight"])


@given(
    n=st.integers(1, 40), batch=st.integers(1, 50), epoch=st.integers(0, 3), seed=st.integers(0, 5), even=st.booleans()
)
def test_an_epoch_shows_no_row_twice(n: int, batch: int, epoch: int, seed: int, even: bool) -> None:
    """Rows that come up more often than others, or a batch that is empty."""
    size = min(n, batch)
    per_epoch = n // size
    work = np.arange(n) % 7 if even else None
    rows = [batch_rows(n, batch, epoch * per_epoch + i, seed, work) for i in range(per_epoch)]
    assert all(len(chosen) == size for chosen in rows)
    seen = np.concatenate(rows)
    assert len(np.unique(seen)) == len(seen) == per_epoch * size
    assert seen.min() >= 0
    assert seen.max() < n


@given(work=hnp.arrays(np.int64, 64, elements=st.integers(1, 500)), ranks=st.sampled_from([2, 4, 8]))
def test_ranks_have_even_work(work: np.ndarray, ranks: int) -> None:
    """All wait in every step for the rank with the largest crystals."""
    rows = batch_rows(64, 64, 0, 0, work)
    assert sorted(rows) == list(range(64))
    shares = work[rows].reshape(ranks, -1).sum(1)
    assert shares.max() - shares.min() <= 2 * (work.max() - work.min())


def test_learning_rate_rises_and_falls() -> None:
    """A warm-up that starts at nothing, or a decay that ends above it."""
    rates = [cosine_rate(2e-3, index, 200) for index in range(200)]
    assert rates[0] == pytest.approx(2e-4)
    assert max(rates) == pytest.approx(2e-3)
    assert np.argmax(rates) in (9, 10)
    assert all(np.diff(rates[10:]) < 0)
    assert 0 < rates[-1] < 1e-6
    assert cosine_rate(1.0, 0, 1) == 1.0


class TwoRanks(DataParallel):
    """This rank, and another one that does the same until it is told to stop at a step."""

    size = 2

    def __init__(self, seconds: float, stopped: int = STEPS) -> None:
        self.seconds, self.stopped, self.asked = seconds, stopped, list[int]()

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        done = len(self.task.done)
        self.asked.append(done)
        other = {**values, "stop": float(done >= self.stopped)}
        means = {name: (value + other[name]) / 2 for name, value in values.items()}
        return means | {"seconds": self.seconds}  # not what this machine took

    def trains(self, folder: Path) -> None:
        self.task = LineTask()
        self.task.parallel = self
        train(self.task, folder, 0, "f", STEPS)


def test_ranks_with_short_steps_seldom_ask_each_other(tmp_path: Path) -> None:
    """They would wait half of their time for each other's losses; ranks with long ones would stop minutes late."""
    short, long = TwoRanks(1e-3), TwoRanks(10.0)
    short.trains(tmp_path / "short")
    long.trains(tmp_path / "long")
    assert short.asked == [1, 10, 20, 30, 40]
    assert long.asked == list(range(1, STEPS + 1))
    metrics = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("short", "long")]
    logged = [[json.loads(line) for line in lines] for lines in metrics]
    assert [line["step"] for line in logged[0]] == [line["step"] for line in logged[1]] == [10, 20, 30, 40]
    assert [line["loss"] for line in logged[0]] == [line["loss"] for line in logged[1]]
    assert all("seconds" in line and "stop" not in line for line in logged[0])


@pytest.mark.parametrize(("seconds", "done"), [(1e-3, 20), (10.0, 13)])
def test_another_rank_is_told_to_stop(seconds: float, done: int, tmp_path: Path) -> None:
    """All stop after the same step, or those that go on would wait for ever."""
    ranks = TwoRanks(seconds, stopped=13)
    with pytest.raises(Interrupted, match=f"a signal to another rank after step {done} of {STEPS}"):
        ranks.trains(tmp_path)
    assert len(ranks.task.done) == done
