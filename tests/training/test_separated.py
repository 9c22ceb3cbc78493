"""Sites autoencoders of single elements: what they start from, whose images they encode and decode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from voxtal.active.rounds import run_round
from voxtal.config import build_config
from voxtal.data.graphs import GraphSet
from voxtal.errors import UserError
from voxtal.generation.stage import made_by, open_decoder
from voxtal.runs import RoundPaths, Run
from voxtal.structures.structure_set import SPLIT, StructureSet
from voxtal.training.checkpoint import load, save
from voxtal.training.encode import encode_graphs
from voxtal.training.separated import own_element, own_elements, own_model
from voxtal.training.stages import models_of, train_model

COPPER, GOLD = 29, 79


def separated(run: Run, tiny: dict[str, Any], steps: int = 30, rate: float = 4e-3) -> Run:
    tiny["train"] |= {"separated_steps": steps}
    tiny["train"]["sites_ae"]["learning_rate"] = rate
    return Run(run.root, build_config(tiny))


def weights(paths: RoundPaths, model: str) -> dict[str, torch.Tensor]:
    return load(paths.train(model) / "best.pt", "")["weights"]


def test_names_tell_the_element() -> None:
    """``sites-ae-Co`` would be taken for another model, or another model for an element's."""
    assert (own_model(27), own_element("sites-ae-Co")) == ("sites-ae-Co", 27)
    for other in ("sites-ae", "sites-ae-separated", "sites-ae-X", "lattice-ae", "constraint-Co", "Co"):
        assert own_element(other) is None


def test_training_starts_from_the_combined_network(trained_run: Run, tiny: dict[str, Any], quiet: Any) -> None:
    """Fresh weights would have to learn from a rare element's few images alone."""
    run = separated(trained_run, tiny, steps=1, rate=1e-9)
    paths = run.round(0)
    assert train_model(run, paths, "sites-ae-Au", quiet)
    combined = weights(paths, "sites-ae")
    for name, value in weights(paths, "sites-ae-Au").items():
        assert torch.allclose(value, combined[name], atol=1e-6), name
    assert not train_model(run, paths, "sites-ae-Au", quiet)


def test_networks_are_used_for_their_element_only(trained_run: Run, tiny: dict[str, Any], quiet: Any) -> None:
    """Copper's atoms from gold's decoder. Copper's network is made the combined one, so that what it makes is known."""
    run = separated(trained_run, tiny)
    paths = run.round(0)
    combined, before = GraphSet.read(paths.graphs), open_decoder(run, paths)
    for model in ("sites-ae-Cu", "sites-ae-Au"):
        assert train_model(run, paths, model, quiet)
    save(paths.train("sites-ae-Cu") / "best.pt", load(paths.train("sites-ae") / "best.pt", ""))
    assert encode_graphs(run, paths)
    graphs = GraphSet.read(paths.graphs)
    assert graphs.separated == (COPPER, GOLD)
    same = np.isclose(graphs.sites, combined.sites, atol=1e-5).all(axis=1)
    assert same.tolist() == (graphs.numbers == COPPER).tolist()

    after = open_decoder(run, paths)
    numbers = np.array([GOLD, COPPER, COPPER, GOLD, COPPER])
    codes = combined.sites[[0, 0, 3, 3, 7]]
    pairs = zip(before.sites.read(codes, numbers), after.sites.read(codes, numbers), strict=True)
    alike = [one.shape == other.shape and np.allclose(one, other, atol=1e-4) for one, other in pairs]
    assert alike == (numbers == COPPER).tolist()
    assert {"sites-ae", "sites-ae-Cu", "sites-ae-Au"} <= made_by(run, paths)["models"].keys()


def test_an_element_that_nothing_is_trained_on_has_the_combined_network(
    trained_run: Run, tiny: dict[str, Any], quiet: Any
) -> None:
    """A held-out element: no network of its own, and no structure with it could be encoded."""
    run = separated(trained_run, tiny)
    paths = run.round(0)
    structures = StructureSet.read(paths.structures)
    gold = [bool((structures.arrays(i)[0] == GOLD).any()) for i in range(len(structures))]
    structures.with_columns(provenance={SPLIT: ["heldout" if there else "train" for there in gold]}).write(
        paths.structures
    )
    combined = GraphSet.read(paths.graphs)
    assert own_elements(run, paths) == (COPPER,)
    assert models_of(run, paths)[1:3] == ["sites-ae", "sites-ae-Cu"]
    with pytest.raises(UserError, match="no image to train sites-ae-Au on"):
        train_model(run, paths, "sites-ae-Au", quiet)
    train_model(run, paths, "sites-ae-Cu", quiet)
    encode_graphs(run, paths)
    graphs = GraphSet.read(paths.graphs)
    assert graphs.separated == (COPPER,)
    same = np.isclose(graphs.sites, combined.sites, atol=1e-5).all(axis=1)
    assert same.tolist() == (graphs.numbers == GOLD).tolist()


def test_what_is_missing_is_said(trained_run: Run, tiny: dict[str, Any], quiet: Any) -> None:
    """Graphs of half-trained networks, or networks that nothing reads."""
    paths = trained_run.round(0)
    with pytest.raises(UserError, match=r"train\.separated_steps is 0"):
        train_model(trained_run, paths, "sites-ae-Cu", quiet)
    run = separated(trained_run, tiny)
    train_model(run, paths, "sites-ae-Cu", quiet)
    with pytest.raises(UserError, match=r"1 of 2 elements.*sites-ae-Au; make them with `voxtal train sites-ae-sep"):
        encode_graphs(run, paths)
    (paths.train("sites-ae") / "trained.json").unlink()
    with pytest.raises(UserError, match="starts from sites-ae; train that to its end"):
        train_model(run, paths, "sites-ae-Au", quiet)


def test_a_round_trains_them(trained_run: Run, tiny: dict[str, Any], quiet: Any) -> None:
    """A round of the published preset would stop at its graphs."""
    said: list[str] = []
    run = separated(trained_run, tiny, steps=2)
    run_round(separated(trained_run, tiny, 2), run.round(0), quiet, said.append, until="encode")
    assert "round 0, 5/13: train sites-ae-separated" in said
    assert GraphSet.read(run.round(0).graphs, stop=0).separated == (COPPER, GOLD)
