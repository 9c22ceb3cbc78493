"""Training of the UNet: eq. 7, its weights, and which maps it sees."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from voxtal.config import UNetConfig, build_config
from voxtal.data.dataset import DensityDataset
from voxtal.data.voxelize import voxelize
from voxtal.errors import UserError
from voxtal.parallel.communicator import SerialCommunicator
from voxtal.parallel.data_parallel import DataParallel
from voxtal.representations.rotations import IDENTITY, random_rotations
from voxtal.structures.splits import HELDOUT, VALIDATION, in_split, training_rows, with_split
from voxtal.structures.structure_set import StructureSet
from voxtal.training.density_data import TurnedMaps
from voxtal.training.device import Arithmetic
from voxtal.training.losses import binary_map_loss, species_loss
from voxtal.training.unet_task import UNetTask, class_weights, describe_classes, unet_elements

CPU = Arithmetic(torch.device("cpu"), "float32")
SETTINGS = build_config({"density": {"grid": 16, "structures_per_shard": 8}}).density
CONFIG = build_config(
    {"train": {"unet": {"width": 4, "levels": 2, "steps": 30, "batch_size": 4, "learning_rate": 5e-3}}}
).train.unet
SITES = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]


@pytest.fixture(scope="module")
def perovskites(tmp_path_factory: pytest.TempPathFactory) -> tuple[StructureSet, DensityDataset]:
    """Twenty-four ABO3, some held out, as maps."""
    pairs = [(a, b) for a in ("Ca", "Sr", "Ba", "La", "Pb", "K") for b in ("Ti", "Zr", "Nb", "Fe")]
    structures = [
        Structure(Lattice.cubic(3.8 + 0.05 * i), [a, b, "O", "O", "O"], SITES) for i, (a, b) in enumerate(pairs)
    ]
    folder = tmp_path_factory.mktemp("perovskites")
    given = StructureSet.from_structures(structures, [f"{a}{b}O3" for a, b in pairs])
    given = with_split(given, "composition", 0.2, 0.1, 0)
    given.write(folder / "structures.h5")
    voxelize(folder / "structures.h5", folder / "density", SETTINGS, SerialCommunicator())
    return given, DensityDataset(folder / "density")


def task_of(
    perovskites: tuple[StructureSet, DensityDataset], architecture: str = "laptop-unet", config: UNetConfig = CONFIG
) -> UNetTask:
    structures, dataset = perovskites
    rows = np.flatnonzero(training_rows(structures, dataset.rows))
    chosen = np.flatnonzero(in_split(structures, dataset.rows, VALIDATION))
    numbers = unet_elements("laptop", dataset.species_counts(rows), Path())
    sizes = {"grid": 16, "numbers": numbers, "width": config.width, "levels": config.levels}
    sizes |= {"margin": SETTINGS.margin} if architecture.startswith("laptop") else {}
    return UNetTask(architecture, sizes, config, config.steps, dataset, rows, chosen, CPU, DataParallel(), 0)


def test_equation_7_against_a_loop() -> None:
    """Voxel by voxel and class by class, with the background's weight zero."""
    rng = np.random.default_rng(0)
    n, classes = 2 * 3**3, 4
    logits, binary = rng.normal(size=(n, classes)), rng.normal(size=n)
    truth = rng.integers(0, classes, n)
    weights = class_weights(np.bincount(truth, minlength=classes))
    total = 0.0
    for voxel in range(n):
        softmax = np.exp(logits[voxel]) / np.exp(logits[voxel]).sum()
        inside, sigmoid = float(truth[voxel] > 0), 1 / (1 + math.exp(-binary[voxel]))
        for kind in range(classes):
            total -= weights[kind] * float(truth[voxel] == kind) * math.log(softmax[kind])
        total -= inside * math.log(sigmoid) + (1 - inside) * math.log(1 - sigmoid)
    there = torch.from_numpy(truth > 0)
    ours = species_loss(
        torch.from_numpy(logits)[there], torch.from_numpy(truth)[there], torch.tensor(weights).float(), n
    )
    assert float(ours + binary_map_loss(torch.from_numpy(binary), there)) == pytest.approx(total / n, rel=1e-5)


def test_class_weights() -> None:
    """Inverse to the counts; zero for the background and for what no voxel has (1 / 0 would be NaN in every loss)."""
    weights = class_weights(np.array([900, 60, 0, 40]))
    assert weights == pytest.approx([0, 1000 / 60, 0, 1000 / 40])
    assert (weights * [900, 60, 0, 40]).tolist() == pytest.approx([0, 1000, 0, 1000])


def test_weights_are_those_of_the_training_set(perovskites: Any) -> None:
    """Held-out voxels, or those of turned maps, must not count; classes and weights belong together."""
    structures, dataset = perovskites
    task = task_of(perovskites)
    counts = np.zeros(119)
    for i in np.flatnonzero(training_rows(structures, dataset.rows)):
        counts += np.bincount(dataset.maps([i]).species.ravel(), minlength=119)
    numbers = task.network.numbers.numpy()
    assert set(numbers[1:]) == set(np.flatnonzero(counts[1:]) + 1)
    inverse = counts.sum() / counts[numbers[1:]]
    assert task.weights[1:].numpy() == pytest.approx(inverse, rel=1e-6)
    assert [int(task.class_of[number]) for number in numbers] == list(range(len(numbers)))


def test_what_is_said_of_classes() -> None:
    """A class without voxels is said to weigh nothing; the published classes end somewhere."""
    counts = np.zeros(119, dtype=np.int64)
    counts[[0, 8, 22]] = [900, 60, 40]
    published = unet_elements("paper", counts, Path())
    assert published == list(range(1, 95))
    assert describe_classes(published, counts) == (
        "95 classes, 10.0% of voxels in ions; 92 elements have no voxel to train on, and weight 0"
    )
    assert unet_elements("laptop", counts, Path()) == [8, 22]
    assert describe_classes([8, 22], counts) == "3 classes, 10.0% of voxels in ions"
    counts[96] = 5
    with pytest.raises(UserError, match="element 96"):
        unet_elements("paper", counts, Path())
    assert unet_elements("laptop", counts, Path()) == [8, 22, 96]


def test_turned_maps(perovskites: Any) -> None:
    """Eleven of each structure, as published: the first as it is, the others in its own ten rotations."""
    _, dataset = perovskites
    rows = np.array([5, 3, 20])
    maps = TurnedMaps(dataset, rows, 10, 7, torch.device("cpu"))
    assert len(maps) == 33
    batch = maps.batch(np.arange(33))
    assert batch.rows.tolist() == np.repeat(rows, 11).tolist()
    for k in range(33):
        place, turn = divmod(k, 11)
        row = rows[place]
        rotation = random_rotations(7, int(dataset.rows[row]))[turn - 1] if turn else IDENTITY
        expected = dataset.maps([row], [rotation])
        assert np.array_equal(batch.maps[k, 0].numpy(), expected.density[0])
        assert np.array_equal(batch.species[k].numpy(), expected.species[0])
    shuffled = maps.batch(np.array([30, 1]))
    assert torch.equal(shuffled.maps, batch.maps[[30, 1]])


def test_rotations_never_cross_splits(perovskites: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turned held-out structure in a training batch would make every held-out figure a training one."""
    structures, dataset = perovskites
    task = task_of(perovskites)
    seen: dict[str, set[int]] = {"step": set(), "validate": set()}
    plain = dataset.maps

    def watched(rows: Any, rotations: Any = None) -> Any:
        seen[now].update(int(row) for row in rows)
        return plain(rows, rotations)

    monkeypatch.setattr(dataset, "maps", watched, raising=False)
    steps = len(task.training) // CONFIG.batch_size
    now = "step"
    for index in range(steps):
        task.training.batch(np.arange(index * 4, index * 4 + 4))
    now = "validate"
    task.validate()
    assert seen["step"] == set(np.flatnonzero(training_rows(structures, dataset.rows)).tolist())
    assert seen["validate"] == set(np.flatnonzero(in_split(structures, dataset.rows, VALIDATION)).tolist())
    heldout = set(np.flatnonzero(in_split(structures, dataset.rows, HELDOUT)).tolist())
    assert heldout
    assert not heldout & (seen["step"] | seen["validate"])


@pytest.mark.parametrize("architecture", ["paper-unet", "laptop-unet"])
def test_it_learns(perovskites: Any, architecture: str) -> None:
    """Both terms fall and most voxels get their element: wrong weights or labels would keep one of them up."""
    task = task_of(perovskites, architecture, CONFIG.model_copy(update={"steps": 80, "width": 8}))
    losses = []
    for index in range(80):
        torch.manual_seed(index)
        losses.append(task.step(index, np.random.default_rng(index)))
    assert set(losses[0]) == {"loss", "species_loss", "binary_loss", "nonzero_recall"}
    for name in ("loss", "species_loss", "binary_loss"):
        first, last = (np.mean([values[name] for values in part]) for part in (losses[:8], losses[-8:]))
        assert last < 0.8 * first, name
    assert np.mean([values["nonzero_recall"] for values in losses[-8:]]) > 0.5
    assert losses[0]["loss"] == pytest.approx(losses[0]["species_loss"] + losses[0]["binary_loss"])


def test_validation_is_of_the_loss(perovskites: Any) -> None:
    """Weights would be chosen by another number; batch norm would learn from validation maps."""
    task = task_of(perovskites, "paper-unet")
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    score = task.validate()
    assert all(torch.equal(value, before[name]) for name, value in task.network.state_dict().items())
    assert task.network.training
    task.network.eval()
    with torch.no_grad():
        batch = task.validation.batch(np.arange(len(task.validation)))
        assert score == pytest.approx(float(task.losses(batch)["loss"]), rel=1e-4)
    assert task_of_nothing_to_validate(perovskites).validate() is None


def task_of_nothing_to_validate(perovskites: tuple[StructureSet, DensityDataset]) -> UNetTask:
    _, dataset = perovskites
    sizes = {"grid": 16, "numbers": [8], "width": 4, "levels": 2, "margin": SETTINGS.margin}
    nothing = np.empty(0, dtype=np.int64)
    return UNetTask("laptop-unet", sizes, CONFIG, 1, dataset, np.arange(4), nothing, CPU, DataParallel(), 0)


def test_record_says_of_which_maps(perovskites: Any) -> None:
    """A network of one grid or width of Gaussians, put on maps of another, is wrong without a word."""
    saved = task_of(perovskites).export()
    assert saved["facts"]["density"] == SETTINGS.model_dump()
    assert saved["architecture"] == "laptop-unet"
