"""Quantum ESPRESSO: relaxations by pw.x with restarts, and an scf of the relaxed cell as the label."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from voxtal.calculators import espresso_process as process
from voxtal.calculators.base import CalculationResult, Calculator, CalculatorOptions, Method, RelaxSettings
from voxtal.calculators.espresso_calculation import Calculation, Program, why_broken
from voxtal.calculators.espresso_input import PlaneWaves
from voxtal.calculators.pseudopotentials import Table, cutoffs, functional_of, problems_of, read_table
from voxtal.errors import UserError


def _absolute(text: str) -> str:
    path = os.path.expanduser(os.path.expandvars(text))
    if path and not os.path.isabs(path):
        raise ValueError("must be an absolute path (~ and $VARIABLES are filled in)")
    return path


_Path = Annotated[str, AfterValidator(_absolute)]


class EspressoOptions(CalculatorOptions):
    """``[relax.options]`` of the calculator ``espresso``."""

    pseudopotentials: _Path
    """Table in the format of SSSP's JSON."""
    folder: _Path = ""
    """Where the files of the table are; beside it if not given."""
    elements: tuple[str, ...] = ()
    """The part of the table that is used, cutoffs included; all of it if not given."""
    command: str = "pw.x"
    """With launcher and options, such as ``srun pw.x -nk 2``."""
    version: str = ""
    """Of pw.x, such as ``7.3.1``; only needed where it does not start without its launcher."""
    kpoint_spacing_per_angstrom: float = Field(default=0.2, gt=0)
    """Largest distance of k-points, with the factor 2 pi."""
    smearing: Literal["mv", "mp"] = "mv"
    """Marzari-Vanderbilt or Methfessel-Paxton: with both F = E - TS is already close to the energy at 0 K."""
    degauss: float = Field(default=0.01, gt=0)
    """Width of the smearing, Ry."""
    spin: Literal["auto", "never"] = "auto"
    """``auto``: spin-polarised where a structure holds an element with an open d or f shell."""
    max_attempts: int = Field(default=5, ge=1)
    """Runs of pw.x for the relaxation, and as many for the label."""
    walltime_seconds: int | None = Field(default=None, gt=0)
    """Of each attempt; a Slurm job's end counts without it."""
    scratch: _Path = ""
    """Where wavefunctions go, such as ``$TMPDIR``; into the calculation's folder if not given."""


class EspressoCalculator(Calculator):
    """pw.x by the command of the options; docs/quantum-espresso.md has the choices and their reasons."""

    Options = EspressoOptions
    element_candidates = 1
    keeps_files = True
    options: EspressoOptions

    @cached_property
    def method(self) -> Method:
        return Method(
            code="espresso",
            version=self.version,
            model=functional_of(self.table, self.pseudo_dir),
            details={
                "pseudopotentials": hashlib.sha256(
                    json.dumps([(symbol, row.md5) for symbol, row in self.table.items()]).encode()
                ).hexdigest(),
                "cutoff_wfc_ry": f"{self.waves.cutoff_wfc:g}",
                "cutoff_rho_ry": f"{self.waves.cutoff_rho:g}",
                "kpoint_spacing_per_angstrom": f"{self.waves.kpoint_spacing:g}",
                "smearing": self.waves.smearing,
                "degauss_ry": f"{self.waves.degauss:g}",
                "spin": self.waves.spin,
            },
        )

    @cached_property
    def table(self) -> Table:
        """The rows of the table that the method is made of."""
        return read_table(Path(self.options.pseudopotentials), self.options.elements)

    @property
    def pseudo_dir(self) -> Path:
        return Path(self.options.folder or Path(self.options.pseudopotentials).parent)

    @cached_property
    def waves(self) -> PlaneWaves:
        options = self.options
        return PlaneWaves(
            *cutoffs(self.table), options.kpoint_spacing_per_angstrom, options.smearing, options.degauss, options.spin
        )

    @cached_property
    def program(self) -> Program:
        """What is run for every structure."""
        return Program(
            command=self.options.command,
            version=self.version,
            waves=self.waves,
            pseudopotentials={symbol: row.filename for symbol, row in self.table.items()},
            pseudo_dir=self.pseudo_dir,
            max_attempts=self.options.max_attempts,
            walltime_seconds=self.options.walltime_seconds,
            scratch=self.options.scratch,
        )

    @cached_property
    def version(self) -> str:
        """Of pw.x."""
        executable = process.executable_of(self.options.command)
        found = self.options.version or (process.version_of(executable) if executable else "")
        if not found:
            raise UserError(
                f"The version of pw.x cannot be asked for here ({executable or self.options.command!r} does not tell): "
                "load its module, or where it only runs on compute nodes set relax.options.version to what the first "
                'line of an output says after "Program PWSCF v.".'
            )
        return found

    def check(self, symbols: Iterable[str]) -> None:
        """Raise UserError that names everything that is missing: command, elements, files."""
        problems = problems_of(self.table, self.pseudo_dir, symbols)
        launcher = self.options.command.split()[:1]
        if not launcher or shutil.which(launcher[0]) is None:
            problems.insert(0, f"the command {self.options.command!r} is not found (PATH; a module to load?)")
        if problems:
            where = f"the table is {self.options.pseudopotentials}"
            if self.options.elements:
                where += ", of which relax.options.elements takes " + ", ".join(self.options.elements)
            raise UserError("Quantum ESPRESSO cannot run these structures: " + "; ".join(problems) + f"; {where}.")

    def relax(self, structure: Any, settings: RelaxSettings, folder: Path | None = None) -> CalculationResult:
        from pymatgen.io.ase import AseAtomsAdaptor

        begun = time.perf_counter()
        atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
        unknown = sorted(set(atoms.get_chemical_symbols()) - self.table.keys())
        problem = f"no pseudopotential for {', '.join(unknown)}" if unknown else why_broken(atoms)
        if problem:
            return CalculationResult("failed", problem, wall_seconds=time.perf_counter() - begun)
        with _folder(folder) as home:
            calculation = Calculation(self.program, atoms, settings, home)
            end = calculation.run()
            return calculation.result(end, time.perf_counter() - begun)


@contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="voxtal-") as temporary:
        yield Path(temporary)
