"""Training of the four models on a run directory: exact resumption, what is refused, what is found done."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from voxtal.config import build_config
from voxtal.data.graphs import GraphSet
from voxtal.errors import Interrupted, UserError
from voxtal.models.build import build, record
from voxtal.runs import RoundPaths, Run
from voxtal.structures.structure_set import FORMATION_ENERGY, SPLIT, StructureSet
from voxtal.training.checkpoint import load, save
from voxtal.training.encode import encode_graphs
from voxtal.training.stages import MODELS, train_model, training_rows


class KilledError(Exception):
    """Stands for a kill: nothing more is written."""


def kill() -> None:
    raise KilledError


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def acting(steps: int, act: Callable[[], None]) -> Callable[[str, int], Any]:
    """A progress that acts once, after that many steps."""

    @contextmanager
    def progress(_what: str, _total: int) -> Iterator[Callable[..., None]]:
        done = 0

        def advance(n: int = 1, _text: str = "") -> None:
            nonlocal done
            before, done = done, done + n
            if before < steps <= done:
                act()

        yield advance

    return progress


def losses(paths: RoundPaths, model: str) -> list[dict[str, float]]:
    lines = (paths.train(model) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def weights(paths: RoundPaths, model: str) -> dict[str, torch.Tensor]:
    return load(paths.train(model) / "best.pt", "")["weights"]


def mtimes(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("act", "error"), [(kill, KilledError), (terminate, Interrupted)])
@pytest.mark.parametrize(
    ("model", "precision"),
    [*((model, "float32") for model in (*MODELS, "sites-ae-Au")), ("lattice-ae", "bf16"), ("sites-ae", "bf16")],
)
def test_disturbed_training_equals_an_undisturbed_one(
    model: str,
    act: Callable[[], None],
    error: type[Exception],
    precision: str,
    trained_run: Run,
    tiny: dict[str, Any],
    quiet: Any,
) -> None:
    """Losses and weights of a run that was killed or stopped are those of one that was not, to the last bit."""
    steps = 12 if precision == "bf16" else 40  # without instructions for it, bf16 takes a second a step
    tiny["train"] |= {"checkpoint_every_steps": steps // 4, "precision": precision}
    if model == "sites-ae-Au":
        tiny["train"]["separated_steps"] = steps
    else:
        tiny["train"][model.replace("-", "_")]["steps"] = steps
    run = Run(trained_run.root, build_config(tiny))
    paths = run.round(0)

    shutil.rmtree(paths.train(model), ignore_errors=True)
    train_model(run, paths, model, quiet)
    undisturbed = losses(paths, model), weights(paths, model)

    shutil.rmtree(paths.train(model))
    with pytest.raises(error):
        train_model(run, paths, model, acting(steps * 2 // 3, act))
    assert train_model(run, paths, model, quiet)
    assert losses(paths, model) == undisturbed[0]
    again = weights(paths, model)
    assert again.keys() == undisturbed[1].keys()
    for name, value in undisturbed[1].items():
        assert torch.equal(again[name], value), name


@pytest.mark.parametrize("model", MODELS)
def test_finished_training_is_left_alone(model: str, trained_run: Run, quiet: Any) -> None:
    """A second call that trains again, or that touches what later stages compare by date."""
    before = mtimes(trained_run.root)
    assert not train_model(trained_run, trained_run.round(0), model, quiet)
    assert mtimes(trained_run.root) == before


@pytest.mark.parametrize("model", MODELS)
def test_training_of_other_settings_is_refused(model: str, trained_run: Run, tiny: dict[str, Any], quiet: Any) -> None:
    """Checkpoints of one learning rate must not be carried on with another."""
    tiny["train"][model.replace("-", "_")]["learning_rate"] = 1e-2
    run = Run(trained_run.root, build_config(tiny))
    with pytest.raises(UserError, match="other data or settings"):
        train_model(run, run.round(0), model, quiet)


def test_settings_of_other_models_do_not_matter(trained_run: Run, tiny: dict[str, Any], quiet: Any) -> None:
    """More attempts or a longer GAN training must not make the autoencoders old."""
    tiny["generate"]["n"] = 50
    tiny["train"]["ccdcgan"]["steps"] = 1000
    run = Run(trained_run.root, build_config(tiny))
    for model in ("lattice-ae", "sites-ae", "constraint"):
        assert not train_model(run, run.round(0), model, quiet)


def test_unknown_model_is_named(trained_run: Run, quiet: Any) -> None:
    """A typo gets the list of models."""
    with pytest.raises(UserError, match=r"'sites'.*lattice-ae, sites-ae, constraint, ccdcgan"):
        train_model(trained_run, trained_run.round(0), "sites", quiet)


@pytest.mark.parametrize(
    ("missing", "model", "advice"),
    [
        ("voxels", "sites-ae", "run voxelize"),
        ("encode", "constraint", "voxtal encode"),
        ("train/constraint", "ccdcgan", "voxtal train constraint"),
    ],
)
def test_missing_input_says_what_makes_it(missing: str, model: str, advice: str, trained_run: Run, quiet: Any) -> None:
    """A user who trains in another order than the models need."""
    paths = trained_run.round(0)
    shutil.rmtree(paths.root / missing)
    with pytest.raises(UserError, match=advice):
        train_model(trained_run, paths, model, quiet)


def test_damaged_model_says_what_makes_it_again(trained_run: Run, quiet: Any) -> None:
    """A best.pt that was cut short."""
    path = trained_run.round(0).train("constraint") / "best.pt"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"constraint.best\.pt cannot be read.*voxtal train constraint"):
        train_model(trained_run, trained_run.round(0), "ccdcgan", quiet)


def test_constraint_without_labels_is_refused(trained_run: Run, quiet: Any) -> None:
    """Structures that nobody has relaxed."""
    paths = trained_run.round(0)
    structures = StructureSet.read(paths.structures)
    structures.with_columns(properties={FORMATION_ENERGY: np.full(len(structures), np.nan)}).write(paths.structures)
    with pytest.raises(UserError, match="voxtal relax"):
        train_model(trained_run, paths, "constraint", quiet)


def test_heldout_structures_are_not_trained_on(trained_run: Run) -> None:
    """The held-out reproduction ratio would be a training figure."""
    structures = StructureSet.read(trained_run.round(0).structures)
    trained_on = training_rows(structures, np.arange(len(structures)))
    assert trained_on.tolist() == [split == "train" for split in structures.provenance[SPLIT]]
    assert 0 < trained_on.sum() < len(structures)


def test_graphs_hold_every_structure_and_only_its_elements(trained_run: Run) -> None:
    """A graph of another structure's elements, or a threshold that loses a present one."""
    paths = trained_run.round(0)
    structures, graphs = StructureSet.read(paths.structures), GraphSet.read(paths.graphs)
    assert graphs.layout.elements == (29, 79)
    assert len(graphs) == len(structures)
    present = graphs.layout.strength(graphs.dense()) > graphs.presence_threshold
    for row, found in zip(graphs.rows, present, strict=True):
        elements = set(structures.arrays(int(row))[0].tolist())
        assert {z for z, there in zip(graphs.layout.elements, found, strict=True) if there} == elements


def test_encoding_is_made_again_for_other_models_only(trained_run: Run) -> None:
    """Graphs of an encoder that has been trained again since."""
    paths = trained_run.round(0)
    before = mtimes(paths.graphs.parent)
    first = GraphSet.read(paths.graphs)
    assert not encode_graphs(trained_run, paths)
    assert mtimes(paths.graphs.parent) == before
    saved = load(paths.train("lattice-ae") / "best.pt", "")
    saved["weights"]["encoder.0.weight"] *= 1.5
    save(paths.train("lattice-ae") / "best.pt", saved)
    assert encode_graphs(trained_run, paths)
    second = GraphSet.read(paths.graphs)
    assert second.fingerprint != first.fingerprint
    assert not np.array_equal(second.lattice, first.lattice)


def test_next_round_starts_from_this_ones_autoencoders(trained_run: Run, tiny: dict[str, Any], quiet: Any) -> None:
    """A warm start: fewer steps, and a lower first loss than that of fresh weights."""
    paths = trained_run.round(0)
    following = trained_run.round(1)
    shutil.copytree(paths.root, following.root, ignore=shutil.ignore_patterns("train"))
    train_model(trained_run, following, "sites-ae", quiet)
    fresh, warm = losses(paths, "sites-ae"), losses(following, "sites-ae")
    assert warm[-1]["step"] == fresh[-1]["step"] // 2
    assert warm[0]["loss"] < fresh[0]["loss"]
    tiny["train"]["sites_ae"]["width"] = 4
    shutil.rmtree(following.train("sites-ae"))
    train_model(Run(trained_run.root, build_config(tiny)), following, "sites-ae", quiet)
    assert losses(following, "sites-ae")[-1]["step"] == fresh[-1]["step"]


def test_published_graph_has_room_for_every_element(trained_run: Run, tiny: dict[str, Any]) -> None:
    """``preset = "paper"`` encodes to 160 x 160, whatever elements the data hold."""
    tiny["train"]["separated_steps"] = 0
    paths = trained_run.round(0)
    for model, length in (("lattice-ae", 25), ("sites-ae", 200)):
        sizes = {**load(paths.train(model) / "best.pt", "")["sizes"], "width": 2, "latent": length}
        save(paths.train(model) / "best.pt", record(f"atoms-{model}", sizes, build(f"atoms-{model}", **sizes)))
    encode_graphs(Run(trained_run.root, build_config(tiny | {"preset": "paper"})), paths)
    graphs = GraphSet.read(paths.graphs)
    assert graphs.dense().shape[1:] == (160, 160)
    codes = graphs.layout.unpack(graphs.dense())[1]
    structures = StructureSet.read(paths.structures)
    for row, code in zip(graphs.rows, codes, strict=True):
        filled = np.flatnonzero(np.abs(code).max(axis=1)) + 1
        assert set(filled.tolist()) == set(structures.arrays(int(row))[0].tolist())
