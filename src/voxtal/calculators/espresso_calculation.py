"""One structure's runs of pw.x in a folder of their own: made, recorded, taken up again after an interruption."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.calculators import espresso_process as process
from voxtal.calculators.ase_relax import VOLUME_CHANGE_LIMIT
from voxtal.calculators.base import CalculationResult, RelaxSettings
from voxtal.calculators.espresso_attempts import Attempt, End, Step, next_step
from voxtal.calculators.espresso_input import PlaneWaves, pw_input
from voxtal.calculators.espresso_output import (
    Label,
    Outcome,
    error_in,
    first_energy,
    judge,
    last_geometry,
    read_label,
    started,
    steps_in,
    version_in,
)
from voxtal.errors import UserError
from voxtal.runs import read_json, write_json
from voxtal.structures.validity import why_invalid

RECORD = "attempt.json"
SCRATCH = "scratch"


@dataclass(frozen=True)
class Program:
    """pw.x as it is run for every structure of a method."""

    command: str
    version: str
    waves: PlaneWaves
    pseudopotentials: Mapping[str, str]
    """File of each element."""
    pseudo_dir: Path
    max_attempts: int
    walltime_seconds: int | None
    scratch: str


class Calculation:
    """The attempts of one structure.

    Parameters
    ----------
    program : Program
        What is run.
    atoms : Atoms
        ASE's, with pseudopotentials for all of its elements.
    settings : RelaxSettings
        When a relaxation ends.
    home : Path
        Holds ``attempt-1``, ``attempt-2`` and so on, each with ``pw.in``, ``pw.out``, ``pw.err`` and ``attempt.json``.
    """

    def __init__(self, program: Program, atoms: Any, settings: RelaxSettings, home: Path) -> None:
        self.program = program
        self.initial = self.geometry = self.basis = atoms
        self.settings, self.home = settings, home
        self.scratch = _scratch_of(home, program.scratch)
        self.attempts: list[Attempt] = []
        self.energy_before: float | None = None
        self.label: Label | None = None
        self.steps = 0

    def run(self) -> End:
        """Take up the attempts that are there and make those that are missing."""
        for half in self.home.glob(".attempt-*.tmp"):  # of a start that was killed
            shutil.rmtree(half)
        while (folder := self._next_folder()).is_dir():
            self._take(folder)
        while isinstance(step := self._next_step(), Step):
            self._start(self._next_folder(), step)
        shutil.rmtree(self.scratch, ignore_errors=True)
        return step

    def result(self, end: End, wall_seconds: float) -> CalculationResult:
        """What the calculator says of it."""
        from pymatgen.io.ase import AseAtomsAdaptor

        n = len(self.initial)
        if end.status == "failed" or self.label is None or self.energy_before is None:
            return CalculationResult("failed", end.reason, steps=self.steps, wall_seconds=wall_seconds)
        at_rest = _at_rest(self.label, self.geometry, self.settings)
        converged = at_rest or (end.status == "converged" and self.settings.max_steps > 0)
        return CalculationResult(
            status="converged" if converged else "unconverged",
            reason="" if converged else end.reason or "not converged in 0 steps",
            structure=AseAtomsAdaptor.get_structure(self.geometry),
            energy_per_atom=self.label.energy / n,
            energy_per_atom_before=self.energy_before / n,
            steps=self.steps,
            wall_seconds=wall_seconds,
        )

    def _next_step(self) -> Step | End:
        there = any(self.scratch.glob("*.save"))
        return next_step(self.attempts, self.settings, self.program.max_attempts, there)

    def _next_folder(self) -> Path:
        return self.home / f"attempt-{len(self.attempts) + 1}"

    def _start(self, folder: Path, step: Step) -> None:
        """Run pw.x once; an attempt's folder is there only with its record and its input."""
        limit = process.time_limit(self.program.walltime_seconds)
        start = self.basis if step.restart else self.geometry
        if not step.restart:
            shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True, exist_ok=True)
        text = pw_input(
            start,
            self.program.waves,
            self.program.pseudopotentials,
            step.stage,
            self.settings,
            electrons=step.electrons,
            restart=step.restart,
            max_seconds=limit,
            outdir=str(self.scratch),
            pseudo_dir=str(self.program.pseudo_dir),
        )
        half = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        half.mkdir(parents=True)
        (half / "pw.in").write_text(text)
        write_json(half / RECORD, _record(step))
        half.rename(folder)
        begun = time.perf_counter()
        code = process.run(self.program.command, folder, self.program.walltime_seconds)
        self._refuse_if_not_pw(folder, code)
        self._take(folder, code, time.perf_counter() - begun)

    def _take(self, folder: Path, exit_code: int | None = None, wall_seconds: float | None = None) -> None:
        """Add an attempt that has ended, now or in an earlier start of voxtal, to what is known."""
        from ase.io.espresso import read_espresso_in

        record = read_json(folder / RECORD)
        step = Step(record["stage"], record["why"], record["electrons"], record["restart"])
        text = _read(folder / "pw.out")
        with open(folder / "pw.in") as file:
            start = read_espresso_in(file)
        before = self.geometry
        self.basis = start
        self.geometry = last_geometry(text, before if step.restart else start)
        self.steps += steps_in(text)
        if self.energy_before is None:
            self.energy_before = first_energy(text)
        if "outcome" in record:
            outcome, message = Outcome(record["outcome"]), record["message"]
        else:
            outcome, message = judge(text, exit_code, step.stage == "relax")
            if outcome == Outcome.KILLED and (words := _last_words(folder)):
                message += f" ({words})"
            if problem := why_broken(self.geometry, self.initial):
                outcome, message = Outcome.COLLAPSED, problem
            write_json(
                folder / RECORD,
                record
                | {"outcome": outcome, "message": message, "exit_code": exit_code, "steps": steps_in(text)}
                | {"version": version_in(text), "wall_seconds": wall_seconds},
            )
        if step.stage == "static" and outcome == Outcome.CONVERGED:
            try:
                self.label = read_label(text)
            except (AssertionError, IndexError, KeyError, ValueError) as error:  # stars in place of a number
                outcome, message = Outcome.INPUT_ERROR, f"{folder / 'pw.out'} cannot be read ({error})"
        change = self.geometry.get_volume() / self.basis.get_volume() - 1
        self.attempts.append(Attempt(step, outcome, message, change))

    def _refuse_if_not_pw(self, folder: Path, exit_code: int) -> None:
        """Raise UserError where it was not the method's pw.x that ran, for no structure would get its label."""
        text = _read(folder / "pw.out")
        command, version = self.program.command, self.program.version
        if not started(text) and 0 < exit_code < 128:
            error = error_in(text)
            words = error[1] if error else _last_words(folder)
            shutil.rmtree(folder)
            raise UserError(f"{command!r} ended with code {exit_code} before pw.x started: {words}")
        if (found := version_in(text)) and found != version:
            shutil.rmtree(folder)
            raise UserError(
                f"{command!r} runs version {found} of pw.x, and the run's method is of version {version}: labels of "
                "different versions must not be mixed. Load the same module everywhere."
            )


def _scratch_of(home: Path, scratch: str) -> Path:
    """The same at every start, and of this calculation alone."""
    if not scratch:
        return home / SCRATCH
    return Path(scratch) / f"voxtal-{hashlib.sha256(str(home).encode()).hexdigest()[:16]}"


def _record(step: Step) -> dict[str, Any]:
    return {"stage": step.stage, "why": step.why, "electrons": step.electrons, "restart": step.restart}


def why_broken(atoms: Any, initial: Any = None) -> str | None:
    problem = why_invalid(atoms.numbers, atoms.get_scaled_positions(wrap=False), atoms.cell.array)
    if problem or initial is None:
        return problem
    change = atoms.get_volume() / initial.get_volume()
    if not 1 / VOLUME_CHANGE_LIMIT <= change <= VOLUME_CHANGE_LIMIT:
        return f"volume changed more than {VOLUME_CHANGE_LIMIT:g} times"
    return None


def _at_rest(label: Label, atoms: Any, settings: RelaxSettings) -> bool:
    """Whether the forces, and the virial per atom of a cell that may relax, are as small as the settings ask."""
    gradients = [np.linalg.norm(label.forces, axis=1).max()]
    if settings.relax_cell:
        gradients.append(np.abs(label.stress).max() * atoms.get_volume() / len(atoms))
    return bool(max(gradients) <= settings.fmax_ev_per_angstrom)


def _last_words(folder: Path) -> str:
    """What the launcher or the Fortran runtime says in pw.err."""
    lines = [line.strip() for line in _read(folder / "pw.err").splitlines() if line.strip(" -\t")]
    telling = [line for line in lines if "error" in line.lower() and "backtrace" not in line.lower()]
    return " / ".join((telling or lines)[:3])[:300]


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""
