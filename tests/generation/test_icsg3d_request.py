"""What may be asked of ICSG3D's generator, and what each attempt is then told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxtal.errors import UserError
from voxtal.generation.icsg3d_conditions import check_condition, on_line, vectors_of
from voxtal.generation.icsg3d_request import MapsRequest, maps_request_of
from voxtal.runs import RoundPaths
from voxtal.structures.conditions import Condition
from voxtal.structures.structure_set import SPLIT, StructureSet


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"around": "a", "between": ["a", "b"]}, "two ways"),
        ({"variance": 0.1}, "belongs to --around"),
        ({"around": "a", "variance": -1.0}, "has to be a number above 0"),
        ({"around": "a", "variance": float("nan")}, "has to be a number above 0"),
        ({"decile": 12}, "deciles are 0, the lowest values, to 9"),
        ({"decile": -1}, "deciles are 0"),
        ({"decile": 1, "condition": ["band_gap=1"]}, "give one of them"),
        ({"between": ["a", "a"], "steps": 5}, "name two compounds"),
        ({"between": ["a", "b"], "steps": 1}, "at least two attempts"),
        ({"condition": ["band_gap"]}, "write it as property=number"),
        ({"condition": ["band_gap=wide"]}, "write it as property=number"),
        ({"condition": ["band_gap=1", "band_gap=2"]}, "given twice"),
    ],
)
def test_what_cannot_be_asked(asked: dict[str, Any], message: str) -> None:
    """Hours of attempts that nobody meant."""
    with pytest.raises(UserError, match=message):
        maps_request_of(**asked)


def test_each_request_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Attempts of different requests would mix, or those of a round be replaced; and no path is noted."""
    cif = tmp_path / "my perovskite.cif"
    cif.write_text("")
    requests = [
        maps_request_of(),
        maps_request_of(decile=3),
        maps_request_of(condition=["band_gap=1", "formation_energy=-2.5"]),
        maps_request_of(around="mp-1"),
        maps_request_of(around="mp-1", variance=0.1),
        maps_request_of(around="mp-1", decile=0),
        maps_request_of(around=str(cif)),
        maps_request_of(between=["mp-1", "mp-2"], steps=11),
        maps_request_of(between=["mp-2", "mp-1"], steps=11),
        maps_request_of(between=["mp-1", "mp-2"], steps=12),
        maps_request_of(max_atoms=5),
    ]
    names = [request.name for request in requests]
    assert names[0] == ""
    assert len(set(names)) == len(names)
    assert names[6] == "around-my_perovskite"
    assert requests[6].asked == {"around": "my perovskite.cif", "variance": 0.5}
    assert len({str(request.asked) for request in requests}) == len(requests)


@pytest.fixture
def paths(tmp_path: Path, golden_cubes: list[Any]) -> RoundPaths:
    """Structures with two properties, one of them unknown of a few."""
    paths = RoundPaths(tmp_path, 0)
    n = len(golden_cubes)
    gap = np.where(np.arange(n) < 3, np.nan, np.arange(n) * 0.5)
    StructureSet.from_structures(
        golden_cubes,
        [f"m-{i}" for i in range(n)],
        properties={"formation_energy": -0.1 * np.arange(n), "band_gap": gap},
        provenance={SPLIT: ["heldout" if i == 10 else "train" for i in range(n)]},
    ).write(paths.structures)
    return paths


def condition(paths: RoundPaths, names: list[str], continuous: bool) -> Condition:
    columns = StructureSet.read(paths.structures).properties
    return Condition.of({name: columns[name] for name in names}, np.arange(3, 10), continuous)


def known_of(paths: RoundPaths, told: Condition) -> np.ndarray:
    columns = StructureSet.read(paths.structures).properties
    known = told.numbers(told.encode({name: columns[name][3:] for name in told.properties}))
    return known[np.lexsort(known.T[::-1])]


def vectors(paths: RoundPaths, told: Condition, request: MapsRequest, n: int = 40, **more: Any) -> np.ndarray:
    known = known_of(paths, told)
    made = vectors_of(told, request, 3, known, more.get("bases", known[:0]))
    np.testing.assert_array_equal(made(np.arange(n))[5:9], made(np.arange(5, 9)))
    return made(np.arange(n))


def test_deciles_take_turns(paths: RoundPaths) -> None:
    """As published, as many attempts in each of the ten."""
    told = condition(paths, ["formation_energy"], continuous=False)
    found = told.told(vectors(paths, told, MapsRequest()))["formation_energy"]
    assert np.bincount(found.astype(int)).tolist() == [4] * 10


@pytest.mark.parametrize("continuous", [True, False])
def test_several_properties_are_those_of_training_structures(paths: RoundPaths, continuous: bool) -> None:
    """Combinations that no crystal has; and each comes about as often."""
    told = condition(paths, ["formation_energy", "band_gap"], continuous)
    found = vectors(paths, told, MapsRequest(), n=200)
    allowed = told.vectors(known_of(paths, told))
    counts = [np.all(np.isclose(found, each), axis=1).sum() for each in np.unique(allowed, axis=0)]
    assert sum(counts) == 200
    if continuous:
        assert min(counts) >= 9
        assert max(counts) <= 11


def test_asked_values_are_what_every_attempt_is_told(paths: RoundPaths) -> None:
    """A condition that is asked for and not given to the network."""
    told = condition(paths, ["formation_energy", "band_gap"], continuous=True)
    request = maps_request_of(condition=["band_gap=2.5", "formation_energy=-1"])
    found = told.told(vectors(paths, told, request))
    np.testing.assert_allclose(found["formation_energy"], -1, atol=1e-6)
    np.testing.assert_allclose(found["band_gap"], 2.5, atol=1e-6)
    deciles = condition(paths, ["formation_energy"], continuous=False)
    assert set(deciles.told(vectors(paths, deciles, MapsRequest(decile=7)))["formation_energy"]) == {7}


def test_compounds_bring_their_own_condition(paths: RoundPaths) -> None:
    """On a line the condition has to arrive where the code does."""
    told = condition(paths, ["formation_energy"], continuous=True)
    bases = np.array([[-0.5], [-1.5]])
    request = MapsRequest(between=("a", "b"), steps=11)
    found = told.told(vectors(paths, told, request, n=11, bases=bases))["formation_energy"]
    np.testing.assert_allclose(found, np.linspace(-0.5, -1.5, 11), atol=1e-6)
    around = told.told(vectors(paths, told, MapsRequest(around="a"), bases=bases[:1]))["formation_energy"]
    np.testing.assert_allclose(around, -0.5, atol=1e-6)
    np.testing.assert_allclose(on_line(bases, 3, np.arange(3))[:, 0], [-0.5, -1.0, -1.5])


@pytest.mark.parametrize(
    ("names", "continuous", "request_", "message"),
    [
        (["formation_energy"], True, MapsRequest(decile=3), "trained with values of formation_energy"),
        (
            ["formation_energy", "band_gap"],
            False,
            MapsRequest(decile=3),
            "deciles of formation_energy, band_gap",
        ),
        (["formation_energy"], True, MapsRequest(condition=(("band_gap", 1.0),)), "condition is formation_energy"),
        (["formation_energy", "band_gap"], True, MapsRequest(condition=(("band_gap", 1.0),)), "give formation_energy"),
    ],
)
def test_conditions_that_the_vae_does_not_know(
    paths: RoundPaths, names: list[str], continuous: bool, request_: MapsRequest, message: str
) -> None:
    """They would be passed over without a word."""
    with pytest.raises(UserError, match=message):
        check_condition(condition(paths, names, continuous), request_)
