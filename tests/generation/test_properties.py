"""Properties of candidates by the trained networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from voxtal.errors import UserError
from voxtal.generation.properties import (
    PUBLISHED_PROPERTIES,
    PropertyNetwork,
    load_property_networks,
    predict_properties,
    trained_properties,
)
from voxtal.runs import Run
from voxtal.structures.structure_set import StructureSet
from voxtal.training.stages import train_model


class Constant(torch.nn.Module):
    """Predicts the number of the first element over 100 and a base."""

    def __init__(self, base: float = 0.0) -> None:
        super().__init__()
        self.base = base

    def forward(self, graph: Any) -> torch.Tensor:
        first = graph.sizes.cumsum(0) - graph.sizes
        return self.base + graph.numbers[first].float() / 100


def networks(log10: bool = False, **bases: float) -> dict[str, PropertyNetwork]:
    return {name: PropertyNetwork(Constant(base), log10, 1.1) for name, base in bases.items()}  # type: ignore[arg-type]


def test_networks_of_a_round(trained_run: Run, quiet: Any) -> None:
    """What was trained is found, predicts in the unit of its column, and the same as in training."""
    paths = trained_run.round(0)
    structures = StructureSet.read(paths.structures)
    n = len(structures)
    structures.with_columns(properties={"bulk_modulus": np.linspace(50, 200, n), "a": np.arange(n)}).write(
        paths.structures
    )
    for model in ("cgcnn-a", "cgcnn-bulk_modulus"):
        train_model(trained_run, paths, model, quiet)
    assert trained_properties(paths) == ["formation_energy", "bulk_modulus", "a"]
    loaded = load_property_networks(paths, trained_properties(paths), "cpu")
    found = predict_properties(structures, loaded, "cpu")
    assert list(found) == ["formation_energy", "bulk_modulus", "a"]
    assert np.abs(found["formation_energy"] - structures.properties["formation_energy"]).mean() < 0.1
    assert 50 < found["bulk_modulus"].mean() < 200
    part = predict_properties(structures.subset([5, 2]), loaded, "cpu")
    np.testing.assert_allclose(part["bulk_modulus"], found["bulk_modulus"][[5, 2]], rtol=1e-4)
    with pytest.raises(UserError, match="voxtal train cgcnn --property band_gap"):
        load_property_networks(paths, ["band_gap"], "cpu")


def test_a_network_that_was_stopped_is_not_used(trained_run: Run) -> None:
    """Half trained, its predictions would be taken for those of a whole one."""
    paths = trained_run.round(0)
    assert trained_properties(paths) == ["formation_energy"]
    (paths.train("cgcnn") / "trained.json").unlink()
    assert trained_properties(paths) == []


def test_metals_have_no_refractive_index(copper_gold: list[Any]) -> None:
    """ICSG3D's rule: NaN for refractive index and dielectric constant where the predicted gap is zero."""
    structures = StructureSet.from_structures(copper_gold[:2] + copper_gold[-1:], ["a", "b", "c"])
    first = [structures.arrays(i)[0][0] / 100 for i in range(3)]
    every = networks(band_gap=-0.5, refractive_index=1.0, poisson_ratio=0.0) | networks(True, dielectric_constant=0.0)
    found = predict_properties(structures, every, "cpu")
    metal = np.array(first) < 0.5
    assert metal.any()
    assert not metal.all()
    np.testing.assert_allclose(found["refractive_index"], np.where(metal, np.nan, 1 + np.array(first)), rtol=1e-6)
    np.testing.assert_allclose(found["dielectric_constant"], np.where(metal, np.nan, 10 ** np.array(first)), rtol=1e-6)
    np.testing.assert_allclose(found["poisson_ratio"], first, rtol=1e-6)
    alone = predict_properties(structures, networks(refractive_index=1.0), "cpu")
    assert np.isfinite(alone["refractive_index"]).all()


def test_no_candidates_at_all(copper_gold: list[Any]) -> None:
    """A generation of which nothing is valid."""
    nothing = StructureSet.from_structures([], [])
    found = predict_properties(nothing, networks(band_gap=0.0), "cpu")
    assert {name: len(values) for name, values in found.items()} == {"band_gap": 0}
    assert len(PUBLISHED_PROPERTIES) == 8
