"""What a calculator is: from a structure to a relaxed structure, its energy, and how that came about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

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


class Calculator(Protocol):
    """Labels structures; a bad structure is a failed result, never an exception."""

    @property
    def method(self) -> Method: ...

    def relax(self, structure: Any, settings: RelaxSettings) -> CalculationResult: ...
