"""What the doctor says of facts: machines with GPUs, MPIs and nodes that this one has not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from voxtal.diagnosis import gpus, horovod, mpi, slurm, software, storage, threads
from voxtal.diagnosis.findings import Finding, Verdict

OPEN_MPI = "Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4, repo rev: v4.1.4, May 26, 2022"
MPICH = "MPICH Version:\t4.0.2\nMPICH Release date:\tThu Apr  7 12:34:45 CDT 2022"
HYDRA = "HYDRA build details:\n    Version:                                 4.0.2\n"
INTEL = "Intel(R) MPI Library 2021.9 for Linux* OS\n"


@pytest.mark.parametrize(
    ("text", "name", "version"),
    [
        (OPEN_MPI, "Open MPI", "4.1.4"),
        ("mpirun (Open MPI) 5.0.3\n\nReport bugs to https://www.open-mpi.org/community/help/", "Open MPI", "5.0.3"),
        (MPICH, "MPICH", "4.0.2"),
        (HYDRA, "MPICH", "4.0.2"),
        (INTEL, "Intel MPI", "2021.9"),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.9 Build 20230307 (id: d82b3071db)", "Intel MPI", "2021.9"),
        ("MVAPICH2 Version      :\t2.3.7", "MVAPICH", "2.3.7"),
        ("MPI VERSION    : CRAY MPICH version 8.1.27.26 (ANL base 3.4a2)", "Cray MPICH", "8.1.27.26"),
        ("something else", "", ""),
    ],
)
def test_mpi_implementations_are_told_apart(text: str, name: str, version: str) -> None:
    """A flavour taken for another would call a right installation wrong."""
    assert mpi.implementation(text) == mpi.Implementation(name, version)


@pytest.mark.parametrize(
    ("library", "mpirun", "verdict"),
    [
        (OPEN_MPI, "mpirun (Open MPI) 4.1.2", Verdict.OK),
        (OPEN_MPI, "mpirun (Open MPI) 5.0.3", Verdict.WARNING),
        (OPEN_MPI, HYDRA, Verdict.WRONG),
        (MPICH, "mpirun (Open MPI) 4.1.4", Verdict.WRONG),
        (INTEL, HYDRA, Verdict.OK),
    ],
)
def test_mpi4py_and_mpirun_must_belong_together(library: str, mpirun: str, verdict: Verdict) -> None:
    """Ranks of another MPI's mpirun each think that they are alone, and each does all of the work."""
    finding = mpi.judge(mpi.Mpi("4.1.2", library, "", mpirun, ""))
    assert finding.verdict is verdict
    assert bool(finding.mend) == (verdict is not Verdict.OK)


def test_a_missing_mpi_is_wrong_only_where_an_mpirun_waits_for_it() -> None:
    """A laptop without MPI works; a cluster whose mpi4py does not load its MPI does not."""
    broken = mpi.Mpi("", "", "libmpi.so.40: cannot open shared object file", "mpirun (Open MPI) 4.1.4", "")
    assert mpi.judge(broken).verdict is Verdict.WRONG
    assert mpi.judge(replace(broken, mpirun="", mpirun_error="mpirun is not on PATH")).verdict is Verdict.WARNING


def test_ranks_that_are_alone_are_wrong() -> None:
    """The classic: 64 ranks under srun, each of them rank 0 of 1."""
    finding = mpi.judge_world(mpi.World("srun", started=64, joined=1, slurm_mpi="none"))
    assert finding.verdict is Verdict.WRONG
    assert "64" in finding.found
    assert "--mpi=pmix" in finding.mend
    assert "now none" in finding.mend
    assert mpi.judge_world(mpi.World("srun", 64, 64)).verdict is Verdict.OK
    assert mpi.judge_world(mpi.World("", 1, 1)).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("features", "gpus_seen", "verdict"),
    [
        ({"MPI": True, "Gloo": True, "NCCL": True}, 4, Verdict.OK),
        ({"MPI": True, "Gloo": True, "NCCL": False}, 0, Verdict.OK),
        ({"MPI": True, "Gloo": True, "NCCL": False}, 4, Verdict.WARNING),
        ({"MPI": False, "Gloo": True, "NCCL": False}, 0, Verdict.WARNING),
        ({"MPI": False, "Gloo": False, "NCCL": False}, 0, Verdict.WRONG),
    ],
)
def test_horovod_must_be_built_with_what_the_machine_has(
    features: dict[str, bool], gpus_seen: int, verdict: Verdict
) -> None:
    """Without NCCL gradients of GPUs travel through the CPU; without MPI mpirun starts ranks that are alone."""
    assert horovod.judge(horovod.Horovod("0.28.1", features), "2.5", gpus_seen).verdict is verdict


def test_a_horovod_of_another_torch_is_wrong() -> None:
    """After an upgrade of torch its symbols are gone."""
    finding = horovod.judge(horovod.Horovod("0.28.1", {}, "undefined symbol: _ZN5torch"), "2.5", 0)
    assert finding.verdict is Verdict.WRONG
    assert "horovod.sh" in finding.mend
    assert horovod.judge(horovod.Horovod("", {}), "2.5", 0).verdict is Verdict.OK


NODE = ("gpu-a", "gpu-b")


def _ranks(*places: tuple[str, int, tuple[str, ...]], build: str = "CUDA 12.4") -> list[gpus.Gpus]:
    """Ranks by host, local rank and the GPUs that each sees; every node has two."""
    return [gpus.Gpus(host, i, local, build, seen, NODE) for i, (host, local, seen) in enumerate(places)]


def _worst(findings: list[Finding]) -> Finding:
    order = [Verdict.OK, Verdict.WARNING, Verdict.WRONG]
    return max(findings, key=lambda finding: order.index(finding.verdict))


@pytest.mark.parametrize(
    ("ranks", "verdict", "words"),
    [
        (_ranks(("n1", 0, NODE), ("n1", 1, NODE)), Verdict.OK, "one GPU each"),
        (_ranks(("n1", 0, NODE[:1]), ("n1", 1, NODE[1:])), Verdict.OK, "one GPU each"),
        (_ranks(("n1", 0, NODE), ("n1", 1, NODE), ("n1", 2, NODE)), Verdict.WRONG, "ranks 0, 2 share one GPU of n1"),
        (_ranks(("n1", 0, NODE[:1]), ("n1", 1, NODE[:1])), Verdict.WRONG, "ranks 0, 1 share one GPU"),
        (_ranks(("n1", 0, NODE), ("n2", 0, NODE)), Verdict.WARNING, "2 of the job's GPUs idle"),
        (_ranks(("n1", 0, NODE), ("n1", 1, ())), Verdict.WRONG, "2 on n1, 0 seen by torch"),
        (_ranks(("n1", 0, ()), build="CPU"), Verdict.WRONG, "for CPU"),
    ],
)
def test_each_gpu_has_one_rank(ranks: list[gpus.Gpus], verdict: Verdict, words: str) -> None:
    """Ranks that share a GPU are slower than one; a GPU without a rank is paid for and idle."""
    worst = _worst(gpus.judge(ranks, launched=True))
    assert worst.verdict is verdict
    assert words in " ".join(finding.found for finding in gpus.judge(ranks, launched=True))


def test_alone_on_a_node_with_gpus_nothing_is_idle() -> None:
    """On a login node or a workstation the other GPUs are others' business."""
    assert [f.verdict for f in gpus.judge(_ranks(("n1", 0, NODE)), launched=False)] == [Verdict.OK]
    none = [gpus.Gpus("n1", 0, 0, "CPU", (), ())]
    assert [f.verdict for f in gpus.judge(none, launched=True)] == [Verdict.OK]


def _threads(n: int, each: int, cores: int, quota: float | None = None) -> list[threads.Threads]:
    return [threads.Threads("n1", rank, each, "", frozenset(range(cores)), quota) for rank in range(n)]


@pytest.mark.parametrize(
    ("ranks", "mend"),
    [
        (_threads(1, 8, 8), ""),
        (_threads(4, 2, 8), ""),
        (_threads(4, 8, 8), "OMP_NUM_THREADS=2"),
        (_threads(1, 64, 64, quota=4.0), "OMP_NUM_THREADS=4"),
        (_threads(16, 1, 8), "at most 8 ranks"),
        (
            [replace(rank, cores=frozenset({rank.rank, rank.rank + 4})) for rank in _threads(2, 3, 1)],
            "at most",
        ),
    ],
)
def test_threads_must_fit_the_cores(ranks: list[threads.Threads], mend: str) -> None:
    """Threads of several ranks on the same cores make training many times slower."""
    finding = threads.judge(ranks)
    assert finding.verdict is (Verdict.WARNING if mend else Verdict.OK)
    assert mend in finding.mend or "--cpus-per-task" in finding.mend


LOCAL = storage.Storage("n1", 0, "/runs/a", "nfs4", True, True, "", ())


def test_a_run_directory_of_one_node_is_wrong_for_two() -> None:
    """Rank 1 would wait for files that rank 0 has written to its own disk."""
    two = [LOCAL, replace(LOCAL, host="n2", rank=1)]
    assert _worst(storage.judge(two, slurm=True)).verdict is Verdict.OK
    blind = [LOCAL, replace(two[1], sees_token=False)]
    assert "another one on n2" in _worst(storage.judge(blind, slurm=True)).found
    loose = [LOCAL, replace(two[1], respects_lock=False)]
    assert "flock holds nobody off on n2" in _worst(storage.judge(loose, slurm=True)).found


@pytest.mark.parametrize(
    ("file_system", "slurm_there", "verdict"),
    [
        ("lustre", True, Verdict.OK),
        ("ext4", False, Verdict.OK),
        ("ext4", True, Verdict.WARNING),
        ("tmpfs", False, Verdict.WARNING),
        ("overlay", False, Verdict.WARNING),
    ],
)
def test_a_file_system_that_may_not_last_or_be_shared(file_system: str, slurm_there: bool, verdict: Verdict) -> None:
    """A run in a container's own layer, or on a login node's disk, is lost or unseen."""
    facts = replace(LOCAL, file_system=file_system)
    assert _worst(storage.judge([facts], slurm_there)).verdict is verdict


@pytest.mark.parametrize(
    ("free_bytes", "free_files", "verdict"),
    [(5e11, None, Verdict.OK), (5e9, None, Verdict.WARNING), (5e8, None, Verdict.WRONG), (5e11, 50, Verdict.WARNING)],
)
def test_little_room_is_told(free_bytes: float, free_files: int | None, verdict: Verdict) -> None:
    """A quota that ends in the middle of a checkpoint; the fullest node counts."""
    full = storage.Space("run directory", "/runs/a", int(free_bytes), free_files)
    empty = storage.Space("run directory", "/runs/a", 10**12, None)
    ranks = [replace(LOCAL, spaces=(empty,)), replace(LOCAL, rank=1, host="n2", spaces=(full,))]
    assert _worst(storage.judge(ranks, slurm=False)).verdict is verdict


JOB = slurm.Slurm(
    "23.11", "", "7", {"Requeue": "1", "BatchFlag": "1", "EndTime": "2026-01-01T00:00:00"}, "#SBATCH --signal=B:USR1@60"
)


@pytest.mark.parametrize(
    ("facts", "verdict", "words"),
    [
        (JOB, Verdict.OK, "signal B:USR1@60"),
        (replace(JOB, facts={**JOB.facts, "Requeue": "0"}), Verdict.WARNING, "not requeued"),
        (replace(JOB, script="#!/bin/bash"), Verdict.WARNING, "no signal"),
        (replace(JOB, facts={**JOB.facts, "BatchFlag": "0"}), Verdict.OK, "interactive"),
        (replace(JOB, job=""), Verdict.OK, "not in a job"),
        (slurm.Slurm("", "", "", {}, ""), Verdict.OK, "not on this machine"),
        (slurm.Slurm("", "slurm_load_partitions: Unable to contact", "", {}, ""), Verdict.WARNING, "Unable"),
    ],
)
def test_a_job_must_come_back_after_preemption(facts: slurm.Slurm, verdict: Verdict, words: str) -> None:
    """A job that is not requeued, or not warned before its time limit, loses work in silence."""
    finding = slurm.judge(facts)
    assert finding.verdict is verdict
    assert words in finding.found


def test_nodes_with_other_versions_are_named() -> None:
    """A node-local environment that was not upgraded gives other losses, or a crash on that node alone."""
    first = software.Software("n1", "3.11.7", "/env", "0.1.0", "/env/voxtal", {"torch": "2.5"})
    other = replace(first, host="n2", libraries={"torch": "2.4"})
    findings = software.judge([first, other])
    assert findings[-1].verdict is Verdict.WRONG
    assert "n2 has torch 2.4 (rank 0: 2.5)" in findings[-1].found
    assert all(finding.verdict is Verdict.OK for finding in software.judge([first, first]))
