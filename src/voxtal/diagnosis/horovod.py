"""Horovod: whether it is there, fits this torch, and what it was built with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata

from voxtal.diagnosis.findings import Finding, warning, wrong
from voxtal.diagnosis.programs import ask_python

_FEATURES = """
import json
import horovod.torch as hvd
print(json.dumps({"MPI": hvd.mpi_built(), "Gloo": hvd.gloo_built(), "NCCL": bool(hvd.nccl_built())}))
"""
_BUILD = "hpc/install/horovod.sh"


@dataclass(frozen=True)
class Horovod:
    """An installed Horovod; the version is empty where there is none."""

    version: str
    features: dict[str, bool]
    error: str = ""


def probe() -> Horovod:
    try:
        version = metadata.version("horovod")
    except metadata.PackageNotFoundError:
        return Horovod("", {})
    answer = ask_python(_FEATURES, seconds=120)  # torch, on a slow file system
    if not answer.ok:
        return Horovod(version, {}, answer.text)
    return Horovod(version, json.loads(answer.text.splitlines()[-1]))


def judge(horovod: Horovod, torch: str, gpus: int) -> Finding:
    """``torch`` is its version, ``gpus`` the GPUs that rank 0 sees."""
    if not horovod.version:
        return Finding("Horovod", f"not installed; `voxtal train --parallel horovod` needs it ({_BUILD})")
    if horovod.error:
        return wrong(
            "Horovod",
            f"{horovod.version} cannot be loaded by torch {torch}: {horovod.error}",
            f"It was built for another torch or MPI: build it again with {_BUILD}",
        )
    has = [name for name, there in horovod.features.items() if there]
    found = f"{horovod.version} with {', '.join(has) or 'nothing'}"
    if not {"MPI", "Gloo"} & set(has):
        return wrong("Horovod", found, f"Ranks cannot meet: build it again with {_BUILD}, MPI loaded")
    if gpus and "NCCL" not in has:
        return warning(
            "Horovod", f"{found}, and {gpus} GPUs", f"Gradients go through the CPU: build with NCCL, {_BUILD}"
        )
    if "MPI" not in has:
        return warning("Horovod", found, f"mpirun and srun cannot start it, only horovodrun: {_BUILD}, MPI loaded")
    return Finding("Horovod", found)
