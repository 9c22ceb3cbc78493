"""The communicator on one process and on real MPI ranks."""

from __future__ import annotations

import pytest

from voxtal.errors import UserError
from voxtal.parallel.communicator import SerialCommunicator, agree, on_root, world

SHARE = """
import os, time
from contextlib import closing
from voxtal.parallel.communicator import world
ranks = world()

def let_rank_0_take_most():
    if ranks.rank == 0 and len(mine) == 13:
        open("most", "w").close()
    until = time.monotonic() + 30  # where tasks are dealt beforehand, it never has
    while ranks.rank and not os.path.exists("most") and time.monotonic() < until:
        time.sleep(0.005)

for tasks in (0, 1, 25, 3):  # again and again: a window must not outlive its share
    mine = []
    for task in ranks.share(tasks):
        mine.append(task)
        time.sleep(0.001)
        if tasks == 25:
            let_rank_0_take_most()
    assert mine == sorted(mine)
    done = ranks.gather(mine)
    if ranks.rank == 0:
        assert sorted(sum(done, [])) == list(range(tasks)), done
        if tasks == 25:
            assert len(done[0]) > max(len(part) for part in done[1:]), done
with closing(ranks.share(1000)) as share:
    mine = []
    for task in share:
        mine.append(task)
        if task == 5:
            break
        time.sleep(0.05 if task < 5 else 2)  # the rank that breaks may have to wait for a core
done = ranks.gather(mine)
if ranks.rank == 0:
    assert len(sum(done, [])) < 12, done
    print("shared on", ranks.size)
"""

FAIL = """
from voxtal.errors import UserError
from voxtal.parallel.communicator import agree, on_root, world
ranks = world()
assert on_root(ranks, lambda: 7 + ranks.rank) == 7
for place in (0, 1, 2):
    try:
        agree(ranks, UserError(f"row {ranks.rank}") if ranks.rank >= place else None)
    except UserError as error:
        assert str(error) == f"row {place}"
    else:
        raise SystemExit(3)
def refuse():
    raise UserError("no")
try:
    on_root(ranks, refuse)
except UserError as error:
    refused = ranks.gather(str(error))
assert refused is None or refused == ["no"] * 3
"""


def finish(process, seconds=60):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def test_one_process_needs_no_mpi(monkeypatch):
    """The laptop, where nothing launched anything, would need an MPI."""
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    alone = world()
    assert isinstance(alone, SerialCommunicator)
    assert list(alone.share(3)) == [0, 1, 2]
    assert alone.gather("x") == ["x"]
    assert on_root(alone, lambda: 7) == 7
    with pytest.raises(UserError):
        agree(alone, UserError("row 1"))
    agree(alone, None)


def test_every_task_goes_to_one_rank_and_the_free_one_takes_more(launch):
    """Tasks would be lost or done twice, or a slow rank would hold up the others."""
    code, out, err = finish(launch(3, "-c", SHARE))
    assert code == 0, err
    assert "shared on 3" in out


def test_an_error_of_one_rank_is_raised_on_all(launch):
    """A rank that fails would leave the others waiting for it for ever."""
    code, _, err = finish(launch(3, "-c", FAIL))
    assert code == 0, err


def test_a_launcher_without_mpi_is_said_once(launch):
    """A cluster environment without its MPI module would end in a traceback, or run n times the same work."""
    code, _, err = finish(
        launch(2, "-c", "from voxtal.cli.voxelize import main; main()", MPI4PY_LIBMPI="/no/libmpi.so")
    )
    assert code == 2
    assert err.count("MPI cannot be loaded") == 1
    assert "Traceback" not in err
