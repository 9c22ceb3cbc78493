"""Structures as compact JSON text: what the ledger stores and what worker processes are sent."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

_DECIMALS = 8


def structure_to_text(structure: Any) -> str:
    """A pymatgen ``Structure`` as JSON: ``numbers``, ``frac_coords`` in [0, 1), ``cell`` (angstrom).

    Rounded to 1e-8, so that a structure that was written and read again gives the same text.
    """
    tree = {
        "numbers": [int(z) for z in structure.atomic_numbers],
        "frac_coords": (_rounded(structure.frac_coords) % 1.0).tolist(),
        "cell": _rounded(structure.lattice.matrix).tolist(),
    }
    return json.dumps(tree, separators=(",", ":"))


def structure_from_text(text: str) -> Any:
    """The pymatgen ``Structure`` of :func:`structure_to_text`."""
    from pymatgen.core import Lattice, Structure

    tree = json.loads(text)
    return Structure(Lattice(tree["cell"]), tree["numbers"], tree["frac_coords"])


def composition_of_text(text: str) -> dict[str, int]:
    """Symbol -> number of atoms, without building the structure."""
    from ase.data import chemical_symbols

    numbers = json.loads(text)["numbers"]
    return {chemical_symbols[z]: numbers.count(z) for z in sorted(set(numbers))}


def _rounded(values: Any) -> np.ndarray:
    return np.round(np.asarray(values, dtype=np.float64), _DECIMALS) + 0.0  # -0.0 becomes 0.0
