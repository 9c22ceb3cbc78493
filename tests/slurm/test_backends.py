"""The ways to run calculations: worker processes, an array on a real Slurm, FireWorks."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure

from voxtal.calculators.base import CalculatorSpec
from voxtal.config import write_config
from voxtal.structures.structure_set import StructureSet
from voxtal.workflows.relaxation import element_references

from .conftest import Cluster, wait_until

pytestmark = pytest.mark.slow

FCC = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
COLUMNS = (
    "key, id, purpose, round, method, settings, status, reason, initial, relaxed, energy_per_atom,"
    " energy_per_atom_before, steps, attempts, calculator"
)


def make_run(root: Path, backend: str, n: int = 6, **options: Any) -> Path:
    """A run directory with structures, one of them no calculator knows."""
    root.mkdir()
    write_config(
        root / "voxtal.toml", {"relax": {"calculator": "emt", "backend": backend, "array_tasks": 2, **options}}
    )
    structures = [Structure(Lattice.cubic(3.7 + 0.02 * k), ["Cu", "Cu", "Cu", "Au"], FCC) for k in range(n)]
    structures.append(Structure(Lattice.cubic(3), ["Hf"], [[0, 0, 0]]))
    StructureSet.from_structures(structures, [f"s{k}" for k in range(n + 1)]).write(root / "in.h5")
    return root


def relax(root: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("voxtal")), "relax", "in.h5", "-o", "out.h5"]
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def rows(root: Path, columns: str = COLUMNS, where: str = "1") -> list[tuple[Any, ...]]:
    with sqlite3.connect(root / "ledger.sqlite") as ledger:
        return sorted(ledger.execute(f"SELECT {columns} FROM calculations WHERE {where}").fetchall())


@pytest.fixture(scope="module")
def local_rows(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    root = make_run(tmp_path_factory.mktemp("local") / "run", "local")
    finish(relax(root, dict(os.environ)))
    return rows(root)


@pytest.mark.parametrize("backend", ["slurm-array", "fireworks"])
def test_every_backend_leaves_the_same_rows(
    backend: str, local_rows: list[tuple[Any, ...]], cluster: Cluster, tmp_path: Path
) -> None:
    """The way in which a calculation was run would change its label, or what is known of it."""
    root = make_run(tmp_path / "run", backend)
    finish(relax(root, cluster.environment | {"MONGOMOCK_SERVERSTORE_FILE": str(mongomock_file(tmp_path))}))
    assert rows(root) == local_rows
    assert {row[6] for row in local_rows} >= {"converged", "failed"}
    assert len(StructureSet.read(root / "out.h5")) == 6


@pytest.mark.skipif("VOXTAL_MONGO_URI" not in os.environ, reason="VOXTAL_MONGO_URI names no MongoDB")
def test_rlaunch_in_other_processes_leaves_the_same_rows(local_rows: list[tuple[Any, ...]], tmp_path: Path) -> None:
    """Results of rockets on other nodes would not come back."""
    database = f"voxtal_test_{os.getpid()}"
    uri = f"{os.environ['VOXTAL_MONGO_URI'].rstrip('/')}/{database}"
    launchpad, jobflow = tmp_path / "launchpad.json", tmp_path / "jobflow.json"
    launchpad.write_text(json.dumps({"host": uri, "uri_mode": True, "name": database}))
    store = {"type": "MongoURIStore", "uri": uri, "database": database, "collection_name": "outputs"}
    jobflow.write_text(json.dumps({"JOB_STORE": {"docs_store": store}}))
    environment = os.environ | {"JOBFLOW_CONFIG_FILE": str(jobflow)}
    program = [str(Path(sys.executable).with_name(name)) for name in ("lpad", "rlaunch")]
    subprocess.run([program[0], "-l", str(launchpad), "reset", "--password", date.today().isoformat()], check=True)
    root = make_run(tmp_path / "run", "fireworks", launchpad=str(launchpad))
    rockets = subprocess.Popen(
        [program[1], "-l", str(launchpad), "rapidfire", "--nlaunches", "infinite"], cwd=tmp_path, env=environment
    )
    try:
        finish(relax(root, environment))
    finally:
        rockets.kill()
    assert rows(root) == local_rows


def mongomock_file(folder: Path) -> Path:
    file = folder / "mongo.json"
    file.write_text("{}")
    return file


def test_tasks_that_are_killed_requeued_or_out_of_time_and_a_killed_collector_lose_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    """A node that dies would leave rows running for ever; a collector that dies, an array that nobody looks at."""
    root = make_run(tmp_path / "run", "slurm-array", n=60, array_tasks=3, calculator="waiting_calculator:Waiting")
    # here: a late task of their array would take structures, and theirs would not be submitted while it holds them
    element_references(["Au", "Cu", "Hf"], CalculatorSpec("emt"), root / "ledger.sqlite")
    wait = tmp_path / "wait"
    wait.touch()
    environment = cluster.environment | {"PYTHONPATH": str(Path(__file__).parent), "WAIT_WHILE": str(wait)}
    collector = relax(root, environment)
    done = "purpose = 'training' AND status = 'converged'"

    def owners() -> list[str]:
        return sorted({owner for (owner,) in rows(root, "owner", "status = 'running'")})

    def job_of(owner: str) -> str:
        return owner.rpartition(":")[2].partition(".")[0]

    wait_until(lambda: len(rows(root, "id", done)) > 3 and len(owners()) == 3, 600, lambda: f"at work: {owners()}")
    collector.send_signal(signal.SIGKILL)
    collector.wait()
    dead, requeued, warned = owners()
    os.kill(int(dead.split(":")[1]), signal.SIGKILL)  # as a node that fails: what it was at stays behind
    cluster.call("scontrol", "requeue", job_of(requeued))
    cluster.call("scancel", "--signal=USR1", "--batch", job_of(warned))  # as before its time limit
    for owner in (requeued, warned):
        wait_until(lambda job=job_of(owner): cluster.job(job)["Restarts"] == "1", 300, lambda: f"at work: {owners()}")
    before = rows(root, "key, id, finished", done)
    wait.unlink()
    said = finish(relax(root, environment))
    assert set(before) <= set(rows(root, "key, id, finished", done))  # nothing finished is lost or done again
    assert {status for (status,) in rows(root, "status")} <= {"converged", "unconverged", "failed"}
    assert len(rows(root, "id", "purpose = 'training' AND status != 'failed'")) == 60, said
    assert rows(root, "id", "attempts > 1")
