"""``kill -9`` of everything at random moments: nothing finished is lost or done again, nothing stays running."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from voxtal.structures.structure_set import StructureSet

FCC = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
N = 40


def finished(ledger: Path) -> dict[str, tuple[str, float, str]]:
    if not ledger.is_file():
        return {}
    with sqlite3.connect(ledger, timeout=30) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'calculations'").fetchone():
            return {}  # killed before the tables were there
        rows = connection.execute(
            "SELECT key, status, finished, relaxed FROM calculations WHERE status NOT IN ('waiting', 'running')"
        ).fetchall()
    return {key: rest for key, *rest in rows}


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path: Path) -> None:
    """A node that goes down would cost finished calculations, or leave rows that nobody takes up."""
    structures = [Structure(Lattice.cubic(3.55 + 0.005 * k), ["Cu", "Cu", "Cu", "Au"], FCC) for k in range(N)]
    StructureSet.from_structures(structures, [f"s{k}" for k in range(N)]).write(tmp_path / "in.h5")
    ledger = tmp_path / "ledger.sqlite"
    voxtal = str(Path(sys.executable).with_name("voxtal"))
    command = [voxtal, "relax", "in.h5", "-o", "out.h5", "--calculator", "emt", "--workers", "2"]
    rng = random.Random(0)
    kills = 0
    known: dict[str, tuple[str, float, str]] = {}
    while True:
        process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            if kills < 6:
                process.wait(timeout=rng.uniform(1.0, 6.0))
            code = process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)  # its workers notice by themselves
            process.wait()
            kills, code = kills + 1, None
        now = finished(ledger)
        assert now.items() >= known.items()
        known = now
        if code is not None:
            break
        if kills % 2:  # a killed process and the next one at the same time
            time.sleep(rng.uniform(0, 0.5))
    assert code == 0
    assert len(StructureSet.read(tmp_path / "out.h5")) == N
    with sqlite3.connect(ledger) as connection:
        assert connection.execute("SELECT count(*) FROM calculations WHERE purpose = 'training'").fetchone() == (N,)
        assert connection.execute("SELECT count(*) FROM calculations WHERE status = 'running'").fetchone() == (0,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
