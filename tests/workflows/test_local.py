from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from voxtal.calculators.base import CalculatorSpec, RelaxSettings
from voxtal.errors import UserError
from voxtal.ledger import Ledger
from voxtal.owners import of_engine
from voxtal.structures.text import structure_from_text, structure_to_text
from voxtal.workflows.jobs import Job, calculations_of, run_jobs
from voxtal.workflows.local import MAX_ATTEMPTS, Local

SETTINGS = RelaxSettings(max_steps=15, fmax_ev_per_angstrom=0.05)
KILLED = "worker process killed by SIGKILL"


def copper(edge: float) -> Structure:
    return Structure(Lattice.cubic(edge), ["Cu"] * 4, [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])


def big_job() -> Job:
    """Takes :data:`HELD` as long as a test wants it to."""
    return Job("big", copper(3.6) * (2, 1, 1), "training")


def small_jobs(n: int) -> list[Job]:
    return [Job(f"small-{k}", copper(3.6 + 0.01 * k), "training") for k in range(n)]


EMT = CalculatorSpec("emt")
HELD = CalculatorSpec("crashing_calculator:Held")


def run(jobs, path: Path, workers: int, spec: CalculatorSpec = EMT, **options):
    return run_jobs(jobs, spec, SETTINGS, path / "ledger.sqlite", Local(workers), **options)


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that makes :data:`HELD` wait, until it is removed."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    file = tmp_path / "held"
    monkeypatch.setenv("HELD", str(file))
    file.touch()
    yield file
    file.unlink(missing_ok=True)  # workers that outlive a test that fails would wait for ever


def test_rows_come_in_order_and_nothing_runs_twice(tmp_path, monkeypatch):
    """Results would belong to other structures, or a resumed run would start from the beginning."""
    bad = Job("bad", Structure(Lattice.cubic(3), ["Hf"], [[0, 0, 0]]), "training")
    twin = Job("twin", copper(3.6), "training")
    jobs = [*small_jobs(3), bad, twin]
    seen: list[str] = []
    rows = run(jobs, tmp_path, workers=2, advance=lambda n, text: seen.append(text))
    assert [row["id"] for row in rows] == [job.id for job in jobs]
    assert [row["status"] for row in rows] == ["converged"] * 3 + ["failed", "converged"]
    assert rows[0]["energy_per_atom"] == rows[4]["energy_per_atom"]
    assert sorted(seen) == sorted(f"{row['id']} {row['status']}" for row in rows)

    monkeypatch.setattr("voxtal.workflows.pool.Worker", None)  # none can be started
    again = run(jobs, tmp_path, workers=2)
    assert again == rows
    assert {row["attempts"] for row in again} == {1}


def kill_workers(*_: object) -> None:
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
        child.join()


def test_a_killed_worker_costs_an_attempt_of_its_own_calculation_only(tmp_path, held):
    """One segfault would end the run, hang it, or fail structures."""

    def kill_and_let_go() -> None:
        kill_workers()
        held.unlink()

    jobs = [big_job(), *small_jobs(6)]
    kills = iter([kill_and_let_go])
    rows = run(jobs, tmp_path, workers=2, spec=HELD, advance=lambda *_: next(kills, print)())
    assert {row["status"] for row in rows} == {"converged"}
    attempts = {row["id"]: row["attempts"] for row in rows}
    assert attempts.pop("big") == 2
    assert sorted(attempts.values())[:-1] == [1] * 5  # the other worker may have been at one of them
    assert not multiprocessing.active_children()


def test_a_calculation_that_kills_its_worker_each_time_fails(tmp_path, monkeypatch):
    """A structure that a calculator crashes on would be tried for ever."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    crashing = CalculatorSpec("crashing_calculator:Crashing")
    rows = run_jobs(small_jobs(2), crashing, SETTINGS, tmp_path / "ledger.sqlite", Local(2))
    assert [(row["status"], row["attempts"]) for row in rows] == [("failed", MAX_ATTEMPTS)] * 2
    assert {row["reason"] for row in rows} == {f"{KILLED}, {MAX_ATTEMPTS} times"}


def test_programs_that_a_calculator_started_end_with_its_worker(tmp_path, monkeypatch):
    """pw.x or VASP would go on calculating for nobody, and write where the next attempt does."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    spec = CalculatorSpec("crashing_calculator:Starting")
    (calculation,) = calculations_of(small_jobs(1), spec, SETTINGS, 0, tmp_path / "relax")
    parent = in_another_process(
        tmp_path, f"run_jobs(small_jobs(1), {spec!r}, SETTINGS, path / 'ledger.sqlite', Local(1))"
    )
    pid_file = Path(calculation.folder) / calculation.key[:8] / "pid"
    wait_until(lambda: pid_file.is_file() and pid_file.read_text())
    program = int(pid_file.read_text())
    assert is_running(program)
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_running(program), seconds=60)


def test_an_interrupted_run_keeps_what_it_finished(tmp_path, held):
    """Ctrl-C would lose finished work, leave workers behind, or leave rows as running."""
    jobs = [big_job(), *small_jobs(2)]
    done, at = 0, 0.0

    def interrupt(n: int, text: str) -> None:
        nonlocal done, at
        done += n
        if done == 2:
            at = time.monotonic()  # not before: starting workers takes as long as it takes
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(jobs, tmp_path, workers=2, spec=HELD, advance=interrupt)
    assert time.monotonic() - at < 20
    assert not multiprocessing.active_children()
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.counts() == {("training", "converged"): 2}


def test_workers_end_when_the_parent_is_killed_and_the_next_start_carries_on(tmp_path, held):
    """kill -9 of a run would leave orphans that burn the cores, and rows that run for ever."""
    parent = in_another_process(tmp_path, "run([big_job()], path, workers=1, spec=HELD)")
    children: list[int] = []
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        wait_until(lambda: ledger.counts() == {("training", "running"): 1})
        children = children_of(parent.pid)
        parent.kill()
        parent.wait()
        assert children
        assert ledger.counts() == {("training", "running"): 1}
        wait_until(lambda: not any(map(is_running, children)), seconds=60)
    held.unlink()  # not before: a worker that is done ends by itself
    rows = run([big_job()], tmp_path, workers=1, spec=HELD)
    assert [(row["status"], row["attempts"]) for row in rows] == [("converged", 2)]


def test_what_a_launchpad_has_is_not_waited_for(tmp_path):
    """Going from FireWorks to worker processes would wait for ever, without a word."""
    jobs = small_jobs(1)
    (calculation,) = calculations_of(jobs, EMT, SETTINGS, 0, tmp_path)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.claim(calculation)
        ledger.hand_over(calculation.key, of_engine("job"))
    with pytest.raises(UserError, match="1 of these calculations are on the LaunchPad"):
        run(jobs, tmp_path, workers=1)
    assert [row["status"] for row in run(jobs, tmp_path, workers=1, retry=True)] == ["converged"]


def test_two_runs_share_one_ledger(tmp_path):
    """Two terminals on one run would do the work twice or fail on each other's claims."""
    other = in_another_process(tmp_path, "run(small_jobs(12), path, workers=1)")
    rows = run(small_jobs(12), tmp_path, workers=1)
    assert other.wait(600) == 0
    assert {(row["status"], row["attempts"]) for row in rows} == {("converged", 1)}


def test_what_waits_is_worked_on_by_whoever_comes_and_others_are_not_waited_for(tmp_path, held):
    """A task of an array job would hold its node until the slowest other task is done, or leave a dead one's work."""
    path = tmp_path / "ledger.sqlite"
    jobs = [big_job(), *small_jobs(2)]
    with Ledger(path) as ledger:
        assert ledger.enqueue(calculations_of(jobs, HELD, SETTINGS, 0, tmp_path)) == 3
        assert ledger.enqueue(calculations_of(jobs, HELD, SETTINGS, 0, tmp_path)) == 0
        other = in_another_process(tmp_path, "Local(1).work(path / 'ledger.sqlite', lambda key, row: None)")
        wait_until(lambda: ("training", "running") in ledger.counts())
        ended: list[str] = []
        Local(1).work(path, lambda key, row: ended.append(row["id"]))
        assert sorted(ended) == ["small-0", "small-1"]
        assert other.poll() is None
        other.kill()
        other.wait()
        held.unlink()
        Local(1).work(path, lambda key, row: ended.append(row["id"]))
        assert ended[-1] == "big"
        assert [row["attempts"] for row in ledger.calculations()] == [2, 1, 1]


def test_a_set_is_closed_at_the_share_asked_for(tmp_path, held):
    """One slow calculation would hold up a round, or those that were left would never run."""
    jobs = [big_job(), *small_jobs(5)]
    rows = run(jobs, tmp_path, workers=2, spec=HELD, close_at=0.8)
    assert [row["id"] for row in rows] == [f"small-{k}" for k in range(5)]
    assert not multiprocessing.active_children()
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.counts() == {("training", "converged"): 5}


def test_structure_text_is_the_same_after_a_round_trip():
    """A structure read from a file would be calculated again because its key changed."""
    structure = Structure(Lattice.hexagonal(3.1, 5.02), ["Co", "Hf"], [[-1e-12, 1 / 3, 2 / 3], [1.25, 0.1, 0]])
    text = structure_to_text(structure)
    assert structure_to_text(structure_from_text(text)) == text


def in_another_process(path: Path, statement: str) -> subprocess.Popen[bytes]:
    """Run ``statement`` with the names of this module in a Python of its own."""
    script = path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        "if __name__ == '__main__':\n"
        f"    sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "    from test_local import *\n"
        f"    path = Path({str(path)!r})\n"
        f"    {statement}\n"
    )
    return subprocess.Popen([sys.executable, script])


def wait_until(condition: Callable[[], object], seconds: float = 600.0) -> None:
    """Wait for a condition; the seconds only bound a hang."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children_of(pid: int) -> list[int]:
    answer = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in answer.stdout.split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
