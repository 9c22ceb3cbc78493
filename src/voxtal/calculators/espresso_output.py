"""What an output of pw.x says: how the run ended, how far it came, and its numbers.

Versions of pw.x differ in their exit codes, and launchers hide them; "JOB DONE." is printed after failures too. The
text is therefore asked first and the exit code only where the text says nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from io import StringIO
from typing import Any

import numpy as np


class Outcome(StrEnum):
    """How one run of pw.x ended."""

    CONVERGED = "converged"
    """The geometry, or the scf where nothing moves."""
    OUT_OF_STEPS = "out of steps"
    SCF_UNCONVERGED = "scf unconverged"
    """Also where its linear algebra broke down, which the same measures help against."""
    WALLTIME = "walltime"
    """It stopped itself at ``max_seconds``, or because it was asked to."""
    STUCK = "geometry stuck"
    """BFGS gave up, or cell or symmetry changed more than one run can take."""
    INPUT_ERROR = "input error"
    KILLED = "killed"
    """It ended without a word: a signal, no memory, a full disk."""
    INTERRUPTED = "interrupted"
    """voxtal was stopped while it ran."""
    COLLAPSED = "collapsed"
    """The geometry is no crystal any more."""


_LINEAR_ALGEBRA = (
    "c_bands",
    "cdiaghg",
    "rdiaghg",
    "pcdiaghg",
    "prdiaghg",
    "cegterg",
    "regterg",
    "electrons",
    "sum_band",
    "efermig",
    "efermit",
    "mix_rho",
    "broyden",
    "potinit",
)
_GEOMETRY = ("scale_h", "checkallsym", "bfgs", "trust_radius_step", "cell_base", "sgam_at", "interpolate", "vcsmd")
_FILES = (
    "davcio",
    "diropn",
    "pw_readfile",
    "read_file",
    "qexsd",
    "read_collected_wfc",
    "save_in_electrons",
    "mp_start",
)

_BFGS_GAVE_UP = "history already reset at previous step: stopping"
_NUMBER = r"[-+]?\d+\.\d*(?:[EeDd][-+]?\d+)?"
_ROW = rf"[ \t]+{_NUMBER}[ \t]+{_NUMBER}[ \t]+{_NUMBER}"


@dataclass(frozen=True)
class Label:
    """What one scf gives, in ASE's units."""

    energy: float
    """Total energy F = E - TS of the cell, eV."""
    forces: np.ndarray
    """(n, 3), eV/A."""
    stress: np.ndarray
    """Voigt, eV/A^3."""


def judge(text: str, exit_code: int | None, moves: bool) -> tuple[Outcome, str]:
    """How a run ended, and in which words.

    Parameters
    ----------
    text : str
        Its whole output, also half of one.
    exit_code : int or None
        Negative for a signal; None where it is not known because voxtal was stopped.
    moves : bool
        Whether atoms or cell were to relax.
    """
    if _BFGS_GAVE_UP in text:  # followed by "bfgs converged", and exit code 0
        return Outcome.STUCK, f"bfgs: {_BFGS_GAVE_UP}"
    if moves and "bfgs converged in" in text and "End final coordinates" in text:
        return Outcome.CONVERGED, ""
    if error := error_in(text):
        return _judge_error(*error)
    if "convergence NOT achieved" in text:
        return Outcome.SCF_UNCONVERGED, _line_with("convergence NOT achieved", text)
    if "Maximum CPU time exceeded" in text or "Program stopped by user request" in text:
        return Outcome.WALLTIME, "Maximum CPU time exceeded"
    if "The maximum number of steps has been reached" in text:
        return Outcome.OUT_OF_STEPS, "The maximum number of steps has been reached."
    if "bfgs failed after" in text:
        return Outcome.STUCK, _line_with("bfgs failed after", text)
    if not moves and "convergence has been achieved" in text and "JOB DONE" in text:
        return Outcome.CONVERGED, ""
    if exit_code is None:
        return Outcome.INTERRUPTED, "voxtal was stopped"
    return Outcome.KILLED, _words_for(exit_code)


def error_in(text: str) -> tuple[str, str] | None:
    """The routine and the message between the lines of percent signs, or None."""
    block = re.search(r"%{20,}\s*\n\s*Error in routine\s+(\S+)\s*\(.*?\):\s*\n(.*?)\n\s*%{20,}", text, flags=re.DOTALL)
    return (block[1], " ".join(block[2].split())[:200]) if block else None


def started(text: str) -> bool:
    return "Program PWSCF" in text


def version_in(text: str) -> str:
    """For example ``6.7MaX``; empty where the text has none."""
    found = re.search(r"Program PWSCF v\.\s*(\S+)", text)
    return found[1] if found else ""


def steps_in(text: str) -> int:
    """Moves of the geometry."""
    return len(re.findall(r"^ATOMIC_POSITIONS", text, flags=re.MULTILINE)) - ("Begin final coordinates" in text)


def first_energy(text: str) -> float | None:
    """Total energy of the cell in the first geometry, eV."""
    from ase.units import create_units

    found = re.search(rf"^!\s+total energy\s+=\s+({_NUMBER}) Ry", text, flags=re.MULTILINE)
    return float(found[1]) * float(create_units("2006")["Ry"]) if found else None


def last_geometry(text: str, start: Any) -> Any:
    """The geometry that the run had come to, computed or not; ``start`` where it had not moved.

    ASE's reader gives only geometries with an energy, and for a restart the cell of the input instead of the one
    that pw.x read from its files.

    Parameters
    ----------
    text : str
        Output of pw.x.
    start : Atoms
        The run's input; its order of atoms is that of the output.
    """
    n = len(start)
    positions = re.findall(rf"^ATOMIC_POSITIONS \(angstrom\)\n((?:\w+{_ROW}[^\n]*\n){{{n}}})", text, flags=re.MULTILINE)
    cells = re.findall(
        rf"^CELL_PARAMETERS \(angstrom\)\n((?:{_ROW}\n){{3}})(?=\s*ATOMIC_POSITIONS)", text, flags=re.MULTILINE
    )
    atoms = start.copy()
    if positions:
        # A cell is printed before its positions: a run killed in between has one more of the cells.
        if cells:
            atoms.set_cell(_numbers(cells[min(len(cells), len(positions)) - 1], slice(0, 3)))
        atoms.set_positions(_numbers(positions[-1], slice(1, 4)))
    return atoms


def read_label(text: str) -> Label:
    """Energy, forces and stress of an scf, by ASE's reader."""
    from ase.io.espresso import read_espresso_out

    (atoms,) = read_espresso_out(StringIO(text), index=slice(-1, None))
    results = atoms.calc.results
    return Label(float(results["energy"]), np.asarray(results["forces"]), np.asarray(results["stress"]))


def _numbers(block: str, columns: slice) -> np.ndarray:
    return np.array([[float(word) for word in line.split()[columns]] for line in block.splitlines()])


def _judge_error(routine: str, message: str) -> tuple[Outcome, str]:
    words = f"{routine}: {message}"
    name = routine.lower()
    if name in _LINEAR_ALGEBRA or "cholesky" in message or "not positive definite" in message:
        return Outcome.SCF_UNCONVERGED, words
    if name in _GEOMETRY or "cell_factor" in message:
        return Outcome.STUCK, words
    if name in _FILES:
        return Outcome.KILLED, words
    return Outcome.INPUT_ERROR, words


def _line_with(words: str, text: str) -> str:
    return next(line.strip() for line in text.splitlines() if words in line)


def _words_for(exit_code: int) -> str:
    import signal

    number = -exit_code if exit_code < 0 else exit_code - 128
    try:
        return f"pw.x was killed by {signal.Signals(number).name}"
    except ValueError:
        return f"pw.x ended without a result, exit code {exit_code}"
