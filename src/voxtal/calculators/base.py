"""What a calculator is: from a structure to a relaxed structure, its energy, and how that came about."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

Status = Literal["converged", "unconverged", "failed"]


@dataclass(frozen=True)
class Method:
    """How a label was made. Labels of different methods never meet on one hull or in one training target."""

    code: str
    """Program: ``chgnet``, ``emt``, ``vasp``."""
    version: str
    """Version of the program."""
    model: str
    """Energy model within the program: the weights' version, the parameter set, the functional."""
    details: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Whatever else changes energies: checksums of weights or pseudopotentials, cutoffs."""

    @property
    def fingerprint(self) -> str:
        """Short readable name and hash of all fields, for example ``chgnet-0.3.0-1f2e3d4c``."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.code}-{self.model}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class CalculatorSpec:
    """A calculator as plain values, for the configuration, other processes and workflow engines."""

    name: str
    """As in the registry."""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What the calculator's own options are set to."""


@dataclass(frozen=True)
class RelaxSettings:
    """When a relaxation ends."""

    max_steps: int
    """Optimizer steps; 0 computes the energy of the structure as given."""
    fmax_ev_per_angstrom: float
    """Largest force on an atom, and largest virial per atom in eV, of a converged structure."""
    relax_cell: bool = True


@dataclass(frozen=True)
class CalculationResult:
    """Outcome of one relaxation.

    ``energy_per_atom`` belongs to ``structure``, ``energy_per_atom_before`` to the geometry as given, both in
    eV/atom. A failed calculation has a reason; what it lacks is None.
    """

    status: Status
    reason: str = ""
    structure: Any | None = None
    energy_per_atom: float | None = None
    energy_per_atom_before: float | None = None
    steps: int = 0
    wall_seconds: float = 0.0


class CalculatorOptions(BaseModel):
    """Base of the options of a calculator, and those of one that has none; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Calculator(ABC):
    """Labels structures."""

    Options: ClassVar[type[BaseModel]] = CalculatorOptions
    """What ``relax.options`` may hold for it."""
    element_candidates: int | None = None
    """How many of the candidate ground states of an element are relaxed, the experimental one first; None for all."""
    keeps_files = False
    """Whether a calculation has a folder of its own."""
    thermo_type: str | None = None
    """Thermo type of the Materials Project whose energies its own may meet on a hull; none where there is none."""

    def __init__(self, options: Any = None) -> None:
        self.options = options or self.Options()

    @property
    @abstractmethod
    def method(self) -> Method:
        """How it makes its labels."""

    def check(self, symbols: Iterable[str]) -> None:  # noqa: B027 - most have nothing to check
        """Raise UserError where it cannot work here at all, or not with one of these elements."""

    @abstractmethod
    def relax(self, structure: Any, settings: RelaxSettings, folder: Path | None = None) -> CalculationResult:
        """Relax an ordered pymatgen structure.

        A bad structure and a calculation that fails are failed results, never exceptions. ``folder``, where it keeps
        files, belongs to this calculation alone: what a killed start left there is carried on with.
        """
