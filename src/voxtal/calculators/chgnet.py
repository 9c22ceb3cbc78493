"""CHGNet, a universal graph network potential whose weights ship with its package: no network needed."""

from __future__ import annotations

import contextlib
import io
import warnings
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from voxtal.calculators.ase_relax import relax_with_ase
from voxtal.calculators.base import CalculationResult, Calculator, Method, RelaxSettings
from voxtal.errors import UserError
from voxtal.runs import sha256_of

MODEL = "0.3.0"
"""Trained on PBE(+U) energies with MP2020 corrections (Deng et al. 2023, doi:10.1038/s42256-023-00716-3)."""


class CHGNetCalculator(Calculator):
    """CHGNet on one CPU device; the network is loaded at the first relaxation."""

    @cached_property
    def method(self) -> Method:
        return Method(code="chgnet", version=version("chgnet"), model=MODEL, details={"weights": sha256_of(_weights())})

    def relax(self, structure: Any, settings: RelaxSettings, folder: Path | None = None) -> CalculationResult:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on how chgnet makes its tensors
            return relax_with_ase(self.ase_calculator, structure, settings)

    @cached_property
    def ase_calculator(self) -> Any:
        """CHGNet as ASE has it."""
        with contextlib.redirect_stdout(io.StringIO()):  # it announces its device
            from chgnet.model import CHGNet
            from chgnet.model.dynamics import CHGNetCalculator as ASECalculator

            network = CHGNet.load(model_name=MODEL, use_device="cpu", verbose=False)
            return ASECalculator(network, use_device="cpu", on_isolated_atoms="error")


def _weights() -> Path:
    """The weight file, found without importing torch."""
    spec = find_spec("chgnet")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [path for folder in folders for path in Path(folder, "pretrained", MODEL).glob("*.pth.tar")]
    if len(found) != 1:
        raise UserError(f"The chgnet package holds no weights of model {MODEL}; install chgnet>=0.4 again.")
    return found[0]
