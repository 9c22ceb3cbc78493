"""Labelled structures for other programs: CIF, extended XYZ, pymatgen's entries and a table, in one folder."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.errors import UserError
from voxtal.runs import atomic_path, safe_name
from voxtal.structures.phases import PHASE_SYMPREC_ANGSTROM, with_spacegroup
from voxtal.structures.structure_set import (
    E_ABOVE_HULL,
    ENERGY_PER_ATOM,
    FORMATION_ENERGY,
    METHOD,
    STATUS,
    StructureSet,
)

VOXTAL_METHOD = "voxtal_method"
"""Key of an entry's ``parameters``: fingerprint of the method that made its energy."""

CIF_SYMPREC_ANGSTROM = 0.01
"""Atoms move at most about this far onto the symmetry that a CIF is written in."""

_NAME_LENGTH = 75  # of a CIF's data block, by its standard


def export_labelled(structures: StructureSet, folder: Path, elements: StructureSet | None = None) -> None:
    """Write ``relaxed.h5``, ``cif/ID.cif``, ``relaxed.extxyz``, ``entries.json`` and ``table.csv``.

    Parameters
    ----------
    structures : StructureSet
        With ``energy_per_atom`` and ``formation_energy`` (eV/atom) and the provenance ``method``.
    folder : Path
        Made where it is not there; files of these names are replaced.
    elements : StructureSet, optional
        The labelled elements that the formation energies are against. They go into ``entries.json``, which then is a
        whole phase diagram.

    Raises
    ------
    UserError
        The set has no energies.
    """
    _require_energies(structures)
    structures.write(folder / "relaxed.h5")
    write_cifs(structures, folder / "cif")
    write_extxyz(structures, folder / "relaxed.extxyz")
    every = structures if elements is None else StructureSet.concatenate([structures, elements])
    dump_entries(entries_of(every), folder / "entries.json")
    write_table(structures, folder / "table.csv")


def write_cifs(structures: StructureSet, folder: Path, advance: Callable[[int], object] = lambda _n: None) -> None:
    """Write each structure to ``ID.cif``; ``advance`` is told of each."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(file_names(structures.ids.tolist())):
        write_cif(structures.structure(i), str(structures.ids[i]), folder / f"{name}.cif")
        advance(1)


def write_cif(structure: Any, name: str, path: Path, symprec: float = CIF_SYMPREC_ANGSTROM) -> None:
    """Write a structure in its conventional cell, with the loop of its symmetry operations.

    Parameters
    ----------
    structure : Structure
        Ordered pymatgen structure.
    name : str
        Becomes the name of the data block; what CIF does not allow there becomes ``_``.
    path : Path
        File to write.
    symprec : float
        Tolerance of the symmetry, angstrom.
    """
    from pymatgen.io.cif import CifWriter

    try:
        text = str(CifWriter(structure, symprec=symprec, refine_struct=True))
    except Exception:  # spglib gives some cells up, and pymatgen fails on what it gets: as they are, then
        text = str(CifWriter(structure))
    block = re.sub(r"[^!-~]", "_", name)[:_NAME_LENGTH]
    with atomic_path(path) as temporary:
        temporary.write_text(re.sub(r"^data_.*$", lambda _: f"data_{block}", text, count=1, flags=re.MULTILINE))


def write_extxyz(structures: StructureSet, path: Path) -> None:
    """Write all structures as frames of one file; ``energy`` is the total energy in eV."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    frames = []
    for i in range(len(structures)):
        numbers, frac_coords, cell = structures.arrays(i)
        atoms = Atoms(numbers, scaled_positions=frac_coords, cell=cell, pbc=True)
        atoms.info = {"id": str(structures.ids[i])}
        atoms.info |= {name: float(column[i]) for name, column in structures.properties.items() if _known(column[i])}
        atoms.info |= {name: str(column[i]) for name, column in structures.provenance.items() if column[i]}
        atoms.calc = SinglePointCalculator(atoms, energy=float(structures.properties[ENERGY_PER_ATOM][i]) * len(atoms))
        frames.append(atoms)
    with atomic_path(path) as temporary:
        write(temporary, frames, format="extxyz")


def entries_of(structures: StructureSet) -> list[Any]:
    """Each structure as a pymatgen ``ComputedStructureEntry``: total energy in eV, method in ``parameters``."""
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    out = []
    for i in range(len(structures)):
        structure = structures.structure(i)
        numbers = {
            f"{name}_per_atom": float(structures.properties[name][i])
            for name in (FORMATION_ENERGY, E_ABOVE_HULL)
            if name in structures.properties and _known(structures.properties[name][i])
        }
        texts = {name: str(structures.provenance[name][i]) for name in (STATUS,) if name in structures.provenance}
        out.append(
            ComputedStructureEntry(
                structure,
                float(structures.properties[ENERGY_PER_ATOM][i]) * len(structure),
                entry_id=str(structures.ids[i]),
                parameters={VOXTAL_METHOD: str(structures.provenance[METHOD][i])},
                data=numbers | texts,
            )
        )
    return out


def dump_entries(entries: Sequence[Any], path: Path) -> None:
    """Write pymatgen entries as a JSON list, as monty's ``dumpfn`` does."""
    from monty.json import MontyEncoder

    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(entries, cls=MontyEncoder) + "\n", encoding="utf-8")


def write_table(structures: StructureSet, path: Path) -> None:
    """Write one row for each structure: formula, space group (0.1 A), atoms, every property and provenance."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        properties = {_with_unit(name): column for name, column in structures.properties.items()}
        writer.writerow(("id", "formula", "spacegroup", "atoms", *properties, *structures.provenance))
        for i in range(len(structures)):
            structure = structures.structure(i)
            numbers = ("" if not _known(column[i]) else f"{column[i]:.6f}" for column in properties.values())
            texts = (column[i] for column in structures.provenance.values())
            number = with_spacegroup(structure, PHASE_SYMPREC_ANGSTROM)
            formula = structure.composition.reduced_formula
            writer.writerow((structures.ids[i], formula, number, len(structure), *numbers, *texts))


def file_names(ids: Iterable[str]) -> list[str]:
    """A file name for each id, no two of them equal, not even where case does not count."""
    taken: set[str] = set()
    out = []
    for id_ in ids:
        name = stem = safe_name(id_)
        number = 1
        while name.lower() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.lower())
        out.append(name)
    return out


def _require_energies(structures: StructureSet) -> None:
    lacking = [name for name in (ENERGY_PER_ATOM, FORMATION_ENERGY) if name not in structures.properties]
    lacking += [name for name in (METHOD,) if name not in structures.provenance]
    if lacking:
        raise UserError(f"The structures have no {', '.join(lacking)}; `voxtal relax` makes labelled ones.")


def _with_unit(name: str) -> str:
    is_energy = "energy" in name or "hull" in name
    return f"{name.removesuffix('_per_atom')}_ev_per_atom" if is_energy else name


def _known(value: Any) -> bool:
    return bool(np.isfinite(value))
