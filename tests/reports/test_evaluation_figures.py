"""Figures of an evaluation, as files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.data import chemical_symbols

from voxtal.reports.element_figures import PLACES, element_density_figure, periodic_table_figure
from voxtal.reports.learning_figures import autoencoder_curves, learning_curves_figure, parity_figures
from voxtal.runs import RoundPaths

GENERATED = {"Co": 300, "Hf": 20, "O": 1}
KNOWN = {"Co": 50, "Hf": 60, "O": 900, "Li": 4}


def picture(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return np.asarray(imread(path))


def test_every_element_has_a_place() -> None:
    """An element without one would vanish from the figure."""
    assert set(PLACES) == set(chemical_symbols[1:104]) - {"Rf"}
    assert len(set(PLACES.values())) == len(PLACES)
    assert PLACES["Hf"] == (3, 5)


@pytest.mark.parametrize("generated", [GENERATED, {}])
def test_element_figures(generated: dict[str, int], tmp_path: Path) -> None:
    """A generator that gives nothing valid is drawn too."""
    periodic_table_figure(generated, KNOWN, tmp_path / "table.png")
    element_density_figure({"ours": generated}, {"ours": 310 if generated else 0}, KNOWN, 1000, tmp_path / "bars.png")
    assert picture(tmp_path / "table.png").shape[1] > 1000
    assert picture(tmp_path / "bars.png").std() > 0.01


def test_colours_follow_counts(tmp_path: Path) -> None:
    """The same picture for other counts would be no heat map."""
    periodic_table_figure(GENERATED, KNOWN, tmp_path / "a.png")
    periodic_table_figure({"Co": 300, "Hf": 250, "O": 1}, KNOWN, tmp_path / "b.png")
    assert (picture(tmp_path / "a.png") != picture(tmp_path / "b.png")).any()


def test_curves_of_single_elements_are_one(tmp_path: Path) -> None:
    """Eighty-four lines in Fig. 3 E; or elements compared with others at another step."""
    paths = RoundPaths(tmp_path, 0)
    losses = {"sites-ae": [3.0, 2.0], "sites-ae-Co": [1.0, 0.5], "sites-ae-Hf": [2.0, 0.9], "sites-ae-O": [3.0]}
    for model, values in losses.items():
        paths.train(model).mkdir(parents=True)
        lines = [json.dumps({"step": 10 * (k + 1), "steps": 20, "loss": loss}) for k, loss in enumerate(values)]
        (paths.train(model) / "metrics.jsonl").write_text("\n".join(lines))
    curves = autoencoder_curves(paths)
    assert list(curves) == ["sites-ae", "sites-ae-separated"]
    assert curves["sites-ae-separated"] == [
        {"step": 30, "loss": 2.0, "loss_quartiles": (1.5, 2.5)},
        {"step": 40, "loss": 0.7, "loss_quartiles": (0.6, 0.8)},
    ]
    learning_curves_figure(curves, tmp_path / "curves.png")
    learning_curves_figure({"sites-ae": curves["sites-ae"]}, tmp_path / "one.png")
    assert (tmp_path / "curves.png").read_bytes() != (tmp_path / "one.png").read_bytes()


def test_learning_figures(tmp_path: Path) -> None:
    """Models are drawn together, with whatever losses they have; nothing to draw leaves no file."""
    lines = [{"step": s, "loss": 1 / (s + 1), **({"heldout_loss": 2 / (s + 1)} if s % 2 else {})} for s in range(9)]
    learning_curves_figure({"combined": lines, "separated": lines[:4]}, tmp_path / "curves.png")
    points = [{"split": s, "target": -1.0 + k, "predicted": -0.9 + k} for k, s in enumerate(("train", "heldout"))]
    parity_figures({"a": points, "b": points}, tmp_path / "parity.png")
    assert (tmp_path / "curves.png").is_file()
    one, two = (tmp_path / name for name in ("none.png", "nothing.png"))
    learning_curves_figure({"untrained": []}, one)
    parity_figures({}, two)
    assert not one.is_file()
    assert not two.is_file()
    assert picture(tmp_path / "parity.png").shape[1] > picture(tmp_path / "parity.png").shape[0]
