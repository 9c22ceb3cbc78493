"""``voxelize`` under a real mpirun: same bytes on any number of ranks, after kills too, and clear ends."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.parallel.conftest import children_of, is_alive
from voxtal.data.dataset import VoxelDataset

PROGRAM = ("-c", "from voxtal.cli.voxelize import main; main()")
SMALL_SHARDS = ("--set", "voxels.structures_per_shard=30")


def finish(process, seconds=100):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}


@pytest.fixture
def voxelize(launch, structure_file):
    """Start voxelize on the structure set with some ranks."""

    def start(ranks, folder, *more, source=structure_file):
        return launch(ranks, *PROGRAM, str(source), "-o", str(folder), *SMALL_SHARDS, *more)

    return start


def test_any_number_of_ranks_writes_the_same_bytes(voxelize, tmp_path):
    """The data set would depend on the machine that made it; a bad row on rank 1 would stop the run."""
    for ranks in (1, 2, 3):
        code, out, err = finish(voxelize(ranks, tmp_path / str(ranks)))
        assert code == 0, err
        assert out.count("structures with voxels") == 1
        assert "no voxels: not finite" in out
        assert "no voxels: atoms closer than 0.5 A" in out
        assert err == ""
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")
    dataset = VoxelDataset(tmp_path / "3")
    assert dataset.n_structures == 2998
    assert [row for row, _, _ in dataset.bad] == [50, 200]


@pytest.mark.parametrize("representation", ["sites", "density"])
def test_both_representations_do_not_depend_on_the_ranks(voxelize, tmp_path, representation):
    """One of the two would be made by other rules than the other."""
    few = ("--representation", representation, "--set", "density.structures_per_shard=200")
    for ranks in (1, 2):
        code, _, err = finish(voxelize(ranks, tmp_path / str(ranks), *few))
        assert code == 0, err
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    code, out, err = finish(voxelize(2, tmp_path / "2", *few, "--verify"))
    assert code == 0, err
    assert "as it was published" in out
    shard = tmp_path / "2" / "shard-00003.h5"
    harmed = bytearray(shard.read_bytes())
    harmed[np.random.default_rng().integers(len(harmed))] ^= 4
    shard.write_bytes(harmed)
    code, out, _ = finish(voxelize(2, tmp_path / "2", *few, "--verify"))
    assert code == 1
    assert "shard-00003.h5" in out
    assert finish(voxelize(2, tmp_path / "2", *few))[0] == 0
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


KILLS = 20


@pytest.mark.slow
def test_kills_at_random_moments_cost_nothing_that_was_finished(voxelize, tmp_path):
    """A node failure would cost all that was done, leave half a shard in the data set, or a lock that stops the next
    run. Printed with the seed, so that a failure can be had again."""
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")
    random, folder = np.random.default_rng(seed), tmp_path / "voxels"
    started = time.monotonic()
    assert finish(voxelize(1, tmp_path / "undisturbed"))[0] == 0
    whole_run = time.monotonic() - started
    expected = contents(tmp_path / "undisturbed")
    for _ in range(KILLS):
        before = contents(folder)
        running = voxelize(int(random.integers(1, 4)), folder)
        time.sleep(random.uniform(0, whole_run))
        _kill(running, random.choice(["a rank", "mpirun", "all"]), random)
        after = contents(folder)
        assert before.keys() <= after.keys(), "a finished shard was lost"
        assert all(expected[name] == data for name, data in after.items()), "a file is not whole"
        if "index.h5" in after:
            shutil.rmtree(folder)
    code, _, err = finish(voxelize(2, folder))
    assert code == 0, err
    assert contents(folder) == expected
    assert not list(folder.glob(".*.tmp"))


def _kill(process, victim, random):
    """kill -9 of one rank, of mpirun, or of everything that it started; until all of it is gone."""
    everything = [process.pid, *children_of(process.pid)]
    ranks = [pid for pid in everything if _is_rank(pid)]
    chosen = {"mpirun": [process.pid], "a rank": ranks[int(random.integers(len(ranks))) :][:1] if ranks else []}
    for pid in chosen.get(victim) or everything:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(timeout=30)
    deadline = time.monotonic() + 30
    while any(is_alive(pid) for pid in everything):
        assert time.monotonic() < deadline, f"{victim} was killed and the others live on"
        time.sleep(0.01)


def test_a_killed_rank_ends_the_others(voxelize, launch, structure_file, tmp_path):
    """The others would wait for it until the time limit."""
    program = (  # every rank waits after its first shard: the run cannot be over before the kill
        "import time, voxtal.data.voxelize as stage, voxtal.cli.voxelize as cli\n"
        "whole = stage.write_shard\n"
        "def write_and_wait(*what):\n"
        "    whole(*what)\n"
        "    time.sleep(1000)\n"
        "stage.write_shard = write_and_wait\n"
        "cli.main()\n"
    )
    running = launch(3, "-c", program, str(structure_file), "-o", str(tmp_path / "voxels"), *SMALL_SHARDS)
    while not list((tmp_path / "voxels").glob("shard-*.h5")):
        assert running.poll() is None
        time.sleep(0.002)
    ranks = [pid for pid in children_of(running.pid) if _is_rank(pid)]
    os.kill(ranks[-1], signal.SIGKILL)
    code, _, _ = finish(running, seconds=30)
    assert code != 0
    code, _, err = finish(voxelize(2, tmp_path / "voxels"))
    assert code == 0, err


def _is_rank(pid):
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
    return "voxtal.cli.voxelize" in command and "mpirun" not in command and not children_of(pid)


def test_a_rank_that_fails_is_named_and_ends_the_run(launch, structure_file, tmp_path):
    """One rank's broken disk would leave the others hanging, with no word on where."""
    program = (  # rank 0 waits with its first shard, or it might make those of rank 1, too
        "import pathlib, time, voxtal.data.voxelize as stage, voxtal.cli.voxelize as cli\n"
        "from voxtal.parallel.communicator import launcher_rank\n"
        "whole = stage.write_shard\n"
        "def full(path, *rest):\n"
        "    if launcher_rank() == 1:\n"
        "        pathlib.Path('full').touch()\n"
        "        raise OSError(28, 'No space left on device', str(path))\n"
        "    while not pathlib.Path('full').exists(): time.sleep(0.01)\n"
        "    whole(path, *rest)\n"
        "stage.write_shard = full\n"
        "cli.main()\n"
    )
    running = launch(2, "-c", program, str(structure_file), "-o", str(tmp_path / "voxels"), *SMALL_SHARDS)
    while running.poll() is None and not (tmp_path / "full").exists():  # to start may take a busy machine long
        time.sleep(0.01)
    failed = time.monotonic()
    code, _, err = finish(running)
    assert code == 1
    assert "rank 1 of 2 failed" in err
    assert "voxtal: No space left on device" in err
    assert time.monotonic() - failed < 30


@pytest.mark.parametrize("ranks", [1, 2])
def test_wrong_input_is_said_once_with_exit_code_2(voxelize, tmp_path, ranks):
    """256 ranks would print 256 tracebacks."""
    code, _, err = finish(voxelize(ranks, tmp_path / "voxels", source=tmp_path / "absent.h5"))
    assert code == 2
    assert err.count("voxtal: ") == 1
    assert "absent.h5" in err
    assert "Traceback" not in err
    code, _, err = finish(voxelize(ranks, tmp_path / "voxels", "--set", "voxels.site_grid=8"))
    assert code == 2
    assert err.count("sites_grid") == 1
    code, _, err = finish(voxelize(ranks, tmp_path / "voxels", "--no-such-option"))
    assert code == 2
    assert err.count("No such option") == 1


def test_a_stopped_run_exits_75_and_is_carried_on(voxelize, launch, structure_file, tmp_path):
    """A preempted job would look failed, and its batch script would not requeue it."""
    running = launch(2, *PROGRAM, str(structure_file), "-o", "voxels", "--set", "voxels.structures_per_shard=2")
    while not list((tmp_path / "voxels").glob("shard-*.h5")):
        assert running.poll() is None
        time.sleep(0.002)
    for pid in [pid for pid in children_of(running.pid) if _is_rank(pid)]:
        os.kill(pid, signal.SIGTERM)
    code, _, err = finish(running)
    assert code == 75, err
    assert err.count("Run the same command again") == 1
