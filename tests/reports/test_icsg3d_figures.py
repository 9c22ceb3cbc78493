"""ICSG3D's figures, as files: for what they must show, and for what a run may lack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from voxtal.reports.icsg3d_figures import (
    code_density_figure,
    element_colours,
    embedding_figure,
    errors_figure,
    formula_types_figure,
    property_parity_figure,
    slices_figure,
)

RNG = np.random.default_rng(0)


def picture(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return np.asarray(imread(path))


def test_codes(tmp_path: Path) -> None:
    """Dimensions of another width have another curve; one without any spread, or one structure, has none."""
    codes = RNG.normal(size=(50, 4))
    code_density_figure(codes, tmp_path / "a.png")
    code_density_figure(codes * [1, 1, 1, 0.3], tmp_path / "b.png")
    code_density_figure(codes * [1, 1, 1, 0], tmp_path / "c.png")
    code_density_figure(codes[:1], tmp_path / "d.png")
    assert (picture(tmp_path / "a.png") != picture(tmp_path / "b.png")).any()
    assert picture(tmp_path / "d.png").std() > 0.01


def test_embedding(tmp_path: Path) -> None:
    """Structures without a formation energy are there, but grey; with none known there is no scale to draw."""
    places, energies = RNG.normal(size=(30, 2)), RNG.normal(size=30)
    classes = ["AB"] * 10 + ["ABX3"] * 20
    embedding_figure(places, classes, energies, tmp_path / "a.png")
    embedding_figure(places, classes, np.where(np.arange(30) < 5, np.nan, energies), tmp_path / "b.png")
    embedding_figure(places, classes, np.full(30, np.nan), tmp_path / "c.png")
    assert (picture(tmp_path / "a.png") != picture(tmp_path / "b.png")).any()
    assert picture(tmp_path / "c.png").std() > 0.01


@pytest.mark.parametrize("species", [True, False])
def test_slices(species: bool, tmp_path: Path) -> None:
    """A column without values is left out; other maps have another picture."""
    images = RNG.integers(0, 2, (2, 3, 8, 8)) * 22.0
    images[:, 1] = np.nan
    slices_figure(images, ["SrTiO3", "NaCl"], ["true", "none", "decoded"], species, tmp_path / "a.png")
    images[1, 2] = 8
    slices_figure(images, ["SrTiO3", "NaCl"], ["true", "none", "decoded"], species, tmp_path / "b.png")
    slices_figure(np.zeros((1, 1, 4, 4)), ["nothing"], ["true"], species, tmp_path / "c.png")
    first, second = picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    assert first.shape == second.shape
    assert (first != second).any()


def test_colours_tell_elements_apart() -> None:
    """Ti beside V in one colour would hide the UNet's commonest mistake; the background has to stay white."""
    colours = element_colours(np.arange(95))
    assert (colours[0] == 1).all()
    assert np.abs(np.diff(colours[1:], axis=0)).max(axis=1).min() > 0.1
    assert len(np.unique(colours.round(3), axis=0)) == 95


def test_errors(tmp_path: Path) -> None:
    """Distances of structures that gave no sites are missing, not zero."""
    values = np.array([0.1, 0.2, np.nan, 0.4])
    errors_figure({"a": values, "b": values * np.nan}, {"a": 0.06}, tmp_path / "a.png")
    errors_figure({"a": values[:2], "b": values * np.nan}, {"a": 0.06}, tmp_path / "b.png")
    errors_figure({"a": values * np.nan}, {}, tmp_path / "none.png")
    assert (picture(tmp_path / "a.png") != picture(tmp_path / "b.png")).any()
    assert not (tmp_path / "none.png").exists()


def test_parity(tmp_path: Path) -> None:
    """Eight panels as in the paper; values that have no logarithm, or are missing, are left out."""
    points = [{"split": "heldout", "target": x, "predicted": y} for x, y in ((1.0, 2.0), (0.0, 1.0), (3.0, np.nan))]
    points += [{"split": "train", "target": 10.0, "predicted": 9.0}]
    property_parity_figure({f"p{i}": points for i in range(5)}, ["p1"], tmp_path / "a.png")
    property_parity_figure({"p": [], "q": points[1:2]}, ["q"], tmp_path / "b.png")
    property_parity_figure({"p": []}, [], tmp_path / "none.png")
    assert picture(tmp_path / "a.png").shape[1] > picture(tmp_path / "b.png").shape[1]
    assert not (tmp_path / "none.png").exists()


def test_formula_types(tmp_path: Path) -> None:
    """Valid attempts whose energy nobody predicted still have a formula type."""
    energies, counts, elements = {"AB": [-1.0, 0.3], "ABC3": []}, {"AB": 2, "ABC3": 1}, {"O": 3, "Sr": 1}
    formula_types_figure(energies, counts, elements, tmp_path / "a.png")
    formula_types_figure({}, counts, elements, tmp_path / "b.png")
    formula_types_figure({}, {}, {}, tmp_path / "none.png")
    assert (picture(tmp_path / "a.png") != picture(tmp_path / "b.png")).any()
    assert not (tmp_path / "none.png").exists()
