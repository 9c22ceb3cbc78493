"""Round trips and matching under a real mpirun: any number of ranks gives the answer of one."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from voxtal.config import write_config
from voxtal.generation.blocks import ATTEMPT, PREDICTED
from voxtal.runs import Run
from voxtal.structures.structure_set import REASON, StructureSet

PROGRAM = ("-c", "from voxtal.cli.main import main; main()", "evaluate")


@pytest.fixture
def some_structures(structure_file, tmp_path):
    """Every 20th of them and, first, those that are not finite."""
    everything = StructureSet.read(structure_file)
    bad = ~np.isfinite(np.add.reduceat(everything.frac_coords.sum(axis=1), everything.offsets[:-1]))
    rows = [*np.flatnonzero(bad).tolist(), *range(1, len(everything), 20)]
    everything.subset(rows).write(tmp_path / "some.h5")
    return tmp_path / "some.h5"


def finish(process, seconds=100):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def test_figures_do_not_depend_on_the_number_of_ranks(launch, some_structures, tmp_path):
    """A figure that changed with the machine could not be compared with any other."""
    files = {ranks: tmp_path / f"{ranks}.json" for ranks in (1, 3)}
    for ranks, path in files.items():
        code, out, err = finish(launch(ranks, *PROGRAM, "--roundtrip", str(some_structures), "--json", str(path)))
        assert code == 0, err
        assert out.count("Round trip") == 1
        assert err == ""
    assert files[1].read_bytes() == files[3].read_bytes()
    figures = json.loads(files[3].read_text())
    assert figures["n"] > 100
    assert figures["failures"]["not encoded: not finite"] > 0


def test_wrong_input_is_told_once(launch, tmp_path):
    """Two hundred ranks would each print it."""
    code, _, err = finish(launch(3, *PROGRAM, "--roundtrip", str(tmp_path / "missing.h5")))
    assert code == 2
    assert err.count("No structure set at") == 1
    assert "Traceback" not in err


MATCHING = """
import json, sys
from pathlib import Path
from voxtal.parallel.communicator import world
from voxtal.structures import matching
from voxtal.structures.structure_set import StructureSet, REASON

matching.BLOCK = matching._PAIRS_AT_ONCE = 7
structures, communicator = StructureSet.read(Path(sys.argv[1])), world()
first = matching.first_of_duplicates(structures, matching.Matcher(), communicator)
known = matching.find_known(structures, structures.subset(range(20, 50)), matching.Matcher(), communicator)
answers = communicator.gather((first, known))
if communicator.rank == 0:
    assert all(answer == answers[0] for answer in answers)
    print(json.dumps(answers[0]))
"""


def test_matching_does_not_depend_on_the_number_of_ranks(launch, some_structures):
    """Which candidates count as new would change with the machine."""
    answers = []
    for ranks in (1, 3):
        code, out, err = finish(launch(ranks, "-c", MATCHING, str(some_structures)))
        assert code == 0, err
        answers.append(json.loads(out))
    assert answers[0] == answers[1]
    first, known = answers[0]
    assert 3 < sum(i != own for i, own in enumerate(first)) < len(first) - 3
    assert sum(match is not None for match in known) > 30


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_stopped_soon_with_the_code_for_it(launch, structure_file, tmp_path, ranks):
    """Ctrl-C must not go on for minutes, nor a preempted job look failed."""
    many = tmp_path / "many.h5"
    StructureSet.concatenate([StructureSet.read(structure_file)] * 10).write(many)
    running = launch(ranks, *PROGRAM, "--roundtrip", str(many))
    assert running.stdout.readline().startswith("encode and decode")  # at most every five seconds
    for pid in _ranks_reading(many):
        os.kill(pid, signal.SIGINT)
    began = time.monotonic()
    code, _, err = finish(running)
    assert time.monotonic() - began < 20
    assert code == 75, err
    assert err.count("stopped early") == 1
    assert "Traceback" not in err


def _ranks_reading(path):
    """Processes of Python with ``path`` among their arguments."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            arguments = line.read_bytes().split(b"\0")
            if str(path).encode() in arguments and b"python" in arguments[0]:
                found.append(int(line.parent.name))
    return found


@pytest.mark.slow
def test_candidates_are_judged_the_same(launch, trained_run: Run):
    """Unique and novel, by ranks that share the pairs, while rank 0 alone holds the lock and runs the networks."""
    run, paths = trained_run, trained_run.round(0)
    known = StructureSet.read(paths.structures)
    attempts = known.subset([*range(24), *range(0, 24, 2)])
    n = len(attempts)
    attempts = attempts.with_columns(
        {PREDICTED: np.linspace(-1, 1, n), ATTEMPT: np.arange(n)}, {REASON: ["no cell", *[""] * (n - 1)]}
    )
    StructureSet(
        np.array([f"r0-{i}" for i in range(n)]), attempts.offsets, attempts.numbers, attempts.frac_coords,
        attempts.cells * 1.02, attempts.properties, attempts.provenance,
    ).write(paths.candidates)  # fmt: skip
    write_config(run.root / "voxtal.toml", {**run.config.model_dump(exclude_none=True)})
    tables = []
    for ranks in (1, 2):
        paths.evaluation.unlink(missing_ok=True)
        code, out, err = finish(launch(ranks, *PROGRAM, "--run", str(run.root)))
        assert code == 0, err
        assert out.count("Attempts") == 1
        tables.append(((paths.screen / "candidates.csv").read_bytes(), paths.evaluation.read_bytes()))
    assert tables[0] == tables[1]
    assert b"known" in tables[0][0]
    assert b"duplicate" in tables[0][0]
