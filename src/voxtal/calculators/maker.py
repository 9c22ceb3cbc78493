"""Calculators for workflow engines: one jobflow Maker whose fields are plain values, for all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobflow import Maker, job

from voxtal.calculators.base import CalculatorSpec, RelaxSettings
from voxtal.calculators.plain import plain_result
from voxtal.calculators.registry import get_calculator


@dataclass
class RelaxMaker(Maker):
    """Relaxes a structure; the output of its job or flow is the plain result, as ``Ledger.finish`` takes it.

    Parameters
    ----------
    name : str
        Of the jobs.
    calculator : str
        As in ``relax.calculator``: a name of the registry, or ``module:Class``.
    options : dict
        The calculator's own, as in ``relax.options``.
    max_steps : int
        Optimizer steps.
    fmax_ev_per_angstrom : float
        Largest force of a converged structure.
    relax_cell : bool
        Whether the cell relaxes too.
    """

    name: str = "voxtal relax"
    calculator: str = "chgnet"
    options: dict[str, Any] = field(default_factory=dict)
    max_steps: int = 200
    fmax_ev_per_angstrom: float = 0.05
    relax_cell: bool = True

    @classmethod
    def of(cls, calculator: CalculatorSpec, settings: RelaxSettings) -> RelaxMaker:
        """The Maker of a calculator and settings."""
        return cls(calculator=calculator.name, options=dict(calculator.options), **asdict(settings))

    def make(self, structure: Any) -> Any:
        """A Flow where the calculator is one of several steps (VASP), else a Job that runs in its own folder.

        Raises
        ------
        UserError
            Unknown calculator, or wrong options.
        """
        flow_of = getattr(get_calculator(self._spec()), "flow", None)
        made = _relax(self, structure) if flow_of is None else flow_of(structure, self._settings())
        made.name = self.name if flow_of is None else f"{self.name} {made.name}"
        return made

    def relax(self, structure: Any) -> dict[str, Any]:
        """The plain result, calculated here and now in the working directory."""
        calculator = get_calculator(self._spec())
        folder = Path.cwd() if calculator.keeps_files else None
        return plain_result(calculator.relax(structure, self._settings(), folder))

    def _spec(self) -> CalculatorSpec:
        return CalculatorSpec(self.calculator, self.options)

    def _settings(self) -> RelaxSettings:
        return RelaxSettings(self.max_steps, self.fmax_ev_per_angstrom, self.relax_cell)


@job
def _relax(maker: RelaxMaker, structure: Any) -> dict[str, Any]:
    return maker.relax(structure)
