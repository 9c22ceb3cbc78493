"""Known compounds that ICSG3D generates around or between, found by id or in a file."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from voxtal.errors import UserError
from voxtal.representations.density import Crystal, DensityGrid, placed_sites
from voxtal.representations.reasons import Unencodable
from voxtal.runs import RoundPaths, Run
from voxtal.structures.filters import Selection
from voxtal.structures.importers import import_structures
from voxtal.structures.structure_set import StructureSet


@dataclass(frozen=True)
class Base:
    """One compound, in the cell that the round's structures are in.

    Attributes
    ----------
    name
        As it was asked for.
    row
        The structure alone; its properties are those that are known of it.
    """

    name: str
    row: StructureSet

    @property
    def fingerprint(self) -> str:
        """Hash of the crystal and of what is known of it."""
        digest = hashlib.sha256()
        for array in (*self.row.arrays(0), *(value for _, value in sorted(self.row.properties.items()))):
            digest.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
        return digest.hexdigest()

    def value(self, property_: str) -> float:
        """A property, NaN where it is not known."""
        return float(self.row.properties.get(property_, np.array([np.nan]))[0])


def find_bases(run: Run, paths: RoundPaths, names: Sequence[str]) -> list[Base]:
    """The compounds of these names: ids of the round's structures, or files of one structure each.

    Raises
    ------
    UserError
        There is no such id or file, or the file holds no structure or several.
    """
    if not names:
        return []
    structures = StructureSet.read(paths.structures) if paths.structures.is_file() else None
    return [Base(name, _row(run, paths, structures, name)) for name in names]


def _row(run: Run, paths: RoundPaths, structures: StructureSet | None, name: str) -> StructureSet:
    if structures is not None and len(found := np.flatnonzero(structures.ids == name)):
        return structures.subset(found[:1])
    if not Path(name).is_file():
        if structures is None:
            raise UserError(f"{paths.structures} is not there to find {name!r} in; name a file of it instead.")
        near = difflib.get_close_matches(name, structures.ids.tolist(), n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{paths.structures} has no structure {name!r}, and there is no file of that name.{hint}")
    selection = Selection(cell=run.config.structures.cell, max_atoms=None, max_length=None)
    read = import_structures([Path(name)], selection=selection, workers=1)
    if len(read.structures) != 1:
        why = f": {read.dropped[0].reason} {read.dropped[0].detail}".rstrip() if read.dropped else ""
        raise UserError(f"{name} holds {len(read.structures)} structures that can be used, not one{why}.")
    return read.structures


def placed(base: Base, most_atoms: int | None, grid: DensityGrid) -> Crystal:
    """The base as its maps on ``grid`` show it.

    Raises
    ------
    UserError
        The compound has no maps, or more than ``most_atoms`` atoms.
    """
    numbers, frac_coords, cell = base.row.arrays(0)
    if most_atoms is not None and len(numbers) > most_atoms:
        raise UserError(f"{base.name} has {len(numbers)} atoms, and the VAE was trained on {most_atoms} at most.")
    try:
        return (numbers, *placed_sites(frac_coords, cell, grid))
    except Unencodable as reason:
        raise UserError(f"{base.name} has no density map: {reason}.") from None
