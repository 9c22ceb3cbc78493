"""The configuration: presets, overrides, and messages that name the wrong key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtal.config import PRESETS, build_config, load_config, write_config
from voxtal.errors import UserError


def objectives(*wishes: dict) -> dict:
    return {"train": {"ccdcgan": {"objectives": list(wishes)}}}


def test_every_preset_is_complete() -> None:
    """A preset that lacks a key would make the shortest configuration unusable."""
    for name in PRESETS:
        assert build_config({"preset": name}).preset == name


def test_file_overrides_preset_and_set_overrides_file(tmp_path: Path) -> None:
    """Without this order the user's own settings would be lost."""
    path = tmp_path / "voxtal.toml"
    path.write_text('preset = "laptop"\n[generate]\nn = 7\n[train.sites_ae]\nsteps = 11\n')
    config = load_config(path, ["generate.n=9", "system=Co-Hf"])
    assert (config.generate.n, config.train.sites_ae.steps, config.system) == (9, 11, "Co-Hf")
    assert config.train.sites_ae.latent == PRESETS["laptop"]["train"]["sites_ae"]["latent"]


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"generat": {"n": 5}}, ["'generat'", "did you mean 'generate'"]),
        ({"generate": {"N": 5}}, ["'generate.N'"]),
        ({"train": {"sites_ae": {"step": 5}}}, ["'train.sites_ae.step'", "'steps'"]),
        ({"generate": {"n": 0}}, ["generate.n", "0"]),
        ({"generate": {"n": "many"}}, ["generate.n", "many"]),
        ({"generate": 5}, ["generate"]),
        ({"preset": "labtop"}, ["labtop", "laptop"]),
        (objectives({"property": "e"}), ["objectives.0", "one of goal, target and range, not none"]),
        (objectives({"property": "e", "goal": "low", "target": 1.0}), ["not goal and target"]),
        (objectives({"property": "e", "goal": "lowest"}), ["objectives.0.goal", "lowest", "'low' or 'high'"]),
        (objectives({"property": "e", "range": [2, 1]}), ["objectives.0", "the highest is more than the lowest"]),
        (objectives({"property": "e", "goal": "low", "wieght": 1}), ["objectives.0.wieght", "did you mean 'weight'"]),
        (objectives({"property": "e", "goal": "low"}, {"property": "e", "target": 1}), ["more than one", "for e"]),
        (objectives(), ["ccdcgan.objectives", "at least 1 item"]),
        ({"preset": ["laptop"]}, ["preset"]),
    ],
)
def test_a_wrong_key_or_value_is_named(tree: dict, words: list[str]) -> None:
    """A typo that is passed over silently would run a whole campaign with other settings."""
    with pytest.raises(UserError) as caught:
        build_config(tree, origin="voxtal.toml")
    assert all(word in str(caught.value) for word in ["voxtal.toml", *words]), caught.value


@pytest.mark.parametrize("override", ["generate.n", "=3", "generate.m=3", "seed.x=3"])
def test_a_wrong_override_is_refused(override: str) -> None:
    """A malformed --set must not be dropped."""
    with pytest.raises(UserError):
        build_config({}, [override])


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    """The message must say which file to look at."""
    path = tmp_path / "voxtal.toml"
    with pytest.raises(UserError, match=r"voxtal\.toml"):
        load_config(path)
    for content in (b"seed = ", b"\xff\xfe\x00"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not valid TOML"):
            load_config(path)


@given(
    seed=st.integers(-(2**62), 2**62),
    system=st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]))),
    rate=st.floats(1e-12, 10),
    withhold=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=3),
)
def test_written_configurations_read_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, seed: int, system: str | None, rate: float, withhold: list[str]
) -> None:
    """A value that TOML quoting or rounding changes would break the repeat of a run."""
    path = tmp_path_factory.mktemp("config") / "voxtal.toml"
    wishes = objectives(
        {"property": 'gap "direct"', "range": (0.0, rate)}, {"property": "e ", "goal": "low", "scale": rate}
    )
    write_config(
        path,
        {
            "seed": seed,
            "system": system,
            "structures": {"withhold": withhold},
            "train": {"warm_start": False, "sites_ae": {"learning_rate": rate}, **wishes["train"]},
        },
    )
    config = load_config(path)
    assert config.train.ccdcgan.objectives == build_config(wishes).train.ccdcgan.objectives
    assert (config.seed, config.system, list(config.structures.withhold)) == (seed, system, withhold)
    assert config.train.sites_ae.learning_rate == rate
    assert config.train.warm_start is False
