"""ASE's effective medium theory: fast, approximate, a few fcc metals; for tests and for trying things."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from voxtal.calculators.ase_relax import relax_with_ase
from voxtal.calculators.base import CalculationResult, Calculator, Method, RelaxSettings

ELEMENTS = ("Al", "Cu", "Ag", "Au", "Ni", "Pd", "Pt", "H", "C", "N", "O")
"""The elements that the parameter set of ASE covers (H, C, N and O only roughly)."""


class EMTCalculator(Calculator):
    """Effective medium theory of Jacobsen, Stoltze and Norskov (doi:10.1016/0039-6028(96)00816-3)."""

    @property
    def method(self) -> Method:
        import ase

        return Method(code="emt", version=ase.__version__, model="asap0")

    def relax(self, structure: Any, settings: RelaxSettings, folder: Path | None = None) -> CalculationResult:
        from ase.calculators.emt import EMT

        unknown = sorted({site.specie.symbol for site in structure} - set(ELEMENTS))
        if unknown:
            return CalculationResult("failed", f"EMT has no parameters for {', '.join(unknown)}")
        return relax_with_ase(EMT(), structure, settings)
