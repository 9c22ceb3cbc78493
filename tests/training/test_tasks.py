"""The three kinds of training: do they learn what they are for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from voxtal.config import build_config
from voxtal.data.dataset import VoxelDataset
from voxtal.errors import UserError
from voxtal.models.build import build, restore
from voxtal.parallel.data_parallel import DataParallel
from voxtal.representations.crystal_graph import GraphLayout
from voxtal.runs import Run
from voxtal.screening.metrics import regression
from voxtal.training.autoencoder_data import data_of
from voxtal.training.autoencoder_task import AutoencoderTask
from voxtal.training.checkpoint import load
from voxtal.training.constraint_task import ConstraintTask
from voxtal.training.device import Arithmetic
from voxtal.training.gan_task import GANTask
from voxtal.training.trainer import train

CPU = Arithmetic(torch.device("cpu"), "float32")
SIDE = 16
LAYOUT = GraphLayout((29, 79), lattice_latent=16, sites_latent=120)
"""Fills 16 x 16 pixels."""


def nearly_binary_graphs(n: int) -> np.ndarray:
    return np.tanh(2 * np.random.default_rng(0).standard_normal((n, SIDE, SIDE))).astype(np.float32)


def energies_of(graphs: np.ndarray) -> np.ndarray:
    """A target that a handful of pixels decides."""
    return -0.5 + 0.3 * graphs[:, 0, 0] - 0.2 * graphs[:, 3, 4] + 0.1 * graphs[:, 5, 5] * graphs[:, 0, 0]


def constraint_task(
    graphs: np.ndarray, targets: np.ndarray, steps: int = 300, validation: Sequence[int] = ()
) -> ConstraintTask:
    config = build_config({"train": {"constraint": {"width": 32, "steps": steps, "learning_rate": 2e-3}}})
    return ConstraintTask(
        "laptop-constraint", config.train.constraint, LAYOUT, 0.1, graphs, targets, CPU, DataParallel(), 0, validation
    )


def test_constraint_learns(tmp_path: Path) -> None:
    """R2 above 0.8 on graphs that it has never seen; without it eq. 2 pulls the generator nowhere."""
    graphs = nearly_binary_graphs(1200)
    task = constraint_task(graphs[:1000], energies_of(graphs[:1000]), validation=range(100))
    train(task, tmp_path, 0, "a", 50)
    network = restore(load(tmp_path / "best.pt", ""))
    with torch.no_grad():
        predicted = network(torch.from_numpy(graphs[1000:])).numpy()
    assert regression(energies_of(graphs[1000:]), predicted)["r2"] > 0.8


def test_best_constraint_is_that_of_the_lowest_validation_error(tmp_path: Path) -> None:
    """With few and noisy labels the last weights are overfitted."""
    graphs = nearly_binary_graphs(60)
    targets = np.random.default_rng(1).standard_normal(60)
    task = constraint_task(graphs, targets, 120, validation=range(10))
    scores = []
    measure = task.validate

    def remember() -> float | None:
        scores.append(measure())
        return scores[-1]

    task.validate = remember  # type: ignore[method-assign]
    train(task, tmp_path, 0, "a", 10)
    again = constraint_task(graphs, targets, validation=range(10))
    again.network.load_state_dict(load(tmp_path / "best.pt", "")["weights"])
    assert len(scores) == 12
    assert min(scores) < scores[-1]
    assert again.validate() == pytest.approx(min(scores))


def test_constraint_validates_on_rows_that_it_does_not_train_on() -> None:
    """Weights would be chosen by how well they know their data, and targets scaled by what is not trained on."""
    targets = np.arange(90.0)
    task = constraint_task(nearly_binary_graphs(90), targets, validation=[4, 80, 17])
    assert sorted([*task.training, *task.validation]) == list(range(90))
    assert set(task.validation) == {4, 17, 80}
    assert float(task.network.mean) == pytest.approx(np.delete(targets, [4, 17, 80]).mean(), rel=1e-5)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_constraint_of_very_few_labels(n: int, tmp_path: Path) -> None:
    """The first round of a small system: nothing to validate on, yet no stop and no NaN."""
    task = constraint_task(nearly_binary_graphs(n), np.linspace(-1, 0, n), steps=3)
    train(task, tmp_path, 0, "a", 2)
    assert all(torch.isfinite(value).all() for value in load(tmp_path / "best.pt", "")["weights"].values())


def gan_task(preset: str = "laptop", weight: float = 0.1, rate: float = 2e-4) -> GANTask:
    objectives = [{"property": "formation_energy", "goal": "low", "weight": weight}]
    sizes = {"width": 16, "noise": 8, "steps": 10, "batch_size": 16, "learning_rate": rate, "objectives": objectives}
    config = build_config({"train": {"ccdcgan": sizes}}).train.ccdcgan
    torch.manual_seed(5)
    constraint: Any = build(
        "laptop-constraint", elements=[29, 79], lattice_latent=16, sites_latent=120, threshold=0.1, width=16
    )
    constraint.set_scale(torch.tensor([-1.0, 1.0]))
    constraints = {"formation_energy": constraint}
    return GANTask(preset, config, nearly_binary_graphs(64), constraints, CPU, DataParallel(), seed=0)


def take(task: GANTask, steps: int) -> list[dict[str, float]]:
    out = []
    for index in range(steps):
        torch.manual_seed(index)
        out.append(task.step(index, np.random.default_rng(index)))
    return out


@pytest.mark.parametrize("preset", ["laptop", "paper"])
def test_constraint_stays_as_it_is(preset: str) -> None:
    """A constraint that trains along with the generator learns to call everything stable."""
    task = gan_task(preset)
    (constraint,) = task.constraints.values()
    before = {name: value.clone() for name, value in constraint.state_dict().items()}
    take(task, 5)
    assert not constraint.training
    for name, value in constraint.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("preset", ["laptop", "paper"])
def test_generator_follows_the_constraint(preset: str) -> None:
    """The gradient must flow through the frozen network: with a large omega the predicted energy falls."""
    followed = take(gan_task(preset, weight=100.0, rate=5e-3), 40)
    free = take(gan_task(preset, weight=0.0, rate=5e-3), 40)
    assert followed[0]["formation_energy"] == pytest.approx(free[0]["formation_energy"], abs=1e-5)
    assert followed[-1]["formation_energy"] < followed[0]["formation_energy"] - 0.2
    assert followed[-1]["formation_energy"] < free[-1]["formation_energy"]


@pytest.mark.parametrize("preset", ["laptop", "paper"])
def test_generator_and_discriminator_both_learn(preset: str) -> None:
    """One of the two optimizers that steps the other's weights, or none."""
    task = gan_task(preset)
    before = {name: [p.clone() for p in module.parameters()] for name, module in task.modules.items()}
    take(task, 1)
    for name in ("generator", "discriminator"):
        weights = [(a, b) for a, b in zip(task.modules[name].parameters(), before[name], strict=True) if a.ndim > 1]
        assert all(not torch.equal(a, b) for a, b in weights), name


def test_discriminator_tells_originals_from_generated_ones() -> None:
    """D -> 0 for originals: the logits of originals fall below those of an untrained generator's graphs."""
    task = gan_task(rate=2e-3)
    generator = [p.clone() for p in task.generator.parameters()]
    for index in range(40):
        torch.manual_seed(index)
        share = task.parallel.split(32)
        task._teach_discriminator(task.graphs[:32], task.generator(torch.randn(32, task.config.noise)).detach(), share)
    assert all(torch.equal(a, b) for a, b in zip(task.generator.parameters(), generator, strict=True))
    with torch.no_grad():
        original, generated = (
            task.discriminator(task.graphs),
            task.discriminator(task.generator(torch.randn(64, task.config.noise))),
        )
    assert original.mean() < generated.mean()


def test_kept_generator_is_the_running_mean() -> None:
    """laptop: a slow mean of the weights; paper: the weights themselves."""
    laptop, paper = gan_task("laptop", rate=1e-2), gan_task("paper", rate=1e-2)
    start = [p.clone() for p in laptop.average.parameters()]
    take(laptop, 3)
    take(paper, 3)
    pairs = zip(laptop.generator.parameters(), laptop.average.parameters(), start, strict=True)
    for live, mean, first in pairs:
        assert (mean - first).norm() <= 0.05 * (live - first).norm() + 1e-7
    published = zip(paper.generator.state_dict().values(), paper.average.state_dict().values(), strict=True)
    assert all(torch.allclose(live, mean) for live, mean in published)
    assert not any(p.requires_grad for p in laptop.average.parameters())


@pytest.mark.parametrize("kind", ["sites", "lattice"])
def test_autoencoder_learns_images(kind: str, trained_run: Run) -> None:
    """The code noise or a wrong target keeps it at the mean image; best.pt must be what was trained."""
    paths, config = trained_run.round(0), trained_run.config
    dataset = VoxelDataset(paths.voxels, config.voxels)
    size = (config.train.sites_ae if kind == "sites" else config.train.lattice_ae).model_copy(update={"batch_size": 4})
    grid = config.voxels.sites_grid if kind == "sites" else config.voxels.lattice_grid
    sizes = {"grid": grid, "width": 8, "latent": size.latent}
    data = data_of(f"laptop-{kind}-ae", dataset, 0, CPU)
    task = AutoencoderTask(f"laptop-{kind}-ae", sizes, size, 60, data, np.arange(4), CPU, DataParallel(), 0)
    losses = [task.step(index, np.random.default_rng(index))["loss"] for index in range(60)]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert all(torch.equal(value, task.network.state_dict()[name]) for name, value in task.export()["weights"].items())


@pytest.mark.parametrize("model", ["sites-ae", "lattice-ae"])
def test_autoencoder_learns_atoms_and_cells(model: str, trained_run: Run) -> None:
    """Atoms of another order than the network's, a turn that moves them only and not the target: nothing is learned."""
    config = trained_run.config
    dataset = VoxelDataset(trained_run.round(0).voxels, config.voxels)
    size = (config.train.sites_ae if model == "sites-ae" else config.train.lattice_ae).model_copy(
        update={"batch_size": 8, "width": 64}
    )
    sizes = {"width": 64, "latent": size.latent} | ({"atoms": 8} if model == "sites-ae" else {})
    data = data_of(f"atoms-{model}", dataset, 8, CPU)
    task = AutoencoderTask(f"atoms-{model}", sizes, size, 300, data, np.arange(8), CPU, DataParallel(), 0)
    losses = [task.step(index, np.random.default_rng(index))["loss"] for index in range(300)]
    assert np.mean(losses[-10:]) < 0.4 * np.mean(losses[:10])


def test_processors_compute_in_float32() -> None:
    """Gradients of 3D convolutions in bf16 came out as 1e34 there, and one of them is the end of a training."""
    config = build_config({"train": {"device": "cpu"}}).train
    assert config.precision == "auto"
    assert Arithmetic.of(config).precision == "float32"


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "nonsense"])
def test_device_that_is_not_there(device: str) -> None:
    """A typo or a node without a GPU: named, not a traceback of torch."""
    config = build_config({"train": {"device": device}}).train
    with pytest.raises(UserError, match=f"train.device = '{device}'"):
        Arithmetic.of(config)
