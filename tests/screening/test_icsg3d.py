"""ICSG3D's figures: of real tiny networks on perovskites, of attempts made by hand, and from rows by hand."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from voxtal.cli.common import open_run
from voxtal.errors import UserError
from voxtal.generation.blocks import PREDICTED, condition_column
from voxtal.parallel.communicator import SerialCommunicator
from voxtal.runs import RoundPaths, Run
from voxtal.screening.icsg3d import (
    attempt_figures,
    attempt_rows,
    beside_paper,
    energies_by_type,
    formula_type,
    is_apart,
    latent_figures,
    map_figures,
    property_figures,
)
from voxtal.screening.icsg3d_models import Latent, MapModels, encode_block, interpolations, judge_block, reconstructions
from voxtal.screening.icsg3d_stage import Evaluation, evaluate_icsg3d, write_rows
from voxtal.screening.map_metrics import voxel_counts
from voxtal.screening.metrics import mean
from voxtal.structures.splits import HELDOUT, in_split
from voxtal.structures.structure_set import FORMATION_ENERGY, REASON, StructureSet

SITES = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
N = 22


@contextmanager
def quiet(_what: str, _total: int) -> Iterator[Callable[..., None]]:
    yield lambda *_: None


@pytest.fixture(scope="module")
def trained(icsg3d_run: Path) -> tuple[Run, RoundPaths]:
    run = open_run(icsg3d_run)
    return run, run.round(0)


@pytest.fixture(scope="module")
def evaluated(trained: tuple[Run, RoundPaths]) -> Evaluation:
    return evaluate_icsg3d(*trained, quiet, SerialCommunicator(), most_training=6)


def test_every_figure_has_its_denominator(trained: tuple[Run, RoundPaths], evaluated: Evaluation) -> None:
    """All held-out structures count, but the one whose condition is not known; training ones are never among them."""
    _, paths = trained
    structures = StructureSet.read(paths.structures)
    held = in_split(structures, np.arange(N), HELDOUT)
    known = np.isfinite(structures.properties[FORMATION_ENERGY])
    maps = evaluated.figures["maps"]
    assert maps["heldout"]["n"] == maps["heldout"]["of"] == (held & known).sum()
    assert evaluated.figures["without_condition"] == 1
    assert {row["id"] for row in evaluated.rows if row["split"] == "heldout"} == set(structures.ids[held & known])
    assert len(evaluated.rows) == maps["heldout"]["n"] + maps["train"]["n"]
    for part in maps.values():
        for source in ("unet", "vae"):
            for crystals in part[source]["crystals"].values():
                assert crystals["strict"]["of"] == part["n"]
                assert crystals["emd_angstrom"]["n"] == crystals["decoded"]["n"]
    properties = evaluated.figures["properties"]["formation_energy"]
    assert properties["heldout"]["n"] == (held & known).sum()
    drawn = [point["target"] for point in evaluated.parity["formation_energy"] if point["split"] == HELDOUT]
    assert drawn == structures.properties[FORMATION_ENERGY][held & known].tolist()
    assert evaluated.figures["missing"] == []
    assert "attempts" not in evaluated.figures


def test_networks_have_learned_something(evaluated: Evaluation) -> None:
    """Labels, cells or conditions in another order would leave what a network without training has."""
    figures = map_figures(evaluated.rows)
    assert figures["unet"]["voxels"]["label_recall"]["mean"] > 1.5 / 7  # six elements and the background
    assert figures["vae"]["cells"]["a_error_angstrom"]["mean"] < 1.5
    found = beside_paper(figures, "published")
    assert set(found) >= {"a_error_angstrom", "emd_angstrom", "missing_sites", "label_recall"}


class PerfectUNet:
    """Knows the species of every map."""

    def __init__(self, models: MapModels) -> None:
        self.batch = models.batch(np.arange(N))

    def segment(self, maps: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
        unlike = (maps[:, None, 0] - self.batch.maps[None, :, 0]).abs().amax((2, 3, 4))
        assert unlike.amin(1).max() < 1e-3  # stored maps have levels
        species = self.batch.species[unlike.argmin(1)]
        return species.to(torch.uint8), (species > 0).float()


class PerfectVAE:
    """Its code is the maps themselves."""

    def encode(self, maps: torch.Tensor, condition: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return maps.flatten(1), torch.zeros_like(maps.flatten(1))

    def decode(self, codes: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return codes.view(-1, 4, 16, 16, 16)


def test_perfect_networks_have_perfect_figures(trained: tuple[Run, RoundPaths]) -> None:
    """Sites compared in another frame, rows of the wrong structures, or maps judged for codes would cost something."""
    models = MapModels.of(*trained)
    models = replace(models, unet=PerfectUNet(models), vae=PerfectVAE())  # type: ignore[arg-type]
    figures = map_figures(judge_block(models, models.known(np.arange(N))[::3]))
    for source in ("unet", "vae"):
        voxels = figures[source]["voxels"]
        assert [voxels[key]["mean"] for key in ("label_recall", "recall", "precision", "f1")] == [1, 1, 1, 1]
        crystals = figures[source]["crystals"]["voxtal"]
        assert crystals["strict"]["share"] == crystals["cdvae"]["share"] == crystals["composition"]["share"] == 1
        assert crystals["missing_sites"]["mean"] == 0
        assert crystals["emd_angstrom"]["mean"] < 1e-3
        assert figures[source]["cells"]["a_error_angstrom"]["mean"] < 1e-5
        assert figures[source]["crystals"]["published"]["decoded"]["share"] == 1
    assert figures["vae_mse"]["mean"] < 1e-9  # stored maps have levels, those that the code was made of have none


def test_a_row_against_the_networks_by_hand(trained: tuple[Run, RoundPaths]) -> None:
    """The rows of one structure, alone or among others, and its voxels counted apart from the code that counts all."""
    models = MapModels.of(*trained)
    rows = models.known(np.arange(N))[:3]
    together, alone = judge_block(models, rows), judge_block(models, rows[1:2])
    for key, value in alone[0].items():
        assert together[1][key] == (pytest.approx(value, rel=1e-3, abs=1e-4) if isinstance(value, float) else value)
    batch = models.batch(rows[1:2])
    species, inside = models.labelled(batch.maps)
    truth = batch.species.numpy()
    segmented = np.where(inside, species, 0)
    assert alone[0]["unet_right"] == ((segmented == truth) & (truth > 0)).sum()
    assert alone[0]["unet_found"] == (segmented > 0).sum()
    assert alone[0]["unet_right_labels"] == ((species == truth) & (truth > 0)).sum()
    assert voxel_counts(segmented, truth).tolist() == [[alone[0][f"unet_{k}"] for k in ("right", "inside", "found")]]


def test_codes_and_pictures(trained: tuple[Run, RoundPaths], evaluated: Evaluation) -> None:
    """Ends of an interpolation are the structures themselves; pairs are of one decile, so that conditions agree."""
    models = MapModels.of(*trained)
    rows = models.known(np.arange(N))
    codes = encode_block(models, rows[:4])
    assert codes.mean.shape == codes.scale.shape == (4, 8)
    assert (codes.scale > 0).all()
    slices = interpolations(models, rows[:2][None], 3)
    assert slices.density.shape == (1, 5, 16, 16)
    first = models.decoded(*(part[:1] for part in (models.encoded(rows[:1])[0], models.conditions(rows[:1]))))
    assert slices.density[0, 1] == pytest.approx(first[0, 0, ..., 8].numpy(), abs=1e-4)
    assert np.array_equal(slices.density[0, 0], models.batch(rows[:1]).maps[0, 0, ..., 8].numpy())
    true = models.batch(rows[1:2]).species[0, ..., 8].numpy()
    assert np.array_equal(slices.species[0, 4], true)
    again = reconstructions(models, rows[1:2])
    assert np.array_equal(again.species[0, 0], true)
    assert np.isnan(again.density[0, 1]).all()
    assert evaluated.embedding is not None
    assert set(evaluated.embedding["classes"]) == {"AB", "ABX3"}
    assert evaluated.codes is not None
    assert len(evaluated.codes) == len(evaluated.embedding["places"]) == evaluated.figures["codes"]["n"]


def test_what_is_not_trained(trained: tuple[Run, RoundPaths], tmp_path: Path) -> None:
    """An empty round ends in a traceback; a UNet without a VAE, or properties alone, are worth judging."""
    run, paths = trained
    other = Run(tmp_path, run.config)
    there = other.round(0)
    there.root.mkdir()
    for name in ("structures.h5", "density"):
        (there.root / name).symlink_to(paths.root / name)
    with pytest.raises(UserError, match="nothing of ICSG3D that is trained"):
        evaluate_icsg3d(other, there, quiet, SerialCommunicator())
    there.train("").mkdir(exist_ok=True)
    there.train("cgcnn").symlink_to(paths.train("cgcnn"))
    found = evaluate_icsg3d(other, there, quiet, SerialCommunicator())
    assert list(found.figures["properties"]) == ["formation_energy"]
    assert "maps" not in found.figures
    there.train("vae").symlink_to(paths.train("vae"))
    with pytest.raises(UserError, match="voxtal train unet"):
        evaluate_icsg3d(other, there, quiet, SerialCommunicator())
    there.train("vae").unlink()
    there.train("unet").symlink_to(paths.train("unet"))
    found = evaluate_icsg3d(other, there, quiet, SerialCommunicator(), most_training=3)
    assert found.figures["missing"] == ["vae"]
    assert found.figures["maps"]["train"]["n"] == 3 < found.figures["maps"]["train"]["of"]
    assert "vae" not in found.figures["maps"]["heldout"]
    assert found.reconstructions is not None


def test_maps_of_another_kind_are_refused(trained: tuple[Run, RoundPaths]) -> None:
    """Networks of one width of Gaussians on maps of another are wrong without a word."""
    run, paths = trained
    config = run.config.model_copy(update={"density": run.config.density.model_copy(update={"sigma_angstrom": 1.0})})
    with pytest.raises(UserError, match="made with other settings"):
        evaluate_icsg3d(Run(run.root, config), paths, quiet, SerialCommunicator())


def test_structures_without_the_condition(trained: tuple[Run, RoundPaths], tmp_path: Path) -> None:
    """A VAE on structures that lack what it is told, such as fresh ones: there is nothing to judge, and no average."""
    run, paths = trained
    there = Run(tmp_path, run.config).round(0)
    there.root.mkdir()
    for name in ("density", "train"):
        (there.root / name).symlink_to(paths.root / name)
    structures = StructureSet.read(paths.structures)
    replace(structures, properties={}).write(there.structures)
    with pytest.raises(UserError, match="has a finite formation_energy, which the VAE is told"):
        evaluate_icsg3d(run, there, quiet, SerialCommunicator())


def test_rows_as_a_table(evaluated: Evaluation, tmp_path: Path) -> None:
    """Who looks for the bad ones needs the ids; a table of True and None cannot be read by every program."""
    write_rows(tmp_path / "rows.csv", evaluated.rows)
    write_rows(tmp_path / "none.csv", [])
    with open(tmp_path / "rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [row["id"] for row in evaluated.rows]
    assert {row["vae_voxtal_strict"] for row in rows} <= {"0", "1"}
    assert not (tmp_path / "none.csv").exists()


def row(**changes: Any) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for source in ("unet", "vae"):
        out |= {f"{source}_right_labels": 9, f"{source}_right": 8, f"{source}_inside": 10, f"{source}_found": 16}
        out |= {f"{source}_a_error": 0.1, f"{source}_b_error": 0.2, f"{source}_c_error": 0.3}
        for decoder in ("voxtal", "published"):
            prefix = f"{source}_{decoder}_"
            errors = {"emd": 0.5, "missing": 1, "composition": False}
            out |= {f"{prefix}{key}": value for key, value in errors.items()}
            out |= {f"{prefix}reason": "", f"{prefix}strict": True, f"{prefix}cdvae": True}
    return out | {"vae_mse": 0.5, "vae_density_mse": 1.0} | changes


def test_figures_of_rows_by_hand() -> None:
    """A structure that gives no sites counts in every share and in no mean; pooled scores are of all voxels."""
    nothing = dict.fromkeys(f"vae_voxtal_{key}" for key in ("emd", "missing", "composition"))
    lost = row(
        **nothing, vae_voxtal_reason="no atoms", vae_voxtal_strict=False, vae_right=0, vae_inside=30, vae_found=0
    )
    whole = row(vae_voxtal_missing=0, vae_voxtal_composition=True, vae_mse=1.5)
    figures = map_figures([row(), lost, whole])
    crystals = figures["vae"]["crystals"]["voxtal"]
    assert (crystals["decoded"]["n"], crystals["decoded"]["of"]) == (2, 3)
    assert (crystals["strict"]["n"], crystals["all_sites"]["n"], crystals["composition"]["n"]) == (2, 1, 1)
    assert crystals["missing_sites"]["mean"] == 0.5
    assert figures["vae"]["cells"]["c_error_angstrom"] == mean(np.full(3, 0.3))
    assert crystals["emd_angstrom"] == mean(np.full(2, 0.5))
    voxels = figures["vae"]["voxels"]
    assert voxels["recall"]["mean"] == pytest.approx((0.8 + 0 + 0.8) / 3)
    assert voxels["pooled"]["recall"] == pytest.approx(16 / 50)
    assert voxels["pooled"]["precision"] == pytest.approx(16 / 32)
    assert figures["vae_mse"]["mean"] == pytest.approx(2.5 / 3)
    assert map_figures([])["n"] == 0


def test_published_validity() -> None:
    """Half an angstrom, images of other sites too; nothing at all is no crystal."""
    cell, one, two = 4 * np.eye(3), np.array([3]), np.array([3, 3])
    assert is_apart(two, np.array([[0, 0, 0], [0.13, 0, 0.0]]), cell)
    assert not is_apart(two, np.array([[0, 0, 0], [0.12, 0, 0.0]]), cell)
    assert not is_apart(two, np.array([[0.01, 0, 0], [0.99, 0, 0.0]]), cell)
    assert is_apart(one, np.zeros((1, 3)), cell)
    assert not is_apart(one[:0], np.zeros((0, 3)), cell)
    assert not is_apart(one, np.full((1, 3), np.nan), cell)
    assert not is_apart(one, np.zeros((1, 3)), np.zeros((3, 3)))


def test_attempts_by_hand() -> None:
    """Energies count where there is a valid structure and a prediction; formula types are of the reduced formula."""
    structures = [
        Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        Structure(Lattice.cubic(5), ["Na", "Na", "Cl", "Cl"], [[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]),
        Structure(Lattice.cubic(4), ["Sr", "Ti", "O", "O", "O"], SITES),
        Structure(Lattice.cubic(4), ["Sr", "Ti"], [[0, 0, 0], [0.1, 0, 0]]),
    ]
    attempts = StructureSet.from_structures(
        structures, list("abcd"), {PREDICTED: [-1.0, 0.5, np.nan, -3.0]}, {REASON: ["", "", "", "too close"]}
    )
    known = StructureSet.from_structures(
        [Structure(Lattice.cubic(4.3), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])], ["k"], {FORMATION_ENERGY: [-2.0]}
    )
    rows = attempt_rows(attempts, PREDICTED)
    figures = attempt_figures(rows, attempts, known)
    assert (figures["valid"]["n"], figures["valid_voxtal"]["n"], figures["attempts"]) == (3, 3, 4)
    assert (figures["negative_ef_of_valid"]["n"], figures["negative_ef_of_valid"]["of"]) == (1, 2)
    assert {name: one["n"] for name, one in figures["types"].items()} == {"AB": 2, "ABC3": 1}
    assert figures["types"]["AB"]["median_formation_energy_ev_per_atom"] == pytest.approx(-0.25)
    assert figures["types"]["ABC3"]["median_formation_energy_ev_per_atom"] is None
    assert figures["elements"] == {"Na": 2, "Cl": 2, "O": 1, "Ti": 1, "Sr": 1}
    assert (figures["known_formula_of_valid"]["n"], figures["known_formula_of_valid"]["of"]) == (2, 3)
    assert figures["known_formula_length_mae_angstrom"]["mean"] == pytest.approx((0.3 + 0.7) / 2)
    assert figures["known_formula_ef_mae_ev_per_atom"]["mean"] == pytest.approx((1.0 + 2.5) / 2)
    assert energies_by_type(rows) == {"AB": [-1.0, 0.5]}
    assert figures["reasons"] == {"too close": 1}


def test_attempts_without_predictions() -> None:
    """Attempts of which nothing was predicted, or none valid, are judged by what they have."""
    attempts = StructureSet.from_structures(
        [Structure(Lattice.cubic(4), ["Na"], [[0, 0, 0]])], ["a"], None, {REASON: ["no atoms"]}
    )
    figures = attempt_figures(attempt_rows(attempts, PREDICTED), attempts, attempts)
    assert figures["negative_ef_of_valid"]["share"] is None
    assert figures["types"] == {}
    assert figures["valid"]["n"] == 1


def test_predictions_beside_what_was_asked() -> None:
    """Attempts that are no crystals would be correlated too, or tenths be in the order of the attempts."""
    n = 40
    asked = np.tile(np.arange(10.0), n // 10)
    predicted = -asked / 5 + np.arange(n) * 1e-3
    predicted[3] = np.nan
    cubes = [Structure(Lattice.cubic(4), ["Na"], [[0, 0, 0]])] * n
    reasons = ["" if i != 14 else "too close" for i in range(n)]
    columns = {condition_column(FORMATION_ENERGY): asked.tolist(), PREDICTED: predicted.tolist()}
    attempts = StructureSet.from_structures(cubes, [f"a{i}" for i in range(n)], columns, {REASON: reasons})
    found = attempt_figures(attempt_rows(attempts, PREDICTED), attempts, attempts)["asked"]
    assert found.keys() == {FORMATION_ENERGY}
    one = found[FORMATION_ENERGY]
    assert one["n"] == n - 2
    assert one["spearman"] < -0.95
    assert one["means"] == sorted(one["means"], reverse=True)
    assert one["means"][0] == pytest.approx(np.mean(predicted[[0, 10, 20, 30]]), abs=1e-6)


def test_formula_types() -> None:
    """Counts rise with the letters, as in the paper's figure; multiples of a formula are the same type."""
    cases = {(3,): "A", (1, 1, 8, 8, 8, 8): "AB2", (22, 38, 8, 8, 8): "ABC3", (1, 1, 1, 8, 8): "A2B3", (): ""}
    for numbers, name in cases.items():
        assert formula_type(np.array(numbers, dtype=np.int64)) == name


def test_latent_figures() -> None:
    """A dimension that is the same for all structures is drawn with variance 1 and tells nothing."""
    rng = np.random.default_rng(0)
    mean = np.zeros((2000, 2))
    mean[:, 0] = rng.normal(size=2000)
    scale = np.stack([np.full(2000, 0.1), np.ones(2000)], axis=1)
    found = latent_figures(Latent(np.arange(2000), mean, scale), 0)
    assert found["used_dimensions"] == 1
    assert found["code_variance"] == pytest.approx(1, abs=0.05)
    assert found["code_mean"] == pytest.approx(0, abs=0.05)


def test_errors_of_logarithms() -> None:
    """The paper's MAE of a modulus is of its logarithm: that of the modulus itself would be a hundred times that."""
    targets, predicted = np.array([10.0, 100, np.nan, -1]), np.array([100.0, 100, 5, 5])
    assert property_figures(targets, predicted, True) == {"n": 2, "mae": 0.5, "r2": pytest.approx(-1.0)}
    assert property_figures(targets, predicted, False)["n"] == 3
