"""``voxtal generate`` on a run with trained models: resumption, other requests, what is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from voxtal.data.graphs import GraphSet
from voxtal.errors import UserError
from voxtal.generation import stage
from voxtal.generation.stage import ATTEMPT, PREDICTED, REASON, generate, graphs_of_attempts, open_decoder
from voxtal.runs import Run
from voxtal.structures.structure_set import StructureSet
from voxtal.training.checkpoint import load, save


class KilledError(Exception):
    """Stands for a kill."""


@contextmanager
def killing(_what: str, _total: int) -> Iterator[Callable[..., None]]:
    """A progress under which the second block is the last."""
    blocks = 0

    def advance(_n: int = 1, _text: str = "") -> None:
        nonlocal blocks
        blocks += 1
        if blocks == 2:
            raise KilledError

    yield advance


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_BLOCK", 8)


def same(a: StructureSet, b: StructureSet) -> bool:
    return (
        a.ids.tolist() == b.ids.tolist()
        and np.array_equal(a.numbers, b.numbers)
        and np.allclose(a.frac_coords, b.frac_coords, atol=1e-6)
        and np.allclose(a.cells, b.cells, atol=1e-6)
        and np.allclose(a.properties[PREDICTED], b.properties[PREDICTED], atol=1e-6)
        and a.provenance[REASON].tolist() == b.provenance[REASON].tolist()
    )


def blocks(run: Run) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.round(0).candidates.parent.glob("blocks/*.h5")}


def test_every_attempt_is_a_row(trained_run: Run, quiet: Any) -> None:
    """The denominator of every figure: failures are rows with a reason, valid structures rows without one."""
    candidates = generate(trained_run, trained_run.round(0), 21, None, quiet)
    assert len(candidates) == 21
    assert candidates.properties[ATTEMPT].tolist() == list(range(21))
    assert candidates.ids[20] == "r0-000020"
    counts = np.diff(candidates.offsets)
    assert (counts[candidates.provenance[REASON] == ""] > 0).all()
    assert np.isfinite(candidates.properties[PREDICTED]).all()
    assert same(candidates, StructureSet.read(trained_run.round(0).candidates))


def test_killed_generation_carries_on(trained_run: Run, quiet: Any) -> None:
    """Finished blocks are kept, and the candidates are those of an undisturbed run."""
    paths = trained_run.round(0)
    with pytest.raises(KilledError):
        generate(trained_run, paths, 30, None, killing)
    assert not paths.candidates.exists()
    kept = blocks(trained_run)
    assert len(kept) == 2
    resumed = generate(trained_run, paths, 30, None, quiet)
    assert kept.items() <= blocks(trained_run).items()
    for path in [*kept, paths.candidates]:
        path.unlink()
    assert same(resumed, generate(trained_run, paths, 30, None, quiet))


def test_size_of_the_blocks_does_not_matter(trained_run: Run, quiet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempt i is attempt i, whichever block it is made in."""
    paths = trained_run.round(0)
    first = generate(trained_run, paths, 20, None, quiet)
    for path in [*blocks(trained_run), paths.candidates]:
        path.unlink()
    monkeypatch.setattr(stage, "_BLOCK", 3)
    assert same(first, generate(trained_run, paths, 20, None, quiet))


def test_second_call_finds_it_done(trained_run: Run, quiet: Any) -> None:
    """Attempts that are made twice."""
    paths = trained_run.round(0)
    generate(trained_run, paths, 12, None, quiet)
    before = blocks(trained_run), paths.candidates.stat().st_mtime_ns
    generate(trained_run, paths, 12, None, quiet)
    assert before == (blocks(trained_run), paths.candidates.stat().st_mtime_ns)


def test_more_attempts_keep_the_ones_there_are(trained_run: Run, quiet: Any) -> None:
    """A user who raises generate.n pays for the new attempts only."""
    paths = trained_run.round(0)
    few = generate(trained_run, paths, 16, None, quiet)
    before = blocks(trained_run)
    more = generate(trained_run, paths, 32, None, quiet)
    assert before.items() <= blocks(trained_run).items()
    assert same(few, more.subset(range(16)))


def test_blocks_of_other_models_are_removed(trained_run: Run, quiet: Any) -> None:
    """Half of the attempts from a generator that is no longer there."""
    paths = trained_run.round(0)
    generate(trained_run, paths, 16, None, quiet)
    before = blocks(trained_run)
    saved = load(paths.train("ccdcgan") / "best.pt", "")
    saved["weights"] = {name: value * 1.01 for name, value in saved["weights"].items()}
    save(paths.train("ccdcgan") / "best.pt", saved)
    with pytest.raises(KilledError):
        generate(trained_run, paths, 32, None, killing)
    assert not paths.candidates.exists()
    after = blocks(trained_run)
    assert len(after) == 2
    assert not before.items() & after.items()


def test_requested_system_is_another_request(trained_run: Run, quiet: Any) -> None:
    """``--system Au`` after a run without: only gold, and none of the earlier attempts."""
    paths = trained_run.round(0)
    generate(trained_run, paths, 16, None, quiet)
    gold = generate(trained_run, paths, 16, "Au", quiet)
    assert set(gold.numbers.tolist()) <= {79}


@pytest.mark.parametrize("system", ["Cu-Ni", "Ni"])
def test_element_that_the_models_do_not_know(system: str, trained_run: Run, quiet: Any) -> None:
    """A system that was never trained on cannot be decoded; the message lists what can."""
    with pytest.raises(UserError, match=r"knows no Ni; it knows Cu, Au\."):
        generate(trained_run, trained_run.round(0), 8, system, quiet)


def test_models_that_are_missing_say_what_makes_them(trained_run: Run, quiet: Any) -> None:
    """A user who generates before training."""
    paths = trained_run.round(0)
    (paths.train("ccdcgan") / "best.pt").unlink()
    with pytest.raises(UserError, match="voxtal train ccdcgan"):
        generate(trained_run, paths, 8, None, quiet)


def test_graphs_of_attempts_are_made_again(trained_run: Run, quiet: Any) -> None:
    """Selection measures distances between graphs: they must be those that the candidates came from."""
    paths = trained_run.round(0)
    candidates = generate(trained_run, paths, 16, None, quiet)
    graphs = graphs_of_attempts(trained_run, paths, np.array([11, 2]))
    decoded = open_decoder(trained_run, paths).decode(graphs)
    for attempt, again in zip((11, 2), decoded, strict=True):
        numbers, frac_coords, cell = candidates.arrays(attempt)
        assert np.array_equal(again.numbers, numbers)
        assert np.allclose(again.frac_coords, frac_coords, atol=1e-5)
        assert np.allclose(again.cell, cell, atol=1e-5)


def test_rounds_do_not_repeat_each_other(trained_run: Run) -> None:
    """The next round's attempts from the same noise would be the same candidates again."""
    paths, following = trained_run.round(0), trained_run.round(1)
    following.root.symlink_to(paths.root)
    attempts = np.arange(4)
    assert not np.allclose(
        graphs_of_attempts(trained_run, paths, attempts), graphs_of_attempts(trained_run, following, attempts)
    )


def test_decoder_decodes_the_training_set(trained_run: Run) -> None:
    """Real networks, trained for seconds: cells and sites come out of most of their own codes."""
    paths = trained_run.round(0)
    decoder = open_decoder(trained_run, paths)
    decoded = decoder.decode(GraphSet.read(paths.graphs).graphs)
    assert sum(d.reason == "" for d in decoded) > len(decoded) / 3
    assert decoder.arithmetic.device == torch.device("cpu")
