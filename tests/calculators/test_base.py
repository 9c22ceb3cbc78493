from __future__ import annotations

from dataclasses import replace

import pytest

from voxtal.calculators.base import CalculatorSpec, Method
from voxtal.calculators.registry import CALCULATORS, get_calculator
from voxtal.errors import UserError

METHOD = Method(code="chgnet", version="0.4", model="0.3.0", details={"weights": "abc", "a": "b"})


def test_fingerprint_is_readable_and_the_same_for_equal_methods():
    """Labels of one method could not be recognised in a second session."""
    assert METHOD.fingerprint.startswith("chgnet-0.3.0-")
    assert METHOD.fingerprint == replace(METHOD, details={"a": "b", "weights": "abc"}).fingerprint


@pytest.mark.parametrize("field", ["code", "version", "model"])
def test_fingerprint_changes_with_every_field(field):
    """Labels of different methods could meet on one hull."""
    assert METHOD.fingerprint != replace(METHOD, **{field: "other"}).fingerprint
    assert METHOD.fingerprint != replace(METHOD, details={"weights": "abd", "a": "b"}).fingerprint


@pytest.mark.parametrize("name", sorted(set(CALCULATORS) - {"espresso"}))  # it needs a table: test_espresso.py
def test_every_registered_calculator_has_a_method_of_its_own(name):
    """A calculator in the table could not be made, or two would share labels."""
    assert get_calculator(CalculatorSpec(name)).method.code == name


def test_an_unknown_calculator_names_the_right_ones():
    """A typo would end in a traceback."""
    with pytest.raises(UserError, match=r"there are chgnet, emt.*'chgnet'"):
        get_calculator(CalculatorSpec("chgnt"))
