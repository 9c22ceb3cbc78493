"""What is asked of generated crystals: which constraints that needs, how they are trained, and that it comes true."""

from __future__ import annotations

import csv
import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch

from voxtal.active.rounds import screen
from voxtal.config import ObjectiveConfig, build_config
from voxtal.errors import UserError
from voxtal.generation.sampling import predicted, sample_graphs
from voxtal.generation.stage import generate, predictions_of
from voxtal.models.constraint import Constraint
from voxtal.parallel.data_parallel import DataParallel
from voxtal.representations.crystal_graph import GraphLayout
from voxtal.runs import Run, read_json
from voxtal.structures.structure_set import FORMATION_ENERGY, SPLIT, StructureSet
from voxtal.training.constraint_task import ConstraintTask
from voxtal.training.device import Arithmetic
from voxtal.training.gan_task import GANTask
from voxtal.training.objectives import cgcnn_of, constraint_of, labels, load_constraints, property_of, scores, untrained
from voxtal.training.stages import train_model

CPU = Arithmetic(torch.device("cpu"), "float32")
GAP = "band_gap"
LOW = {"property": FORMATION_ENERGY, "goal": "low"}
IN_RANGE = {"property": GAP, "range": [1.0, 2.0]}


def test_each_property_has_a_constraint_of_its_own() -> None:
    """Two properties in one folder; or the published one's folder renamed."""
    assert constraint_of(FORMATION_ENERGY) == "constraint"
    for name in (FORMATION_ENERGY, GAP, "a-b c"):
        assert property_of(constraint_of(name)) == name
    assert [property_of(model) for model in ("ccdcgan", "lattice-ae", "constraint-", "constraints")] == [None] * 4
    assert (cgcnn_of(FORMATION_ENERGY), property_of("cgcnn", "cgcnn")) == ("cgcnn", FORMATION_ENERGY)
    assert (cgcnn_of(GAP), property_of("cgcnn-band_gap", "cgcnn"), property_of("cgcnn-band_gap")) == (
        "cgcnn-band_gap",
        GAP,
        None,
    )


def two_structures(copper_gold: list[Any], **columns: list[float]) -> StructureSet:
    return StructureSet.from_structures(copper_gold[:2], ["a", "b"], properties=columns)


def test_unknown_property_is_named_with_the_nearest(copper_gold: list[Any]) -> None:
    """A typo, or a column that the data do not have."""
    structures = two_structures(copper_gold, formation_energy=[0.0, np.nan], band_gap=[1.0, 2.0], year=[np.nan] * 2)
    assert labels(structures, FORMATION_ENERGY, "s.h5").tolist()[0] == 0
    with pytest.raises(UserError, match=r"s\.h5 .*'band_gab'.*mean 'band_gap'.*band_gap, formation_energy, year"):
        labels(structures, "band_gab", "s.h5")
    with pytest.raises(UserError, match="no finite value of year"):
        labels(structures, "year", "s.h5")


def test_score_is_the_sum_of_the_terms() -> None:
    """Candidates would be chosen by another wish than the generator's; with weights of 0 by their place in the file."""
    low, inside = (
        ObjectiveConfig(property="e", goal="low", weight=0.1),
        ObjectiveConfig(property="g", range=(1, 2), weight=2),
    )
    columns = {"e": np.array([-1.0, -1.0, 0.0]), "g": np.array([0.0, 1.5, 1.5])}
    expected = 0.1 * np.exp([-1, -1, 0]) + 2 * np.exp([1, 0, 0])
    assert scores([low, inside], columns) == pytest.approx(expected)
    unasked = [objective.model_copy(update={"weight": 0.0}) for objective in (low, inside)]
    assert scores(unasked, columns) == pytest.approx(np.exp([-1, -1, 0]) + np.exp([1, 0, 0]))


LAYOUT = GraphLayout((29, 79), lattice_latent=16, sites_latent=120)
"""Fills 16 x 16 pixels."""


def codes(n: int, seed: int) -> np.ndarray:
    """Nearly binary graphs (n, 16, 16) that lie on a surface of four dimensions."""
    directions = np.random.default_rng(0).standard_normal((4, 256))
    latent = np.random.default_rng(seed).standard_normal((n, 4))
    return np.tanh(latent @ directions).astype(np.float32).reshape(n, 16, 16)


def truth(graphs: np.ndarray) -> dict[str, np.ndarray]:
    """Two properties of graphs: energies of about -0.5 +- 0.5 and gaps of 0 to 4, zero for half of them."""
    energy, gap = graphs[:, 0, :3].mean(axis=1), graphs[:, 4, :3].mean(axis=1)
    return {FORMATION_ENERGY: energy - 0.5, GAP: 4.0 * np.maximum(gap, 0)}


def constraint_for(graphs: np.ndarray, targets: np.ndarray) -> Constraint:
    config = build_config(
        {"train": {"constraint": {"width": 32, "steps": 200, "batch_size": 64, "learning_rate": 5e-3}}}
    )
    task = ConstraintTask(
        "laptop-constraint", config.train.constraint, LAYOUT, 0.1, graphs, targets, CPU, DataParallel(), 0
    )
    for index in range(task.steps):
        torch.manual_seed(index)
        task.step(index, np.random.default_rng(index))
    return task.network.eval()


def test_zero_or_not_is_learned_apart_from_how_much() -> None:
    """A band gap between zero and that of an insulator is predicted for what may be either; neither has it."""
    graphs, others = codes(600, 1), codes(300, 2)
    gaps = truth(graphs)[GAP]
    network = constraint_for(graphs, gaps)
    assert float(network.mean) == pytest.approx(gaps[gaps > 0].mean(), rel=1e-5)
    with torch.no_grad():
        answer = network.outputs(torch.from_numpy(others))
        values = network(torch.from_numpy(others)).numpy()
    known = truth(others)[GAP]
    assert answer.shape == (300, 2)
    assert np.mean((answer[:, 1].numpy() > 0) == (known > 0)) > 0.9
    assert np.abs(values - known).mean() < 0.3 * np.abs(known - np.median(known)).mean()
    assert constraint_for(graphs, truth(graphs)[FORMATION_ENERGY]).outputs(torch.from_numpy(others)).shape == (300, 1)


@pytest.mark.slow
def test_generated_graphs_are_what_was_asked_for() -> None:
    """Eq. 2's terms must move what is generated, by the constraints' and by the true properties: low energies lower the
    mean, a range of gaps draws graphs into it; without weight nothing is asked."""
    graphs = codes(600, 1)
    constraints = {name: constraint_for(graphs, values) for name, values in truth(graphs).items()}

    def generated(*weights: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        asked = [{**wish, "weight": weight} for wish, weight in zip((LOW, IN_RANGE), weights, strict=True)]
        sizes = {"width": 32, "noise": 8, "steps": 250, "batch_size": 32, "learning_rate": 3e-3, "objectives": asked}
        config = build_config({"train": {"ccdcgan": sizes}}).train.ccdcgan
        task = GANTask("laptop", config, graphs, constraints, CPU, DataParallel(), 0)
        for index in range(config.steps):
            torch.manual_seed(index)
            task.step(index, np.random.default_rng(index))
        made = sample_graphs(task.generator.eval(), 0, np.arange(400), CPU.device)
        return predicted(constraints, made, CPU.device), truth(made)

    def share_inside(gaps: np.ndarray) -> float:
        return float(np.mean((gaps >= 1) & (gaps <= 2)))

    for free, low, inside in zip(generated(0, 0), generated(3, 0), generated(0, 1), strict=True):
        assert low[FORMATION_ENERGY].mean() < free[FORMATION_ENERGY].mean() - 0.1
        assert share_inside(inside[GAP]) > share_inside(free[GAP]) + 0.15


@pytest.fixture
def two_objectives(trained_run: Run, tiny: dict[str, Any]) -> Run:
    """The trained run, its structures with made-up gaps, one of them unknown, and both objectives asked for."""
    paths = trained_run.round(0)
    structures = StructureSet.read(paths.structures)
    gaps = np.maximum(0, np.linspace(-2, 3, len(structures)))
    gaps[structures.provenance[SPLIT].tolist().index("train")] = np.nan
    structures.with_columns(properties={GAP: gaps}).write(paths.structures)
    tiny["train"]["ccdcgan"] |= {"objectives": [LOW, IN_RANGE], "steps": 20}
    return Run(trained_run.root, build_config(tiny))


@pytest.mark.parametrize("preset", ["laptop", "paper"])
def test_objectives_of_a_run(two_objectives: Run, preset: str, quiet: Any, tiny: dict[str, Any]) -> None:
    """Each objective has its losses in the log and its prediction in the candidates; a missing label is counted."""
    if preset == "paper":
        tiny["preset"] = "paper"
        tiny["train"]["constraint"]["steps"] = 2
        tiny["train"]["ccdcgan"]["steps"] = 4
        two_objectives = Run(two_objectives.root, build_config(tiny))
    run, paths = two_objectives, two_objectives.round(0)
    said: list[str] = []
    shutil.rmtree(paths.train("ccdcgan"))
    shutil.rmtree(paths.train("constraint"))
    assert untrained(paths, [FORMATION_ENERGY, GAP]) == [FORMATION_ENERGY, GAP]
    for model in ("constraint", "constraint-band_gap", "ccdcgan"):
        assert train_model(run, paths, model, quiet, say=said.append)
    assert untrained(paths, [FORMATION_ENERGY, GAP]) == []
    split = StructureSet.read(paths.structures).provenance[SPLIT].tolist()
    n = split.count("train")
    assert said == [f"constraint-band_gap: 1 of {n} structures have no finite band_gap and are left out"]
    line = json.loads((paths.train("ccdcgan") / "metrics.jsonl").read_text().splitlines()[0])
    assert {"band_gap", "band_gap_loss", "formation_energy", "formation_energy_loss"} <= line.keys()

    candidates = StructureSet.read(generate(run, paths, 12, quiet))
    constraints = load_constraints(paths, [FORMATION_ENERGY, GAP])
    columns = predictions_of(candidates, constraints)
    assert not np.allclose(columns[GAP], columns[FORMATION_ENERGY])
    with pytest.raises(UserError, match=r"without a prediction of year.*voxtal generate"):
        predictions_of(candidates, ["year"])
    evaluation = screen(run, paths, quiet, print)
    assert evaluation["other_constraints"][GAP]["heldout"]["n"] == split.count("heldout") > 0
    assert read_json(paths.evaluation)["constraint"]["heldout"]["n"] == split.count("heldout")
    with open(paths.screen / "candidates.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [float(row["predicted_band_gap"]) for row in rows] == pytest.approx(columns[GAP], abs=1e-4)


def test_killed_constraint_is_trained_to_its_end_first(two_objectives: Run) -> None:
    """``voxtal train ccdcgan`` after a kill: a half-trained constraint would teach the generator."""
    folder = two_objectives.round(0).train("constraint")
    assert untrained(two_objectives.round(0), [FORMATION_ENERGY]) == []
    (folder / "trained.json").unlink()
    assert untrained(two_objectives.round(0), [FORMATION_ENERGY]) == [FORMATION_ENERGY]
