"""Calculators by name; a calculator's module is imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

from pydantic import ValidationError

from voxtal.calculators.base import Calculator, CalculatorSpec
from voxtal.config import explain
from voxtal.errors import UserError

if TYPE_CHECKING:
    from voxtal.config import RelaxConfig

CALCULATORS = {
    "chgnet": "voxtal.calculators.chgnet:CHGNetCalculator",
    "emt": "voxtal.calculators.emt:EMTCalculator",
    "vasp": "voxtal.calculators.vasp:VaspCalculator",
    "espresso": "voxtal.calculators.espresso:EspressoCalculator",
}
"""Name -> ``module:class`` of those that come with voxtal; another one is asked for by its ``module:class``."""


def get_calculator(spec: CalculatorSpec) -> Calculator:
    """The calculator that ``spec`` describes.

    Raises
    ------
    UserError
        There is none of that name, or an option is wrong; the message lists what there is.
    """
    cls = _class_of(spec.name)
    try:
        return cls(cls.Options.model_validate(dict(spec.options)))
    except ValidationError as error:
        raise UserError(explain(error, cls.Options, f"relax.options of {spec.name}")) from None


def configured(relax: RelaxConfig, name: str | None = None) -> CalculatorSpec:
    """The calculator of the configuration, or another one by name, which then has its own defaults."""
    if name is None or name == relax.calculator:
        return CalculatorSpec(relax.calculator, relax.options)
    return CalculatorSpec(name)


def _class_of(name: str) -> type[Calculator]:
    module, colon, class_name = CALCULATORS.get(name, name).partition(":")
    if not colon:
        near = difflib.get_close_matches(name, CALCULATORS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else " One of your own is named as module:Class."
        raise UserError(f"Unknown calculator {name!r}; there are {', '.join(sorted(CALCULATORS))}.{hint}")
    try:
        found = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"The calculator {name!r} cannot be loaded ({error}); is its module on PYTHONPATH?") from None
    if not (isinstance(found, type) and issubclass(found, Calculator)):
        raise UserError(f"{name!r} is no calculator: it must be a subclass of voxtal.calculators.base.Calculator.")
    return found
