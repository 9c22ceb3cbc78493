"""The pure elements: candidate ground states, and formation energies against them.

Which of an element's structures is lowest is for the method to say: the candidates are all relaxed and
the lowest energy per atom is that method's reference. Where that costs too much (DFT) it is the first, the structure
that the element has at room temperature or below.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from voxtal.calculators.base import RelaxSettings

REFERENCE_SETTINGS = RelaxSettings(max_steps=200, fmax_ev_per_angstrom=0.03)
"""How elements are relaxed, whatever the run's settings: all labels of a method share these references."""

MAX_REFERENCE_ATOMS = 32
"""Holds alpha-Mn (29 atoms) and alpha-S (32); beyond are high-pressure and Hittorf-like giants."""

_ISOSTRUCTURAL = {"Cl": "I", "Br": "I", "Te": "Se"}
"""Elements whose ground state the libraries lack, and the element that has it."""

_GROUND_STATE = {"C": 1, "Se": 1, "U": 1}
"""Place of the ground state among an element's candidates as the libraries have them, where it is not the first:
graphite, trigonal selenium, alpha-uranium."""

_MOLECULE_BOX_ANGSTROM = 8.0
_TYPICAL_RADIUS_ANGSTROM = 1.6


def element_structures(symbol: str) -> list[Any]:
    """Candidate ground states of an element.

    The structure in ASE's table of reference states, the AFLOW prototypes that are named after the element
    (alpha-Mn, alpha-Ga, black P and the like), then fcc, bcc and hcp at the molar volume for metals and noble
    gases, and diatomic molecules in a box.

    Parameters
    ----------
    symbol : str
        Chemical symbol.

    Returns
    -------
    list of Structure
        Primitive cells, the experimental ground state first; never empty for an element up to Lr.
    """
    from pymatgen.core import Element

    element = Element(symbol)
    found = [*_ase_reference(symbol), *_prototypes(symbol)]
    if element.is_metal or element.is_noble_gas or not found:
        found += _close_packed(symbol)
    small = [structure for structure in found if len(structure) <= MAX_REFERENCE_ATOMS]
    small.insert(0, small.pop(_GROUND_STATE.get(symbol, 0)))
    return small


def formation_energy_per_atom(
    composition: Mapping[str, float], energy_per_atom: float, references: Mapping[str, float]
) -> float:
    """Energy per atom of a compound less that of its elements.

    Parameters
    ----------
    composition : mapping of symbol to amount
        Any normalisation.
    energy_per_atom : float
        eV/atom, of the method that made ``references``.
    references : mapping of symbol to float
        Energy of each element, eV/atom.

    Returns
    -------
    float
        eV/atom.
    """
    total = sum(composition.values())
    return energy_per_atom - sum(references[symbol] * n for symbol, n in composition.items()) / total


def _ase_reference(symbol: str) -> list[Any]:
    from ase import Atoms
    from ase.build import bulk
    from ase.data import atomic_numbers, reference_states
    from pymatgen.io.ase import AseAtomsAdaptor

    state = reference_states[atomic_numbers[symbol]] or {}
    if state.get("symmetry") == "diatom":
        box = _MOLECULE_BOX_ANGSTROM
        atoms = Atoms([symbol] * 2, [[0, 0, 0], [0, 0, state["d"]]], cell=[box, box + 0.5, box + 1], pbc=True)
    else:
        if state.get("symmetry") == "orthorhombic":  # U and Np, which ASE builds with one atom where there are more
            return []
        try:
            atoms = bulk(symbol)
        except (ValueError, RuntimeError):  # not a structure that ASE builds
            return []
    return [AseAtomsAdaptor.get_structure(atoms)]


def _prototypes(symbol: str) -> list[Any]:
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY
    from pymatgen.core import Element

    wanted = _ISOSTRUCTURAL.get(symbol, symbol)
    found = []
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        prototype = entry["snl"].structure
        if {e.symbol for e in prototype.composition} != {wanted}:
            continue
        structure = prototype.get_primitive_structure()
        if wanted != symbol:
            structure.scale_lattice(len(structure) * _atomic_volume(Element(symbol)))
            structure.replace_species({wanted: symbol})
        found.append(structure)
    return found


def _close_packed(symbol: str) -> list[Any]:
    from ase.build import bulk
    from pymatgen.core import Element
    from pymatgen.io.ase import AseAtomsAdaptor

    volume = _atomic_volume(Element(symbol))
    hcp_edge = (2**0.5 * volume) ** (1 / 3)
    cells = (
        bulk(symbol, "fcc", a=(4 * volume) ** (1 / 3)),
        bulk(symbol, "bcc", a=(2 * volume) ** (1 / 3)),
        bulk(symbol, "hcp", a=hcp_edge, c=(8 / 3) ** 0.5 * hcp_edge),
    )
    return [AseAtomsAdaptor.get_structure(atoms) for atoms in cells]


def _atomic_volume(element: Any) -> float:
    """Volume per atom of the solid element, A^3; of touching spheres where no density is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of each value that it has not
        molar = element.molar_volume  # cm^3/mol
        radius = element.atomic_radius or _TYPICAL_RADIUS_ANGSTROM
    return float(molar) / 0.602214076 if molar else 4 * 2**0.5 * float(radius) ** 3
