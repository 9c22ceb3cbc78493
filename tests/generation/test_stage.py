"""``voxtal generate`` on a run with trained models: resumption, other requests, what is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxtal.data.graphs import GraphSet
from voxtal.errors import UserError
from voxtal.generation import folder
from voxtal.generation.blocks import ATTEMPT, DRAWN, PREDICTED
from voxtal.generation.request import request_of
from voxtal.generation.stage import generate, graphs_of_attempts, open_decoder
from voxtal.runs import Run
from voxtal.structures.structure_set import REASON, StructureSet
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
    monkeypatch.setattr(folder, "BLOCK", 8)


@pytest.fixture
def attempts(trained_run: Run, quiet: Any) -> Callable[..., StructureSet]:
    """Makes attempts of round 0 and reads them."""

    def make(n: int, **more: Any) -> StructureSet:
        return StructureSet.read(generate(trained_run, trained_run.round(0), n, more.pop("progress", quiet), **more))

    return make


def same(a: StructureSet, b: StructureSet) -> bool:
    """Bit for bit."""
    return (
        a.ids.tolist() == b.ids.tolist()
        and np.array_equal(a.numbers, b.numbers)
        and np.array_equal(a.frac_coords, b.frac_coords)
        and np.array_equal(a.cells, b.cells)
        and np.array_equal(a.properties[PREDICTED], b.properties[PREDICTED])
        and all(np.array_equal(a.provenance[name], b.provenance[name]) for name in (REASON, DRAWN))
    )


def blocks(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.glob("blocks/*.h5")}


def test_every_attempt_is_a_row(attempts: Callable[..., StructureSet]) -> None:
    """The denominator of every figure: failures are rows with a reason, valid structures rows without one."""
    candidates = attempts(21)
    assert len(candidates) == 21
    assert candidates.properties[ATTEMPT].tolist() == list(range(21))
    assert candidates.ids[20] == "r0-000020"
    counts = np.diff(candidates.offsets)
    assert (counts[candidates.provenance[REASON] == ""] > 0).all()
    assert np.isfinite(candidates.properties[PREDICTED]).all()
    assert set(candidates.provenance[DRAWN].tolist()) <= {"", "Cu", "Au", "Au-Cu"}


def test_killed_generation_carries_on(trained_run: Run, attempts: Callable[..., StructureSet]) -> None:
    """Finished blocks are kept, what was half written is removed, and the file is that of an undisturbed run."""
    paths = trained_run.round(0)
    root = paths.candidates.parent
    with pytest.raises(KilledError):
        attempts(30, progress=killing)
    assert not paths.candidates.exists()
    kept = blocks(root)
    assert len(kept) == 2
    (root / "blocks" / ".block-00000016-8.h5.77.tmp").write_text("half a block")
    attempts(30)
    assert kept.items() <= blocks(root).items()
    assert not list(root.glob("**/*.tmp"))
    resumed = paths.candidates.read_bytes()
    for path in [*blocks(root), paths.candidates]:
        path.unlink()
    attempts(30)
    assert paths.candidates.read_bytes() == resumed


def test_size_of_the_blocks_does_not_matter(
    trained_run: Run, attempts: Callable[..., StructureSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempt i is attempt i, whichever block it is made in."""
    paths = trained_run.round(0)
    first = attempts(20)
    for path in [*blocks(paths.candidates.parent), paths.candidates]:
        path.unlink()
    monkeypatch.setattr(folder, "BLOCK", 3)
    assert same(first, attempts(20))


def test_joined_file_is_a_structure_set_like_any_other(
    trained_run: Run, attempts: Callable[..., StructureSet], tmp_path: Path
) -> None:
    """Blocks joined in the wrong order, or atoms given to other attempts."""
    joined = attempts(21)
    parts = sorted(blocks(trained_run.round(0).candidates.parent))
    assert len(parts) == 3
    assert same(joined, StructureSet.concatenate([StructureSet.read(path) for path in parts]))
    assert joined.provenance.keys() == {REASON, DRAWN, "source"}


def test_second_call_finds_it_done(trained_run: Run, attempts: Callable[..., StructureSet]) -> None:
    """Attempts that are made twice."""
    paths = trained_run.round(0)
    root = paths.candidates.parent
    attempts(12)
    before = blocks(root), paths.candidates.stat().st_mtime_ns
    attempts(12)
    assert before == (blocks(root), paths.candidates.stat().st_mtime_ns)


def test_more_attempts_keep_the_ones_there_are(trained_run: Run, attempts: Callable[..., StructureSet]) -> None:
    """A user who raises -n pays for the new attempts only; a block that was cut off is made to its end."""
    root = trained_run.round(0).candidates.parent
    few = attempts(20)
    before = blocks(root)
    more = attempts(32)
    assert before.items() <= blocks(root).items()
    assert len(blocks(root)) == len(before) + 2
    assert same(few, more.subset(range(20)))
    assert same(few, attempts(20))


def test_attempts_of_other_models_are_set_aside(
    trained_run: Run, attempts: Callable[..., StructureSet], capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the attempts from a generator that is no longer there, or hours of work deleted without a word."""
    paths = trained_run.round(0)
    root = paths.candidates.parent
    old = attempts(16)
    before = {path.name: time for path, time in blocks(root).items()}
    saved = load(paths.train("ccdcgan") / "best.pt", "")
    saved["weights"] = {name: value * 1.01 for name, value in saved["weights"].items()}
    save(paths.train("ccdcgan") / "best.pt", saved)
    with pytest.raises(KilledError):
        attempts(32, progress=killing)
    assert not paths.candidates.exists()
    assert len(blocks(root)) == 2
    aside = root / "earlier-001"
    assert f"they are in {aside} now" in capsys.readouterr().out
    assert {path.name: time for path, time in blocks(aside).items()} == before
    assert same(StructureSet.read(aside / "candidates.h5"), old)
    attempts(32)
    assert capsys.readouterr().out == ""


def test_requests_have_folders_of_their_own(trained_run: Run, attempts: Callable[..., StructureSet]) -> None:
    """``--system Au`` after a run without: only gold, and the round's own attempts are where they were."""
    paths = trained_run.round(0)
    plain = attempts(16)
    gold = attempts(16, request=request_of(system="Au"))
    assert set(gold.numbers.tolist()) <= {79}
    assert gold.provenance[DRAWN].tolist() == plain.provenance[DRAWN].tolist()
    assert (paths.candidates.parent / "Au" / "candidates.h5").is_file()
    assert same(StructureSet.read(paths.candidates), plain)
    only = attempts(16, request=request_of(exclude="Au"), name="copper")
    assert set(only.numbers.tolist()) <= {29}
    with pytest.raises(UserError, match=r"another request \(exclude Au\).*--name"):
        attempts(16, request=request_of(system="Au"), name="copper")
    with pytest.raises(UserError, match="cannot be the name of a folder"):
        attempts(16, name="blocks")


def test_predicted_energy_is_of_what_is_decoded(attempts: Callable[..., StructureSet]) -> None:
    """Gold's energy where copper was left out would be that of the alloy."""
    plain, gold = attempts(16), attempts(16, request=request_of(elements="Au"))
    alloys = plain.provenance[DRAWN] == "Au-Cu"
    assert alloys.any()
    differs = plain.properties[PREDICTED] != gold.properties[PREDICTED]
    assert differs[alloys].all()


@pytest.mark.parametrize("system", ["Cu-Ni", "Ni"])
def test_element_that_the_models_do_not_know(system: str, attempts: Callable[..., StructureSet]) -> None:
    """A system that was never trained on cannot be decoded; the message lists what can."""
    with pytest.raises(UserError, match=r"knows no Ni; it knows Cu, Au\."):
        attempts(8, request=request_of(system=system))


def test_models_that_are_missing_say_what_makes_them(trained_run: Run, attempts: Callable[..., StructureSet]) -> None:
    """A user who generates before training."""
    (trained_run.round(0).train("ccdcgan") / "best.pt").unlink()
    with pytest.raises(UserError, match="voxtal train ccdcgan"):
        attempts(8)


def test_graphs_of_attempts_are_made_again(trained_run: Run, attempts: Callable[..., StructureSet]) -> None:
    """Selection measures distances between graphs: they must be those that the candidates came from."""
    paths = trained_run.round(0)
    candidates = attempts(16)
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
    decoded = decoder.decode(GraphSet.read(paths.graphs).dense())
    assert sum(d.reason == "" for d in decoded) > len(decoded) / 3
