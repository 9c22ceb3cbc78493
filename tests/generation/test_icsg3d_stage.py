"""``voxtal generate`` with ICSG3D's networks, trained for seconds: what a row holds, and on what it depends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from tests.conftest import trained_on_maps
from tests.generation.test_stage import KilledError, blocks, killing
from voxtal.config import ICSG3D, load_config
from voxtal.errors import UserError
from voxtal.generation import folder, icsg3d_stage
from voxtal.generation.blocks import ATTEMPT, DRAWN, PREDICTED
from voxtal.generation.icsg3d_request import MapsRequest, maps_request_of
from voxtal.generation.icsg3d_stage import maps_maker, open_maps_generator, open_maps_models
from voxtal.generation.request import Request
from voxtal.generation.stage import features_of_attempts, generate
from voxtal.runs import Run, read_json
from voxtal.structures.splits import training_rows
from voxtal.structures.structure_set import REASON, SOURCE, StructureSet
from voxtal.training.checkpoint import load, save

CONDITION = "condition_formation_energy"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "BLOCK", 4)
    monkeypatch.setattr(icsg3d_stage, "GROUP", 4)


@pytest.fixture
def attempts(maps_run: Run, quiet: Any) -> Callable[..., StructureSet]:
    """Makes attempts of round 0 and reads them."""

    def make(n: int, **more: Any) -> StructureSet:
        return StructureSet.read(generate(maps_run, maps_run.round(0), n, more.pop("progress", quiet), **more))

    return make


def test_every_attempt_is_a_row(attempts: Callable[..., StructureSet]) -> None:
    """Predictions of what is no crystal, none of what is one, or a condition that is not noted."""
    found = attempts(12)
    assert found.properties[ATTEMPT].tolist() == list(range(12))
    assert found.properties[CONDITION].tolist() == [*range(10), 0, 1]
    valid = found.provenance[REASON] == ""
    assert valid.any()
    np.testing.assert_array_equal(np.isfinite(found.properties[PREDICTED]), valid)
    assert set(found.provenance[SOURCE].tolist()) == {ICSG3D}
    assert set(found.provenance[DRAWN].tolist()) <= {"", "Au", "Cu", "Au-Cu"}


def test_killed_generation_carries_on_and_blocks_do_not_matter(
    maps_run: Run, attempts: Callable[..., StructureSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempt i is attempt i, whenever and in whichever block it is made: the networks' company is always the same."""
    paths = maps_run.round(0)
    root = paths.candidates.parent
    with pytest.raises(KilledError):
        attempts(11, progress=killing)
    kept = blocks(root)
    assert len(kept) == 2
    whole = attempts(11)
    assert kept.items() <= blocks(root).items()
    resumed = paths.candidates.read_bytes()
    next(root.glob("blocks/*.h5")).unlink()
    attempts(11)
    assert paths.candidates.read_bytes() == resumed
    for path in [*blocks(root), paths.candidates]:
        path.unlink()
    monkeypatch.setattr(folder, "BLOCK", 3)
    again = attempts(11)
    for one, two in ((whole.numbers, again.numbers), (whole.frac_coords, again.frac_coords)):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(whole.properties[PREDICTED], again.properties[PREDICTED])


def test_around_a_compound(maps_run: Run, attempts: Callable[..., StructureSet], tmp_path: Path) -> None:
    """Codes have to be the compound's, spread by the variance, whether it is named by its id or comes in a file."""
    paths = maps_run.round(0)
    wide = open_maps_generator(maps_run, paths, maps_request_of(around="m-3", variance=4.0))
    codes = wide.codes(np.arange(4000))
    mean, deviation = wide.anchors[0], (codes - wide.anchors[0]).std()
    assert abs(deviation - 2.0) < 0.05
    np.testing.assert_allclose(codes.mean(axis=0), mean, atol=0.15)
    found = attempts(4, request=maps_request_of(around="m-3", variance=1e-6))
    assert len(set(found.provenance[DRAWN].tolist())) == 1
    told = wide.models.condition.told(wide.vectors(np.arange(4)))["formation_energy"]
    np.testing.assert_array_equal(found.properties[CONDITION], told)
    file = tmp_path / "cube.cif"
    StructureSet.read(paths.structures).structure(3).to(filename=str(file))
    request = maps_request_of(around=str(file), condition=["formation_energy=-0.16"])
    np.testing.assert_allclose(open_maps_generator(maps_run, paths, request).anchors[0], mean, atol=1e-3)
    attempts(4, request=request)
    assert read_json(paths.candidates.parent / request.name / "request.json")["asked"]["around"] == "cube.cif"


def test_between_two_compounds(maps_run: Run) -> None:
    """The ends of the line are the compounds themselves."""
    paths = maps_run.round(0)
    generator = open_maps_generator(maps_run, paths, maps_request_of(between=["m-1", "m-5"], steps=5))
    codes = generator.codes(np.arange(5))
    np.testing.assert_allclose(codes[[0, 4]], generator.anchors, atol=1e-6)
    np.testing.assert_allclose(codes[2], generator.anchors.mean(axis=0), atol=1e-6)


def test_rounds_features_are_the_codes(maps_run: Run) -> None:
    """Candidates would be told apart by other codes than they were made of."""
    paths = maps_run.round(0)
    codes = open_maps_generator(maps_run, paths, MapsRequest()).codes(np.arange(9))
    np.testing.assert_array_equal(features_of_attempts(maps_run, paths, np.array([2, 7])), codes[[2, 7]])
    assert features_of_attempts(maps_run, paths, np.arange(0)).shape == (0, codes.shape[1])


def test_other_networks_set_attempts_aside(maps_run: Run, attempts: Callable[..., StructureSet]) -> None:
    """Attempts with and without a property's prediction in one file."""
    attempts(4)
    root = maps_run.round(0).candidates.parent
    before = read_json(root / "request.json")["made_by"]["models"]
    assert before.keys() == {"vae", "cgcnn"}
    best = maps_run.round(0).train("vae") / "best.pt"
    saved = load(best, "")
    saved["weights"]["sharpness"] += 1e-3
    save(best, saved)
    attempts(4)
    assert (root / "earlier-001" / "candidates.h5").is_file()


@pytest.fixture(scope="module")
def published_run(tmp_path_factory: pytest.TempPathFactory, maps_tree: dict[str, Any], golden_cubes: list[Any]) -> Run:
    """The published networks, small and of a few steps."""
    tree = {**maps_tree, "preset": "paper", "train": {**maps_tree["train"]}}
    for model in ("unet", "vae"):
        tree["train"][model] = {**tree["train"][model], "width": 4, "steps": 4, "batch_size": 4}
    return trained_on_maps(tmp_path_factory.mktemp("published"), tree, golden_cubes)


def test_unknown_values_are_no_conditions(icsg3d_run: Path) -> None:
    """A structure without the property would be told as one that has it."""
    run = Run(icsg3d_run, load_config(icsg3d_run / "voxtal.toml"))
    structures = StructureSet.read(run.round(0).structures)
    energies = structures.properties["formation_energy"][training_rows(structures, np.arange(len(structures)))]
    assert not np.isfinite(energies).all()
    assert len(open_maps_models(run, run.round(0)).known) == np.isfinite(energies).sum()


def test_vae_of_an_earlier_version_is_told(maps_run: Run) -> None:
    """It has no conditions for attempts to take turns over."""
    path = maps_run.round(0).train("vae") / "best.pt"
    saved = load(path, "")
    del saved["facts"]["known"]
    save(path, saved)
    with pytest.raises(UserError, match=r"of an earlier voxtal\. Delete its folder train/vae"):
        open_maps_models(maps_run, maps_run.round(0))


def test_published_networks_need_the_unet(published_run: Run) -> None:
    """Their VAE gives maps; these are crystals by the UNet's labels and the watershed, and by no other way."""
    paths = published_run.round(0)
    generator = open_maps_generator(published_run, paths, maps_request_of(around="m-3", variance=0.1))
    assert generator.models.decoder is not None
    assert generator.models.decoder.published
    rows = generator.rows(np.arange(4))
    assert len(rows) == 4
    maker = maps_maker(published_run, paths, maps_request_of())
    assert maker.made_by()["models"].keys() == {"vae", "unet", "cgcnn"}
    (paths.train("unet") / "best.pt").unlink()
    with pytest.raises(UserError, match="make it with `voxtal train unet`"):
        maker.made_by()


@pytest.mark.parametrize("model", ["vae", "cgcnn"])
def test_untrained_networks_are_told(model: str, maps_run: Run, attempts: Callable[..., StructureSet]) -> None:
    """What to train next."""
    (maps_run.round(0).train(model) / "best.pt").unlink()
    with pytest.raises(UserError, match=f"make it with `voxtal train {model}`"):
        attempts(4)


def test_compounds_that_cannot_be(maps_run: Run, attempts: Callable[..., StructureSet], tmp_path: Path) -> None:
    """A typing error, an empty file, and more atoms than the VAE has slots for."""
    with pytest.raises(UserError, match=r"no structure 'm-33', and there is no file of that name\. Did you mean 'm-3'"):
        attempts(4, request=maps_request_of(around="m-33"))
    (tmp_path / "empty.cif").write_text("# nothing")
    with pytest.raises(UserError, match="holds 0 structures that can be used"):
        attempts(4, request=maps_request_of(around=str(tmp_path / "empty.cif")))
    faces = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    large = Structure(Lattice.cubic(4), ["Au", "Au", "Cu", "Cu", "Cu"], faces)
    large.to(filename=str(tmp_path / "large.cif"))
    with pytest.raises(UserError, match="has 5 atoms, and the VAE was trained on 4 at most"):
        attempts(4, request=maps_request_of(around=str(tmp_path / "large.cif")))
    with pytest.raises(UserError, match="cannot be asked of"):
        attempts(4, request=Request(exclude=("Pb",)))
