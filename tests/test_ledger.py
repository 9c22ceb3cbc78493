from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from voxtal import owners
from voxtal.errors import UserError
from voxtal.ledger import Calculation, Ledger

WORK = Calculation("a", "training", 0, "emt-1", '{"max_steps":5}', '{"numbers":[29]}')


@pytest.fixture
def ledger(tmp_path: Path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def claim_in_another_process(path: Path) -> subprocess.Popen[str]:
    code = (
        "import sys; from pathlib import Path; from voxtal.ledger import Calculation, Ledger\n"
        f"ledger = Ledger(Path({str(path)!r}))\n"
        f"print(ledger.claim({WORK!r}), flush=True); sys.stdin.read()"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_calculation_runs_once(ledger):
    """The same structure, method and settings would be calculated twice."""
    assert ledger.claim(WORK) == "ours"
    ledger.finish(WORK.key, status="converged", energy_per_atom=-1.0, steps=3)
    assert ledger.claim(WORK) == "finished"
    assert ledger.claim(replace(WORK, id="b", round=3)) == "finished"
    row = ledger.result(WORK.key)
    assert (row["id"], row["status"], row["energy_per_atom"], row["attempts"]) == ("a", "converged", -1.0, 1)


@pytest.mark.parametrize("field", ["method", "settings", "initial"])
def test_another_method_setting_or_structure_is_another_calculation(ledger, field):
    """A label of one method would be handed out as another's."""
    assert ledger.claim(WORK) == "ours"
    assert ledger.claim(replace(WORK, **{field: "other"})) == "ours"
    assert ledger.counts() == {("training", "running"): 2}


def test_a_finished_row_is_never_overwritten(ledger):
    """A late worker could replace a result that others have used already."""
    ledger.claim(WORK)
    ledger.finish(WORK.key, status="converged", energy_per_atom=-1.0)
    ledger.finish(WORK.key, status="failed", reason="late")
    assert ledger.result(WORK.key)["status"] == "converged"


def test_failures_are_counted_by_reason(ledger):
    """The status page could not say why calculations failed."""
    for k, reason in enumerate(["too close", "too close", "exploded"]):
        work = replace(WORK, initial=str(k))
        ledger.claim(work)
        ledger.finish(work.key, status="failed", reason=reason)
    ledger.claim(replace(WORK, purpose="candidate", round=1))
    assert ledger.counts() == {("candidate", "running"): 1, ("training", "failed"): 3}
    assert ledger.counts(round=1) == {("candidate", "running"): 1}
    assert list(ledger.reasons().items()) == [(("training", "too close"), 2), (("training", "exploded"), 1)]


def test_a_living_owner_keeps_its_claim_and_a_killed_one_loses_it(tmp_path):
    """Two processes would run the same calculation, or a killed one's row would stay running for ever."""
    path = tmp_path / "ledger.sqlite"
    other = claim_in_another_process(path)
    try:
        assert other.stdout.readline().strip() == "ours"
        with Ledger(path) as ledger:
            assert ledger.claim(WORK) == "taken"
            other.kill()
            other.wait()
            assert ledger.claim(WORK) == "ours"
            ledger.finish(WORK.key, status="converged")
            assert ledger.result(WORK.key)["attempts"] == 2
    finally:
        other.kill()
        other.wait()


def test_a_reused_process_number_does_not_keep_a_claim(ledger):
    """After a container restart an unrelated process of the same number would block a row for ever."""
    ledger.claim(WORK)
    host, pid, *_ = ledger.owner.split(":")
    with sqlite3.connect(ledger.path) as connection:
        connection.execute("UPDATE calculations SET owner = ?", (f"{host}:{pid}:1:-",))
    assert ledger.claim(WORK) == "ours"


def test_an_owner_on_another_host_is_dead_when_it_stops_beating(ledger):
    """A node that went down would leave rows running for ever, or a living one would be robbed."""
    ledger.claim(WORK)
    with sqlite3.connect(ledger.path) as connection:
        connection.execute("UPDATE calculations SET owner = 'elsewhere:1:1:-'")
    assert ledger.claim(WORK) == "taken"
    with sqlite3.connect(ledger.path) as connection:
        silent_since = time.time() - owners.DEAD_AFTER_SECONDS - 1
        connection.execute("UPDATE calculations SET heartbeat = ?", (silent_since,))
    assert ledger.claim(WORK) == "ours"


def test_an_owner_under_slurm_is_dead_when_its_job_has_ended_or_runs_again(ledger, tmp_path, monkeypatch):
    """A killed array task's calculations would wait for ten minutes, or those of a living one be run twice."""
    squeue = tmp_path / "squeue"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def slurm_says(state: str) -> None:
        squeue.write_text(f"#!/bin/sh\n{state}\n")
        squeue.chmod(0o755)
        owners._asked.clear()

    now = time.time()
    slurm_says("echo RUNNING")
    assert owners.is_alive("elsewhere:1:1:77.0", now, now)
    slurm_says("echo PENDING")  # requeued: it will run with a new owner
    assert not owners.is_alive("elsewhere:1:1:77.0", now, now)
    slurm_says("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert not owners.is_alive("elsewhere:1:1:77.0", now, now)
    slurm_says("echo 'Unable to contact slurm controller' >&2; exit 1")
    assert owners.is_alive("elsewhere:1:1:77.0", now, now)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert not owners.is_alive("elsewhere:1:1:77.0", now, now)
    assert owners.this_process().endswith(":77.1")


def test_what_waits_is_known_with_all_that_a_process_needs_to_run_it(ledger):
    """An array task would run it by another calculator or elsewhere; a stopped one would take it out of the queue."""
    first = replace(WORK, calculator="emt", initial="1")
    second = replace(WORK, calculator="other", initial="2", folder="/x")
    assert ledger.enqueue([first, second]) == 2
    assert ledger.enqueue([first]) == 0
    assert ledger.waiting() == [first, second]
    assert ledger.counts() == {("training", "waiting"): 2}
    assert ledger.claim(first) == ledger.claim(second) == "ours"
    assert ledger.waiting() == []
    ledger.finish(first.key, status="converged")
    assert ledger.enqueue([first]) == 0
    assert ledger.result(second.key) is None
    ledger.release()
    assert ledger.waiting() == [second]


def test_what_dead_owners_had_queued_waits_again(tmp_path):
    """Rows of a killed array task would stay running for ever."""
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.enqueue([WORK])
        other = claim_in_another_process(path)
        assert other.stdout.readline().strip() == "ours"
        assert ledger.revive() == 0
        other.kill()
        other.wait()
        assert ledger.revive() == 1
        assert ledger.counts() == {("training", "waiting"): 1}
        ledger.claim(WORK)
        ledger.hand_over(WORK.key, owners.of_engine("job-1"))
        assert ledger.revive() == 0  # the engine alone says when it is dead
        assert list(ledger.owned("engine:")) == [WORK.key]
        ledger.finish(WORK.key, status="failed", reason="walltime")
        assert ledger.result(WORK.key)["attempts"] == 2
        assert ledger.forget([WORK.key, "unknown"]) == 1
        assert ledger.counts() == {}


def test_what_a_dead_process_was_at_waits_once_it_is_queued(tmp_path):
    """A run that goes from worker processes to a Slurm array would leave what a killed one was at running for ever."""
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        other = claim_in_another_process(path)
        assert other.stdout.readline().strip() == "ours"
        assert ledger.enqueue([WORK]) == 0
        other.kill()
        other.wait()
        assert ledger.revive() == 1
        assert ledger.counts() == {("training", "waiting"): 1}


def test_release_forgets_own_unfinished_claims_only(ledger):
    """A stopped run would leave rows as running, or lose what it had finished."""
    done = replace(WORK, initial="done")
    ledger.claim(done)
    ledger.finish(done.key, status="converged")
    ledger.claim(WORK)
    ledger.release()
    assert ledger.counts() == {("training", "converged"): 1}
    assert ledger.claim(WORK) == "ours"


def _claim_all(path: Path, n: int, out: multiprocessing.Queue, all_have_claimed: Event) -> None:
    with Ledger(path) as ledger:
        works = [replace(WORK, initial=str(k)) for k in range(n)]
        out.put(sum(ledger.claim(work) == "ours" for work in works))
        out.close()
        out.join_thread()
        all_have_claimed.wait()  # the claims of a process that has ended may be taken over


def test_claims_of_several_processes_never_overlap(tmp_path):
    """Array tasks that share a ledger would do the same work."""
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    context = multiprocessing.get_context("fork")
    answers, all_have_claimed = context.Queue(), context.Event()
    processes = [context.Process(target=_claim_all, args=(path, 30, answers, all_have_claimed)) for _ in range(3)]
    for process in processes:
        process.start()
    try:
        won = [answers.get(timeout=600) for _ in processes]
    finally:
        all_have_claimed.set()
    for process in processes:
        process.join()
    assert sum(won) == 30


def test_candidates_are_replaced_by_id(ledger):
    """A round that is resumed would count its candidates twice."""
    ledger.record_candidates([{"id": "c1", "round": 1, "outcome": "valid", "formula": "CoHf"}])
    ledger.record_candidates(
        [
            {"id": "c1", "round": 1, "outcome": "duplicate", "reason": "of c0"},
            {"id": "c2", "round": 2, "outcome": "invalid"},
        ]
    )
    assert [row["outcome"] for row in ledger.candidates()] == ["duplicate", "invalid"]
    assert [row["id"] for row in ledger.candidates(round=2)] == ["c2"]


def test_another_file_is_refused_and_left_as_it_is(tmp_path):
    """A wrong path would destroy a user's file or end in a traceback."""
    text = tmp_path / "notes.sqlite"
    text.write_text("not a database, but long enough to look at " * 20)
    before = text.read_bytes()
    with pytest.raises(UserError, match=r"notes\.sqlite is not a voxtal ledger"):
        Ledger(text)
    assert text.read_bytes() == before

    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE calculations (x)")
    with pytest.raises(UserError, match="something else"):
        Ledger(foreign)


def test_a_ledger_of_another_version_is_refused(tmp_path):
    """A newer layout would be read wrongly."""
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="version 99"):
        Ledger(path)


def test_a_ledger_of_the_version_before_is_brought_up_to_date(tmp_path):
    """Everything that a run has calculated so far would be lost with an update of voxtal."""
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.claim(WORK)
        ledger.finish(WORK.key, status="converged", energy_per_atom=-1.0)
        ledger.claim(replace(WORK, initial="left"))
    with sqlite3.connect(path) as connection:
        for column in ("queued", "calculator", "folder"):
            connection.execute(f"ALTER TABLE calculations DROP COLUMN {column}")
        connection.execute("UPDATE calculations SET owner = 'here:1:1'")
        connection.execute("PRAGMA user_version = 1")
    with Ledger(path) as ledger:
        assert ledger.result(WORK.key)["energy_per_atom"] == -1.0
        assert ledger.claim(replace(WORK, initial="left")) == "taken"  # its owner beat a moment ago
        assert ledger.enqueue([replace(WORK, initial="new")]) == 1


def test_an_empty_file_becomes_a_ledger(tmp_path):
    """A kill between creating the file and its tables would lock the user out."""
    path = tmp_path / "ledger.sqlite"
    path.touch()
    with Ledger(path) as ledger:
        assert ledger.counts() == {}
    assert os.path.getsize(path) > 0
