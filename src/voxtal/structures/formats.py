"""Each file format's payload to arrays, and what one file holds."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import numpy as np

from voxtal.errors import Interrupted
from voxtal.structures.cif import block_texts, parse_cif
from voxtal.structures.filters import Arrays
from voxtal.structures.rows import BadRowError

_FRAME_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def parse_poscar(text: str) -> Arrays:
    """POSCAR text (VASP 5: with element names) to arrays."""
    from pymatgen.io.vasp.inputs import BadPoscarWarning, Poscar

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", BadPoscarWarning)
            structure = Poscar.from_str(text, read_velocities=False).structure
    except Interrupted:
        raise
    except BadPoscarWarning as error:
        raise BadRowError("unknown element", error) from None
    except Exception as error:  # pymatgen raises whatever the broken line leads to
        raise BadRowError("POSCAR does not parse", error) from None
    return _from_pymatgen(structure)


def parse_structure_dict(value: Any) -> Arrays:
    """A pymatgen ``Structure`` as a dictionary to arrays."""
    from pymatgen.core import Structure

    if not isinstance(value, dict) or "lattice" not in value or "sites" not in value:
        raise BadRowError("not a structure", "expected a pymatgen Structure with 'lattice' and 'sites'")
    try:
        structure = Structure.from_dict(value)
    except Interrupted:
        raise
    except Exception as error:
        reason = "unknown element" if "not a valid Element" in str(error) else "structure does not parse"
        raise BadRowError(reason, error) from None
    return _from_pymatgen(structure)


def _from_pymatgen(structure: Any) -> Arrays:
    from pymatgen.core import DummySpecies

    if not structure.is_ordered:
        raise BadRowError("partial occupancy", structure.composition.formula)
    for species in structure.elements:
        if isinstance(species, DummySpecies) or getattr(species, "symbol", "") in ("D", "T"):
            raise BadRowError("unknown element", species)
    return (
        np.array(structure.atomic_numbers),
        np.array(structure.frac_coords),
        np.array(structure.lattice.matrix),
    )


def _frame_arrays(atoms: Any) -> Arrays:
    if not atoms.cell.array.any():
        raise BadRowError("no cell", "the frame has no Lattice")
    numbers = np.array(atoms.numbers)
    if (numbers == 0).any():
        raise BadRowError("unknown element", "X")
    try:
        return numbers, atoms.get_scaled_positions(wrap=False), np.array(atoms.cell.array)
    except np.linalg.LinAlgError:
        raise BadRowError("volume below 0.1 A^3", "singular cell") from None


def _as_arrays(payload: Any) -> Arrays:
    return payload


PARSERS: dict[str, Callable[[Any], Arrays]] = {
    "cif": parse_cif,
    "poscar": parse_poscar,
    "json": parse_structure_dict,
    "frame": _frame_arrays,
    "arrays": _as_arrays,
}
"""Name of a format -> its payload to arrays. Payloads travel to worker processes."""

Item = tuple[str, str, Any, dict[str, Any]]
"""What one file holds several of: name suffix, format, payload, columns."""


def cif_items(text: str) -> Iterator[Item]:
    for name, block in block_texts(text):
        yield _FRAME_NAME.sub("-", name), "cif", block, {}


def poscar_items(text: str) -> Iterator[Item]:
    yield "", "poscar", text, {}


def extxyz_items(text: str) -> Iterator[Item]:
    """Every frame; what follows a frame that does not parse cannot be read."""
    from ase.io import iread

    frames: list[Any] = []
    failure = None
    try:
        for atoms in iread(StringIO(text), index=":", format="extxyz"):
            frames.append(atoms)
    except Interrupted:
        raise
    except Exception as error:
        failure = BadRowError("extxyz does not parse", f"frame {len(frames) + 1}: {error}")
    for number, atoms in enumerate(frames, start=1):
        yield "" if len(frames) == 1 and not failure else str(number), "frame", atoms, dict(atoms.info)
    if failure is not None:
        raise failure


def json_items(text: str) -> Iterator[Item]:
    """A ``Structure``, a list of them, or a list of entries that have a ``structure``."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadRowError("JSON does not parse", error) from None
    if not isinstance(value, (dict, list)):
        raise BadRowError("not a structure", f"expected an object or a list, found {type(value).__name__}")
    single = isinstance(value, dict)
    for number, entry in enumerate([value] if single else value, start=1):
        nested = entry.get("structure") if isinstance(entry, dict) else None
        columns = {k: v for k, v in entry.items() if k != "structure"} if nested is not None else {}
        yield "" if single else str(number), "json", entry if nested is None else nested, columns


READERS: dict[str, Callable[[str], Iterator[Item]]] = {
    "cif": cif_items,
    "poscar": poscar_items,
    "extxyz": extxyz_items,
    "json": json_items,
}


def format_of(name: str) -> str | None:
    """Format of a file by its name (``.gz`` left off): one of ``READERS``, or ``csv``, ``h5``, or none."""
    lower = name.lower().removesuffix(".gz")
    for suffix, kind in _SUFFIXES.items():
        if lower.endswith(suffix):
            return kind
    return "poscar" if lower.startswith(("poscar", "contcar")) else None


_SUFFIXES = {
    ".cif": "cif",
    ".vasp": "poscar",
    ".poscar": "poscar",
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".json": "json",
    ".csv": "csv",
    ".h5": "h5",
}
