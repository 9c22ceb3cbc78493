"""Training of CGCNNs: what they learn, what one hands on to another, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from voxtal.config import build_config
from voxtal.errors import UserError
from voxtal.models.atom_graphs import atom_graphs
from voxtal.models.build import restore
from voxtal.models.cgcnn import BEYOND, predict
from voxtal.parallel.data_parallel import DataParallel
from voxtal.runs import Run
from voxtal.screening.metrics import regression
from voxtal.structures.structure_set import ENERGY_PER_ATOM, FORMATION_ENERGY, StructureSet
from voxtal.training.cgcnn_task import CGCNNTask, learned_values, starts_from_energies
from voxtal.training.checkpoint import load
from voxtal.training.device import Arithmetic
from voxtal.training.stages import train_model
from voxtal.training.trainer import train

CPU = Arithmetic(torch.device("cpu"), "float32")
GAP, MODULUS = "band_gap", "bulk_modulus"


def task_of(
    structures: StructureSet,
    targets: np.ndarray,
    preset: str = "laptop",
    steps: int = 200,
    validation: Any = (),
    start: Any = None,
    rate: float = 3e-3,
) -> CGCNNTask:
    size = {"width": 16, "layers": 1, "steps": steps, "batch_size": 32, "learning_rate": rate}
    config = build_config({"preset": preset, "train": {"cgcnn": size}}).train.cgcnn
    graphs = atom_graphs(structures, BEYOND[f"{preset}-cgcnn"], "cpu")
    rows = np.array(validation, dtype=np.int64)
    return CGCNNTask(preset, config, graphs, targets, rows, CPU, DataParallel(), 0, {"log10": False}, start)


def steps_of(task: CGCNNTask, n: int) -> list[float]:
    out = []
    for index in range(n):
        torch.manual_seed(index)
        out.append(task.step(index, np.random.default_rng(index))["loss"])
    return out


def bond_lengths(structures: StructureSet) -> np.ndarray:
    """A target (n,) that is to be seen from neighbours alone: the mean distance to the nearest one, angstrom."""
    graphs = atom_graphs(structures, 1.0, "cpu").batch(torch.arange(len(structures)))
    shortest = torch.full((len(graphs.numbers),), 9.0).scatter_reduce(0, graphs.centres, graphs.distances, "amin")
    return graphs.mean(shortest[:, None])[:, 0].numpy().astype(np.float64)


@pytest.mark.parametrize("preset", ["laptop", "paper"])
def test_network_learns(preset: str, real_set: StructureSet, tmp_path: Path) -> None:
    """R2 above 0.6 on crystals that it has never seen; a target or an edge of another crystal, and it is 0."""
    targets = bond_lengths(real_set)
    known = np.arange(len(real_set)) % 5 > 0
    task = task_of(real_set.subset(np.flatnonzero(known)), targets[known], preset, 120, range(20))
    train(task, tmp_path, 0, "a", 50)
    network: Any = restore(load(tmp_path / "best.pt", ""))
    held_out = real_set.subset(np.flatnonzero(~known))
    graphs = atom_graphs(held_out, BEYOND[f"{preset}-cgcnn"], "cpu")
    predicted = predict(network, graphs, torch.arange(len(held_out))).numpy()
    assert regression(targets[~known], predicted)["r2"] > 0.6


def test_validates_on_rows_that_it_does_not_train_on(real_set: StructureSet) -> None:
    """Weights would be chosen by how well they know their data, and targets scaled by what is not trained on."""
    some = real_set.subset(range(30))
    task = task_of(some, np.arange(30.0), validation=[4, 28, 17])
    assert sorted([*task.training, *task.validation]) == list(range(30))
    assert float(task.network.mean) == pytest.approx(np.delete(np.arange(30.0), [4, 28, 17]).mean(), rel=1e-5)
    assert task.validate() == pytest.approx(
        np.abs(predict(task.average, task.graphs, torch.tensor([4, 17, 28])).numpy() - [4, 17, 28]).mean(), rel=1e-5
    )


def test_many_zeros_are_a_question_of_their_own(real_set: StructureSet) -> None:
    """Band gaps: between those of metals and those of insulators lies what is neither."""
    some = real_set.subset(range(30))
    gaps = np.where(np.arange(30) % 3 == 0, 2.0, 0.0)
    task = task_of(some, gaps)
    assert task.sizes["outputs"] == 2
    assert float(task.network.mean) == pytest.approx(2)
    assert task_of(some, gaps, "paper").sizes["outputs"] == 1


@pytest.mark.parametrize("preset", ["laptop", "paper"])
def test_convolutions_are_handed_on(preset: str, real_set: StructureSet) -> None:
    """As published the convolution is that of the formation energy at first, and tuned in the second half."""
    some = real_set.subset(range(40))
    energies = task_of(some, np.arange(40.0), preset)
    steps_of(energies, 3)
    handed_on = energies.export()
    task = task_of(some, np.arange(40.0)[::-1].copy(), preset, 8, start=handed_on)

    def same() -> bool:
        return all(
            torch.equal(w, handed_on["weights"][f"body.{name}"]) for name, w in task.network.body.state_dict().items()
        )

    assert same()
    before = task.network.head.state_dict()
    assert any(not torch.equal(w, handed_on["weights"][f"head.{name}"]) for name, w in before.items())
    steps_of(task, 4)
    assert same() == (preset == "paper")
    steps_of(task, 8)
    assert not same()


def test_other_shapes_cannot_be_handed_on(real_set: StructureSet) -> None:
    """A user who changed the width after the first network: which two disagree, not a list of tensors."""
    some = real_set.subset(range(20))
    paper = task_of(some, np.arange(20.0), "paper").export()
    with pytest.raises(UserError, match=r"paper-cgcnn .* cannot be a laptop-cgcnn"):
        task_of(some, np.arange(20.0), "laptop", start=paper)
    wide = paper | {"sizes": paper["sizes"] | {"width": 99}}
    with pytest.raises(UserError, match="'width': 99"):
        task_of(some, np.arange(20.0), "paper", start=wide)


def test_which_start_from_the_formation_energy(copper_gold: list[Any]) -> None:
    """All but the two energies, as published; and none where there are no formation energies to learn from."""

    def with_columns(**columns: list[float]) -> StructureSet:
        return StructureSet.from_structures(copper_gold[:2], ["a", "b"], properties=columns)

    both = with_columns(formation_energy=[1.0, 2.0], band_gap=[0.0, 1.0])
    starts = [starts_from_energies(name, both) for name in (FORMATION_ENERGY, ENERGY_PER_ATOM, GAP)]
    assert starts == [False, False, True]
    assert not starts_from_energies(GAP, with_columns(formation_energy=[np.nan] * 2, band_gap=[0.0, 1.0]))
    assert not starts_from_energies(GAP, with_columns(band_gap=[0.0, 1.0]))


def test_logarithms() -> None:
    """Of what has none nothing is learned; a warning for each would fill the screen."""
    values = np.array([100.0, 0.0, -3.0, np.nan])
    np.testing.assert_array_equal(learned_values(values, True), [2, np.nan, np.nan, np.nan])
    assert learned_values(values, False) is values


def write_columns(run: Run, **columns: Any) -> None:
    paths = run.round(0)
    StructureSet.read(paths.structures).with_columns(properties=columns).write(paths.structures)


def test_structures_are_all_that_is_needed(trained_run: Run, quiet: Any) -> None:
    """A run without voxels; another property after the formation energy, with its logarithm noted."""
    paths = trained_run.round(0)
    n = len(StructureSet.read(paths.structures))
    write_columns(trained_run, **{MODULUS: [*np.linspace(1, 200, n - 2), 0.0, np.nan]})
    only = Run(paths.root.parent.parent / "only", trained_run.config)
    only.round(0).root.mkdir(parents=True)
    StructureSet.read(paths.structures).write(only.round(0).structures)
    said: list[str] = []
    with pytest.raises(UserError, match=r"cgcnn-bulk_modulus starts from cgcnn; .*`voxtal train cgcnn`"):
        train_model(only, only.round(0), "cgcnn-bulk_modulus", quiet)
    assert train_model(only, only.round(0), "cgcnn", quiet)
    assert train_model(only, only.round(0), "cgcnn-bulk_modulus", quiet, say=said.append)
    assert said == ["cgcnn-bulk_modulus: 1 of 18 structures have no finite bulk_modulus and are left out"]
    saved = load(only.round(0).train("cgcnn-bulk_modulus") / "best.pt", "")
    assert saved["facts"] == {"property": MODULUS, "log10": True}
    assert float(saved["weights"]["mean"]) < 2.4
    assert not train_model(only, only.round(0), "cgcnn-bulk_modulus", quiet)


def test_what_cannot_be_learned_is_refused(trained_run: Run, quiet: Any) -> None:
    """A column that is not there, or has no value, or none with a logarithm."""
    paths = trained_run.round(0)
    write_columns(trained_run, nothing=np.full(24, np.nan), bulk_modulus=np.zeros(24))
    for model, message in {
        "cgcnn-bandgap": "no numeric column 'bandgap'",
        "cgcnn-nothing": "no finite value of nothing",
        "cgcnn-bulk_modulus": r"finite bulk_modulus, of which the logarithm is learned \(train.cgcnn.log10\)",
        "cgcnn-": "There is no model 'cgcnn-' to train",
    }.items():
        with pytest.raises(UserError, match=message):
            train_model(trained_run, paths, model, quiet)
