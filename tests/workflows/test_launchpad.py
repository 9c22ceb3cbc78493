"""FireWorks' LaunchPad in a file: what fizzles, what is refused."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from voxtal.structures.structure_set import StructureSet


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "mongo.json").write_text("{}")
    return os.environ | {
        "MONGOMOCK_SERVERSTORE_FILE": str(tmp_path / "mongo.json"),
        "PYTHONPATH": str(Path(__file__).parent),
    }


def relax(root: Path, environment: dict[str, str], *more: str) -> subprocess.CompletedProcess[str]:
    copper = Structure(Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]])
    StructureSet.from_structures([copper], ["a"]).write(root / "in.h5")
    voxtal = str(Path(sys.executable).with_name("voxtal"))
    command = [voxtal, "relax", "in.h5", "-o", "out.h5", "--set", "relax.backend=fireworks", *more]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)


def test_a_workflow_that_fizzles_is_a_failed_row_with_its_reason(tmp_path: Path, environment: dict[str, str]) -> None:
    """A round would wait for ever for a workflow that has crashed."""
    answer = relax(tmp_path, environment, "--calculator", "crashing_calculator:Raising")
    assert answer.returncode == 2
    assert "RuntimeError: no such orbital" in answer.stdout


def test_a_launchpad_in_a_file_serves_one_process(tmp_path: Path, environment: dict[str, str]) -> None:
    """Two processes would overwrite each other's workflows."""
    with open(tmp_path / "mongo.json.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer = relax(tmp_path, environment, "--calculator", "emt")
    assert answer.returncode == 2
    assert "one process at a time" in answer.stderr


def test_a_launchpad_that_is_not_there_is_told(tmp_path: Path, environment: dict[str, str]) -> None:
    """A wrong path would end in a traceback of pymongo."""
    answer = relax(tmp_path, environment, "--calculator", "emt", "--set", "relax.launchpad='none.yaml'")
    assert answer.returncode == 2
    assert "relax.launchpad = 'none.yaml': no such file" in answer.stderr
