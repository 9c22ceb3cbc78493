"""Calculators by name; a calculator's module is imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib

from voxtal.calculators.base import Calculator
from voxtal.errors import UserError

CALCULATORS = {
    "chgnet": "voxtal.calculators.chgnet:CHGNetCalculator",
    "emt": "voxtal.calculators.emt:EMTCalculator",
}
"""Name -> ``module:class``; the class takes no arguments."""


def get_calculator(name: str) -> Calculator:
    """The calculator called ``name``.

    Raises
    ------
    UserError
        There is none of that name; the message lists them.
    """
    if name not in CALCULATORS:
        near = difflib.get_close_matches(name, CALCULATORS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"Unknown calculator {name!r}; there are {', '.join(sorted(CALCULATORS))}.{hint}")
    module, _, class_name = CALCULATORS[name].partition(":")
    calculator: Calculator = getattr(importlib.import_module(module), class_name)()
    return calculator
