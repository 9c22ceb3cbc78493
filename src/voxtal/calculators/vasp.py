"""VASP with the workflows of the Materials Project: relaxed twice, then one static calculation, through atomate2."""

from __future__ import annotations

import errno
import shlex
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from os.path import expandvars
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from voxtal.calculators.base import CalculationResult, Calculator, CalculatorOptions, Method, RelaxSettings
from voxtal.calculators.plain import result_of
from voxtal.errors import UserError

FlowName = Literal["MPGGADoubleRelaxStaticMaker", "MP24DoubleRelaxStaticMaker"]
Corrections = Literal["MP2020", "none"]

FUNCTIONAL_TAGS = ("GGA", "METAGGA", "LHFCALC", "IVDW", "LUSE_VDW")
"""INCAR tags that choose another functional, for which MP2020 has no corrections."""

NEUTRAL_TAGS = ("KPAR", "NCORE", "NPAR", "NSIM", "LPLANE", "LWAVE", "LCHARG", "LORBIT", "NWRITE")
"""INCAR tags that change how fast VASP is or what it writes, never an energy: no part of a method."""

COMPARABLE_TAGS = (*NEUTRAL_TAGS, "ALGO", "NELM", "NELMIN", "NSW", "POTIM", "MAGMOM", "ISYM", "SYMPREC")
"""Tags that lead to the same kind of energy on another way; all others end comparability with the database."""


class VaspOptions(CalculatorOptions):
    """``relax.options`` of VASP."""

    flow: FlowName = "MPGGADoubleRelaxStaticMaker"
    """atomate2's Maker: PBE(+U) of the Materials Project, or its r2SCAN workflow of 2024."""
    command: str | None = None
    """What starts VASP; atomate2's ``VASP_CMD`` if not given."""
    gamma_command: str | None = None
    """What starts the gamma-point version, used where there is one k-point; atomate2's if not given."""
    user_incar_settings: dict[str, Any] = {}
    """INCAR tags of every step; those of ionic steps are for the two relaxations only."""
    user_kpoints_settings: dict[str, Any] = {}
    user_potcar_settings: dict[str, str] = {}
    """Element -> POTCAR."""
    user_potcar_functional: str | None = None
    """As pymatgen names the sets of POTCARs, for example ``PBE_54``."""
    corrections: Corrections | None = None
    """``MP2020`` for PBE(+U) and none for r2SCAN, if not given."""

    @model_validator(mode="after")
    def _corrections_fit(self) -> VaspOptions:
        chosen = [tag for tag in FUNCTIONAL_TAGS if tag in self.user_incar_settings]
        if self.applied_corrections == "MP2020" and (chosen or self.flow != "MPGGADoubleRelaxStaticMaker"):
            what = f"user_incar_settings has {', '.join(chosen)}" if chosen else f"flow is {self.flow}"
            raise ValueError(f'MP2020 corrections are fitted to PBE and PBE+U, but {what}: set corrections = "none"')
        return self

    @property
    def applied_corrections(self) -> Corrections:
        return self.corrections or ("MP2020" if self.flow == "MPGGADoubleRelaxStaticMaker" else "none")

    @property
    def thermo_type(self) -> str | None:
        """Thermo type of the Materials Project's energies that these settings reproduce, if any."""
        own = [self.user_kpoints_settings, self.user_potcar_settings, self.user_potcar_functional]
        if any(own) or not set(self.user_incar_settings) <= set(COMPARABLE_TAGS):
            return None
        if self.flow == "MP24DoubleRelaxStaticMaker":
            return "R2SCAN"
        return "GGA_GGA+U" if self.applied_corrections == "MP2020" else None


class VaspCalculator(Calculator):
    """Relaxes and labels with VASP; the energy is that of the static calculation, corrected where MP2020 applies."""

    Options = VaspOptions
    element_candidates = 1
    keeps_files = True
    options: VaspOptions

    def __init__(self, options: VaspOptions | None = None) -> None:
        super().__init__(options)
        self.thermo_type = self.options.thermo_type

    @cached_property
    def method(self) -> Method:
        """Hash of every input setting of the three steps, the table of POTCARs included.

        The same with and without POTCARs at hand, so that labels are known again on another machine. Versions of
        atomate2 and pymatgen count through the settings that they bring: an update that changes none keeps the method.
        """
        from voxtal.calculators.vasp_flow import settings_hash

        return Method(
            code="vasp",
            version=self.options.flow,
            model="r2scan" if self.options.flow == "MP24DoubleRelaxStaticMaker" else "pbe",
            details={"inputs": settings_hash(self.options), "corrections": self.options.applied_corrections},
        )

    def check(self, symbols: Iterable[str]) -> None:
        """Raise UserError that names every missing program and POTCAR."""
        missing = [*self._missing_programs(), *self._missing_potcars(list(symbols))]
        if missing:
            raise UserError("VASP cannot run here:\n" + "\n".join(f"  - {line}" for line in missing))

    def flow(self, structure: Any, settings: RelaxSettings) -> Any:
        """The jobflow ``Flow`` of one structure; the output of its last job is the plain result.

        Step and force limits of ``settings`` are not VASP's: the flow's own stand (docs/vasp.md).

        Raises
        ------
        UserError
            ``settings`` ask for a fixed cell.
        """
        self._refuse_fixed_cell(settings)
        from voxtal.calculators.vasp_flow import make_flow

        return make_flow(self.options, structure)

    def relax(self, structure: Any, settings: RelaxSettings, folder: Path | None = None) -> CalculationResult:
        self._refuse_fixed_cell(settings)
        if folder is None:
            with tempfile.TemporaryDirectory(prefix="voxtal-vasp-") as temporary:
                return self.relax(structure, settings, Path(temporary))
        from voxtal.calculators.vasp_flow import make_flow
        from voxtal.calculators.vasp_restart import first_energy, newest_structure

        folder.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen remarks on every setting that is not its own choice
            start = newest_structure(folder, structure)
            result = result_of(_run(make_flow(self.options, start, first_energy(folder)), folder))
        if result.status != "failed":
            _delete_handed_on(folder)
        return result

    def write_inputs(self, structure: Any, folder: Path) -> list[Path]:
        """Write what VASP would read for ``structure``, with POTCAR.spec (names) for POTCAR: a dry run.

        Returns
        -------
        list of Path
            ``relax1``, ``relax2`` and ``static`` in ``folder``. k-points of the later steps may turn out denser,
            for a band gap is known by then.
        """
        from voxtal.calculators.vasp_flow import write_inputs

        return write_inputs(self.options, structure, folder)

    def _refuse_fixed_cell(self, settings: RelaxSettings) -> None:
        if not settings.relax_cell:
            raise UserError(
                "VASP relaxes the cell, as the Materials Project's workflows do; a fixed cell is not offered. "
                "For one, set relax.options.user_incar_settings = {ISIF = 2}."
            )

    def _missing_programs(self) -> list[str]:
        from atomate2 import SETTINGS

        words = shlex.split(expandvars(self.options.command or SETTINGS.VASP_CMD))
        programs = dict.fromkeys([words[0], words[-1]]) if words else {"": None}
        return [
            f"{program!r} of the command {shlex.join(words)!r} is no program here; load VASP's module, or set "
            "relax.options.command"
            for program in programs
            if shutil.which(program) is None
        ]

    def _missing_potcars(self, symbols: list[str]) -> list[str]:
        from pymatgen.io.vasp.inputs import PotcarSingle

        from voxtal.calculators.vasp_flow import potcar_names

        lines, without = [], []
        for names, functional in potcar_names(self.options):
            for symbol in symbols:
                if symbol not in names:
                    without.append(f"{symbol} has no POTCAR in {self.options.flow}; name one in user_potcar_settings")
                    continue
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        PotcarSingle.from_symbol_and_functional(names[symbol], functional)
                except (OSError, ValueError, RuntimeError) as error:
                    lines.append(f"POTCAR {names[symbol]} of {functional} for {symbol}: {str(error).splitlines()[0]}")
        return list(dict.fromkeys(without + lines))


def _delete_handed_on(folder: Path) -> None:
    """Delete what one step had left for the next: of thousands of calculations it would fill a disk."""
    for path in folder.glob("job_*/*"):
        if path.name.removesuffix(".gz") in ("WAVECAR", "CHGCAR", "CHG"):
            path.unlink()


def _run(flow: Any, folder: Path) -> Mapping[str, Any]:
    """Run ``flow``, each job in a folder of its own; the plain result, a failed one where a job raises."""
    from jobflow import CURRENT_JOB, JobStore, run_locally
    from maggma.stores import MemoryStore

    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    try:
        responses = run_locally(
            flow, log=False, store=store, create_folders=True, root_dir=folder, raise_immediately=True
        )
        output: Mapping[str, Any] = responses[flow.jobs[-1].uuid][1].output
        return output
    except Exception as error:  # whatever a step raises costs this structure only
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        step = CURRENT_JOB.job.name if CURRENT_JOB.job is not None else "VASP"
        CURRENT_JOB.reset()
        lines = str(error).strip().splitlines() or [""]
        return {"status": "failed", "reason": f"{step}: {type(error).__name__}: {lines[0]}"[:300]}
