"""A packed model: the same attempts as the run's, without the run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from voxtal.config import load_config
from voxtal.errors import UserError
from voxtal.generation.packing import pack
from voxtal.generation.stage import generate
from voxtal.runs import RoundPaths, Run
from voxtal.structures.structure_set import REASON, StructureSet
from voxtal.training.stages import GENERATORS, train_model

Progress = Callable[[str, int], Any]
ATTEMPTS = 48


def attempts_of(packed: Path, attempts: Path, quiet: Progress) -> Path:
    """Generate with a packed model into a folder elsewhere."""
    run = Run(packed, load_config(packed / "voxtal.toml"))
    return generate(run, RoundPaths(run.round(0).root, 0, attempts), ATTEMPTS, quiet)


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("generator", GENERATORS)
def test_the_same_attempts_as_the_run(generator: str, trained_run: Run, tmp_path: Path, quiet: Progress) -> None:
    """Whoever is given a model could not repeat what was published of it."""
    trained_run = Run(
        trained_run.root, load_config(trained_run.root / "voxtal.toml", [f"generate.generator={generator}"])
    )
    pack(trained_run, trained_run.round(0), tmp_path / "model", half=False)
    before = files_of(tmp_path / "model")
    elsewhere = attempts_of(tmp_path / "model", tmp_path / "attempts", quiet)
    own = generate(trained_run, trained_run.round(0), ATTEMPTS, quiet)
    assert elsewhere.read_bytes() == own.read_bytes()
    assert elsewhere.parent == tmp_path / "attempts"
    assert files_of(tmp_path / "model") == before  # an installed package cannot be written to


@pytest.mark.parametrize("continuous", [False, True])
def test_same_attempts_of_maps(continuous: bool, maps_run: Run, tmp_path: Path, quiet: Progress) -> None:
    """Conditions take turns over structures that whoever is given the model does not have."""
    paths = maps_run.round(0)
    if continuous:
        overrides = ["train.vae.continuous_condition=true", "train.vae.steps=20"]
        maps_run = Run(maps_run.root, load_config(maps_run.root / "voxtal.toml", overrides))
        shutil.rmtree(paths.train("vae"))
        train_model(maps_run, paths, "vae", quiet)
    pack(maps_run, paths, tmp_path / "model", half=False)
    assert files_of(tmp_path / "model") == [
        "round-000/train/cgcnn/best.pt",
        "round-000/train/vae/best.pt",
        "voxtal.toml",
    ]
    elsewhere = attempts_of(tmp_path / "model", tmp_path / "attempts", quiet)
    assert elsewhere.read_bytes() == generate(maps_run, paths, ATTEMPTS, quiet).read_bytes()


def test_half_precision_changes_little(trained_run: Run, tmp_path: Path, quiet: Progress) -> None:
    """Rounded scales or thresholds would give other crystals, and be noticed by nobody."""
    paths = trained_run.round(0)
    sizes = [pack(trained_run, paths, tmp_path / name, half) for name, half in (("half", True), ("full", False))]
    assert sizes[0] < 0.75 * sizes[1]
    weights = torch.load(tmp_path / "half/round-000/train/sites-ae/best.pt", weights_only=True)["weights"]
    assert {value.dtype for value in weights.values() if value.dim() < 2} <= {torch.float32, torch.int64}
    rounded = StructureSet.read(attempts_of(tmp_path / "half", tmp_path / "attempts", quiet))
    exact = StructureSet.read(generate(trained_run, paths, ATTEMPTS, quiet))
    assert np.mean(rounded.provenance[REASON] == exact.provenance[REASON]) > 0.9
    alike = (rounded.provenance[REASON] == "") & (exact.provenance[REASON] == "")
    assert alike.any()
    np.testing.assert_allclose(rounded.cells[alike], exact.cells[alike], atol=0.05)


def test_nothing_of_the_machine_or_the_data_is_packed(trained_run: Run, tmp_path: Path) -> None:
    """A model is shipped to others: no structures, no paths, no device that they may not have."""
    pack(trained_run, trained_run.round(0), tmp_path / "model")
    assert [name for name in files_of(tmp_path / "model") if not name.endswith("best.pt")] == [
        "round-000/encode/graphs.h5",
        "voxtal.toml",
    ]
    text = (tmp_path / "model" / "voxtal.toml").read_text()
    assert str(tmp_path) not in text
    assert "device" not in text
    assert "withhold" not in text
    assert load_config(tmp_path / "model" / "voxtal.toml").voxels == trained_run.config.voxels


def test_prototypes_take_the_place_of_known_crystals(trained_run: Run, tmp_path: Path, quiet: Progress) -> None:
    """A model that is given to everybody would hold structures that are not ours to give."""
    run = Run(trained_run.root, load_config(trained_run.root / "voxtal.toml", ["generate.generator=analogue"]))
    pack(run, run.round(0), tmp_path / "model", prototypes=True)
    facts = torch.load(tmp_path / "model/round-000/train/analogue/best.pt", weights_only=True)["facts"]
    own = torch.load(run.round(0).train("analogue") / "best.pt", weights_only=True)["facts"]
    most = int(own["counts"].max())
    assert len(facts["cells"]) > 20
    assert int(facts["counts"].max()) <= most
    assert not torch.isfinite(facts["values"]).any()
    made = StructureSet.read(attempts_of(tmp_path / "model", tmp_path / "attempts", quiet))
    assert set(made.numbers.tolist()) <= {29, 79}
    assert np.mean(made.provenance[REASON] == "") > 0.5


def test_what_is_there_stays_and_half_a_model_never_appears(trained_run: Run, tmp_path: Path) -> None:
    """A folder that holds something else, and a generator that has not been trained."""
    with pytest.raises(UserError, match="There is something at"):
        pack(trained_run, trained_run.round(0), tmp_path)
    (trained_run.round(0).train(trained_run.config.generate.generator) / "best.pt").unlink()
    with pytest.raises(UserError, match="No trained model at"):
        pack(trained_run, trained_run.round(0), tmp_path / "model")
    assert not (tmp_path / "model").exists()
