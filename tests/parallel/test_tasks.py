"""Shared tasks under a real mpirun: results in order, on every rank; one failure is everyone's."""

from __future__ import annotations

import json

import pytest

PROGRAM = """
import json, sys
from voxtal.errors import UserError
from voxtal.parallel.communicator import world
from voxtal.parallel.tasks import results

def work(task):
    if task == int(sys.argv[1]):
        raise UserError("task 7 is wrong")
    return task, communicator.rank

communicator = world()
steps = []
try:
    answer = [task for task, _ in results(communicator, 40, work, steps.append)]
except UserError as error:
    answer = str(error)
told = communicator.gather((answer, sum(steps)))
if communicator.rank == 0:
    print(json.dumps(told))
"""


def told(launch, ranks, wrong):
    out, err = launch(ranks, "-c", PROGRAM, str(wrong)).communicate(timeout=60)
    assert err == ""
    return json.loads(out)


@pytest.mark.parametrize("ranks", [1, 3])
def test_results_are_in_order_on_every_rank(launch, ranks):
    """Ranks that go on with different results deadlock in their next collective call."""
    answers = told(launch, ranks, -1)
    assert [answer for answer, _ in answers] == [list(range(40))] * ranks
    assert answers[0][1] == 40


def test_an_error_of_one_rank_is_raised_on_all(launch):
    """The others would wait for it for ever."""
    assert [answer for answer, _ in told(launch, 3, 7)] == ["task 7 is wrong"] * 3


STORM = """
import os, signal, threading, time
from voxtal.errors import Interrupted
from voxtal.interrupts import deferred_stop
from voxtal.parallel.communicator import world
from voxtal.parallel.tasks import results

communicator = world()
outcomes = []
for attempt in range(20):
    inside = threading.Event()

    def storm(seconds=0.002 * attempt):
        inside.wait()
        time.sleep(seconds)
        for _ in range(5):
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.004)

    outcome = "done"

    def stop_once(number, _frame):  # the next one may come before its exception is caught
        global outcome
        if outcome == "done":
            outcome = "interrupted"
            raise Interrupted(signal.Signals(number).name)

    def work(task):
        inside.set()
        time.sleep(0.001)

    thread = threading.Thread(target=storm)
    signal.signal(signal.SIGUSR1, stop_once)
    with deferred_stop() as stop:  # what comes before and after is not what is tested
        if communicator.rank == 1:
            thread.start()
        try:
            with stop.heeded():
                results(communicator, 60, work)
        except Interrupted:
            outcome = "interrupted"  # on all ranks
        inside.set()
        if communicator.rank == 1:
            thread.join()
    outcomes.append(outcome)
if communicator.rank == 0:
    print(sorted(set(outcomes)))
"""


def test_signals_at_any_moment_leave_no_rank_waiting(launch):
    """kill -USR1 between two collective calls: one rank is in the next, the others in the one before, for ever."""
    out, err = launch(2, "-c", STORM).communicate(timeout=60)
    assert "interrupted" in out, out + err
