"""``voxtal encode`` under a real mpirun: the same bytes as on one process, after a kill too."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from voxtal.data.graphs import GraphSet
from voxtal.runs import Run, read_json
from voxtal.training import encode

FOUR_AT_ONCE = "import voxtal.training.encode as encode; encode.BLOCK = 4; from voxtal.cli.main import main; "
KILLED_AFTER_THE_THIRD = """
import os, signal, time
from voxtal.data.graphs import GraphSet
write = GraphSet.write
def write_or_die(graphs, path):
    if path.name > "block-00000012":
        time.sleep(60)  # the launcher ends this rank when the other one is gone
    write(graphs, path)
    if path.name.startswith("block-00000008"):
        os.kill(os.getpid(), signal.SIGKILL)
GraphSet.write = write_or_die
"""


@pytest.fixture
def undisturbed(trained_run: Run, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What this process makes of the voxels; it is removed again."""
    monkeypatch.setattr(encode, "BLOCK", 4)
    path = trained_run.round(0).graphs
    path.unlink()
    encode.encode_graphs(trained_run, trained_run.round(0))
    made = path.read_bytes()
    path.unlink()
    return made


def finish(process: Any, seconds: float = 100) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def test_any_number_of_ranks_writes_the_same_bytes(
    launch: Callable[..., Any], trained_run: Run, undisturbed: bytes
) -> None:
    """Graphs, and all that is trained on them, would depend on the machine; or blocks would be left behind."""
    paths = trained_run.round(0)
    code, out, err = finish(launch(3, "-c", FOUR_AT_ONCE + "main()", "encode", "--run", str(trained_run.root)))
    assert code == 0, err
    assert out.count("24 crystal graphs of ") == 1
    assert out.count("encode: 24/24") == 1
    assert paths.graphs.read_bytes() == undisturbed
    assert not any(paths.graphs.parent.rglob("block*"))
    assert read_json(trained_run.manifest)["commands"][-1]["ranks"] == 3


@pytest.mark.slow
def test_killed_ranks_leave_whole_blocks_and_are_carried_on(
    launch: Callable[..., Any], trained_run: Run, undisturbed: bytes
) -> None:
    """A node failure would cost what was finished, or leave half a block among the graphs."""
    paths, run = trained_run.round(0), ("encode", "--run", str(trained_run.root))
    code, *_ = finish(launch(2, "-c", FOUR_AT_ONCE + KILLED_AFTER_THE_THIRD + "main()", *run))
    assert code not in (0, 2, 75)
    assert not paths.graphs.exists()
    kept = [GraphSet.read(path) for path in paths.graphs.parent.glob("blocks/block-*.h5")]
    left = 24 - sum(map(len, kept))
    assert 0 < left < 24
    code, out, err = finish(launch(2, "-c", FOUR_AT_ONCE + "main()", *run))
    assert code == 0, err
    assert re.findall(r"^encode: (\d+)/(\d+)", out, re.MULTILINE)[-1] == (str(left), str(left))
    assert paths.graphs.read_bytes() == undisturbed
