"""``voxtal generate`` under a real mpirun: the same bytes as on one process, after a kill too, and clear ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.conftest import children_of, is_alive
from voxtal.generation import folder, icsg3d_stage
from voxtal.generation.icsg3d_request import maps_request_of
from voxtal.generation.stage import generate
from voxtal.runs import Run, read_json

PROGRAM = (
    "-c",
    "import voxtal.generation.folder as f; f.BLOCK = 4; from voxtal.cli.main import main; main()",
    "generate",
)


@pytest.fixture
def undisturbed(trained_run: Run, quiet: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What this process makes of forty attempts; it is removed again."""
    monkeypatch.setattr(folder, "BLOCK", 4)
    path = generate(trained_run, trained_run.round(0), 40, quiet)
    made = contents(path.parent)
    for file in [path, *path.parent.glob("blocks/*.h5")]:
        file.unlink()
    return made


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.glob("**/*.h5"))}


def finish(process: Any, seconds: float = 100) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def test_any_number_of_ranks_writes_the_same_bytes(
    launch: Callable[..., Any], trained_run: Run, undisturbed: dict[str, bytes]
) -> None:
    """Attempts would depend on the machine that made them, or be printed once by each rank."""
    code, out, err = finish(launch(3, *PROGRAM, "-n", "40", "--run", str(trained_run.root)))
    assert code == 0, err
    assert out.count("40 attempts:") == 1
    assert out.count("generate: 40/40") == 1
    assert contents(trained_run.round(0).candidates.parent) == undisturbed
    assert read_json(trained_run.manifest)["commands"][-1]["ranks"] == 3


@pytest.mark.slow
def test_killed_ranks_leave_whole_blocks_and_are_carried_on(
    launch: Callable[..., Any], trained_run: Run, undisturbed: dict[str, bytes], quiet: Any
) -> None:
    """A node failure would cost what was finished, or leave half a block among the candidates."""
    root = trained_run.round(0).candidates.parent
    running = launch(2, *PROGRAM, "-n", "4000", "--run", str(trained_run.root))
    while len(contents(root)) < 3:
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.01)
    ranks = children_of(running.pid)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    until = time.monotonic() + 60
    while any(is_alive(pid) for pid in ranks):  # the system kills them, as their launcher is gone
        assert time.monotonic() < until
        time.sleep(0.05)
    kept = contents(root)
    assert "candidates.h5" not in kept
    assert all(undisturbed.get(name, data) == data for name, data in kept.items())
    generate(trained_run, trained_run.round(0), 40, quiet)
    after = contents(root)
    assert undisturbed.items() <= after.items()
    assert kept.items() <= after.items()


@pytest.mark.slow
def test_maps_are_the_same_on_two_ranks(
    launch: Callable[..., Any], maps_run: Run, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ICSG3D's attempts, what is left of them around a compound, and where it is told."""
    monkeypatch.setattr(folder, "BLOCK", 4)
    monkeypatch.setattr(icsg3d_stage, "GROUP", 4)
    paths = maps_run.round(0)
    path = generate(maps_run, paths, 8, quiet, maps_request_of(around="m-3"))
    alone = contents(path.parent)
    for file in [path, *path.parent.glob("blocks/*.h5")]:
        file.unlink()
    program = PROGRAM[1].replace("; main()", "; import voxtal.generation.icsg3d_stage as s; s.GROUP = 4; main()")
    options = ("-n", "8", "--around", "m-3", "--run", str(maps_run.root))
    code, out, err = finish(launch(2, "-c", program, "generate", *options))
    assert code == 0, err
    assert contents(path.parent) == alone
    assert out.count("Around m-3") == 1
    assert read_json(path.with_name("funnel.json"))["steps"][0]["n"] == 8


def test_wrong_request_is_told_once(launch: Callable[..., Any], trained_run: Run) -> None:
    """Two hundred ranks would each print it, or wait for rank 0 until the time limit."""
    code, _, err = finish(launch(2, *PROGRAM, "--elements", "Cu,Ag", "--run", str(trained_run.root)))
    assert code == 2
    assert err.count("the model knows no Ag; it knows Cu, Au") == 1
    assert "Traceback" not in err
