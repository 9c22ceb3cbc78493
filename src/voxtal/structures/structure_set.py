"""``StructureSet``: a table of crystal structures in one HDF5 file, as ragged arrays.

Layout of the file (all datasets uncompressed, one row per structure unless said otherwise):

==================  ==================  =====================================================
dataset             shape, type         meaning
==================  ==================  =====================================================
``ids``             (n,) str            unique id of each structure
``offsets``         (n + 1,) int64      atoms of structure i are rows offsets[i]:offsets[i+1]
``numbers``         (atoms,) uint8      atomic numbers
``frac_coords``     (atoms, 3) float64  fractional coordinates
``cells``           (n, 3, 3) float64   lattice vectors as rows, angstrom
``properties/*``    (n,) float64        numbers, NaN where unknown; energies in eV/atom
``provenance/*``    (n,) str            text, empty where unknown
==================  ==================  =====================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from voxtal.errors import UserError
from voxtal.runs import atomic_path

SCHEMA = "voxtal-structure-set-1"

FORMATION_ENERGY = "formation_energy"
"""Property: formation energy, eV/atom."""
ENERGY_PER_ATOM = "energy_per_atom"
"""Property: energy of the relaxed structure by its method, eV/atom."""
E_ABOVE_HULL = "e_above_hull"
"""Property: energy above hull, eV/atom."""
METHOD = "method"
"""Provenance: fingerprint of the method that made the labels."""
STATUS = "status"
"""Provenance: how the relaxation ended, ``converged`` or ``unconverged``."""
SPLIT = "split"
"""Provenance: ``train``, ``validation`` or ``heldout``."""
REASON = "reason"
"""Provenance: why an attempt is no valid structure; empty for a valid one."""
SOURCE = "source"
"""Provenance: where the structure came from (a prototype, a file and row, a candidate id)."""


@dataclass(frozen=True)
class StructureSet:
    """A table of structures; see the module's docstring for the shapes."""

    ids: np.ndarray
    offsets: np.ndarray
    numbers: np.ndarray
    frac_coords: np.ndarray
    cells: np.ndarray
    properties: dict[str, np.ndarray] = field(default_factory=dict)
    provenance: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.ids)
        assert self.offsets.shape == (n + 1,)
        assert self.cells.shape == (n, 3, 3)
        assert len(self.numbers) == len(self.frac_coords) == self.offsets[-1]
        assert all(len(column) == n for column in (*self.properties.values(), *self.provenance.values()))

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Any]:
        return (self.structure(i) for i in range(len(self)))

    def arrays(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Atomic numbers (atoms,), fractional coordinates (atoms, 3) and cell (3, 3) of structure ``i``."""
        atoms = slice(self.offsets[i], self.offsets[i + 1])
        return self.numbers[atoms], self.frac_coords[atoms], self.cells[i]

    def structure(self, i: int) -> Any:
        """Structure ``i`` as a pymatgen ``Structure``."""
        from pymatgen.core import Lattice, Structure

        numbers, frac_coords, cell = self.arrays(i)
        return Structure(Lattice(cell), numbers.tolist(), frac_coords)

    def subset(self, indices: Sequence[int] | np.ndarray) -> StructureSet:
        """The structures at ``indices``, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        counts = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        atoms = (
            np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1]) for i in rows])
            if len(rows)
            else np.empty(0, dtype=np.int64)
        )
        return StructureSet(
            ids=self.ids[rows],
            offsets=offsets,
            numbers=self.numbers[atoms],
            frac_coords=self.frac_coords[atoms],
            cells=self.cells[rows],
            properties={k: v[rows] for k, v in self.properties.items()},
            provenance={k: v[rows] for k, v in self.provenance.items()},
        )

    def with_columns(
        self,
        properties: Mapping[str, Sequence[float] | np.ndarray] | None = None,
        provenance: Mapping[str, Sequence[str] | np.ndarray] | None = None,
    ) -> StructureSet:
        """A copy with columns added or replaced."""
        return StructureSet(
            self.ids,
            self.offsets,
            self.numbers,
            self.frac_coords,
            self.cells,
            self.properties | {k: np.asarray(v, dtype=np.float64) for k, v in (properties or {}).items()},
            self.provenance | {k: _text(v) for k, v in (provenance or {}).items()},
        )

    def without_labels(self) -> StructureSet:
        """A copy of structures and where they come from: no properties, nor how those were made."""
        kept = {name: text for name, text in self.provenance.items() if name not in (METHOD, STATUS)}
        return replace(self, properties={}, provenance=kept)

    @classmethod
    def from_structures(
        cls,
        structures: Sequence[Any],
        ids: Sequence[str],
        properties: Mapping[str, Sequence[float] | np.ndarray] | None = None,
        provenance: Mapping[str, Sequence[str] | np.ndarray] | None = None,
    ) -> StructureSet:
        """Pack ordered pymatgen structures."""
        counts = [len(s) for s in structures]
        numbers = [np.asarray(s.atomic_numbers, dtype=np.uint8) for s in structures]
        frac = [np.asarray(s.frac_coords, dtype=np.float64).reshape(-1, 3) for s in structures]
        cells = [np.asarray(s.lattice.matrix, dtype=np.float64) for s in structures]
        return cls(
            ids=_text(ids),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            numbers=np.concatenate(numbers) if numbers else np.empty(0, dtype=np.uint8),
            frac_coords=np.concatenate(frac) if frac else np.empty((0, 3)),
            cells=np.stack(cells) if cells else np.empty((0, 3, 3)),
            properties={k: np.asarray(v, dtype=np.float64) for k, v in (properties or {}).items()},
            provenance={k: _text(v) for k, v in (provenance or {}).items()},
        )

    @classmethod
    def concatenate(cls, sets: Sequence[StructureSet]) -> StructureSet:
        """All structures of ``sets`` in order; columns that one lacks are NaN or empty there."""
        property_names = list(dict.fromkeys(name for s in sets for name in s.properties))
        provenance_names = list(dict.fromkeys(name for s in sets for name in s.provenance))
        counts = np.concatenate([np.diff(s.offsets) for s in sets])
        return cls(
            ids=_text([i for s in sets for i in s.ids]),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            numbers=np.concatenate([s.numbers for s in sets]),
            frac_coords=np.concatenate([s.frac_coords for s in sets]),
            cells=np.concatenate([s.cells for s in sets]),
            properties={
                name: np.concatenate([s.properties.get(name, np.full(len(s), np.nan)) for s in sets])
                for name in property_names
            },
            provenance={
                name: _text([v for s in sets for v in s.provenance.get(name, [""] * len(s))])
                for name in provenance_names
            },
        )

    def write(self, path: Path) -> None:
        """Write the set to ``path`` atomically."""
        with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["schema"] = SCHEMA
            for name in ("offsets", "numbers", "frac_coords", "cells"):
                file[name] = getattr(self, name)
            file.create_dataset("ids", data=self.ids.astype(object), dtype=h5py.string_dtype())
            for name, column in self.properties.items():
                file[f"properties/{name}"] = column
            for name, text in self.provenance.items():
                file.create_dataset(f"provenance/{name}", data=text.astype(object), dtype=h5py.string_dtype())

    @classmethod
    def read(cls, path: Path, start: int = 0, stop: int | None = None) -> StructureSet:
        """Read a set, or only its rows ``start`` to ``stop``.

        Raises
        ------
        UserError
            There is no such file, it is not HDF5, or it is not a structure set of this version.
        """
        if not path.is_file():
            raise UserError(f"No structure set at {path}; make one with `voxtal import` or `voxtal hypothetical`.")
        try:
            with h5py.File(path, "r") as file:
                if file.attrs.get("schema") != SCHEMA:
                    raise UserError(
                        f"{path} is not a voxtal structure set ({SCHEMA}); its schema is {file.attrs.get('schema')!r}."
                    )
                rows = slice(start, len(file["cells"]) if stop is None else stop)
                offsets = file["offsets"][rows.start : rows.stop + 1]
                atoms = slice(offsets[0], offsets[-1])
                return cls(
                    ids=_text(file["ids"].asstr()[rows]),
                    offsets=offsets - offsets[0],
                    numbers=file["numbers"][atoms],
                    frac_coords=file["frac_coords"][atoms],
                    cells=file["cells"][rows],
                    properties={k: v[rows] for k, v in file.get("properties", {}).items()},
                    provenance={k: _text(v.asstr()[rows]) for k, v in file.get("provenance", {}).items()},
                )
        except (OSError, KeyError) as error:
            raise UserError(f"{path} cannot be read as a structure set: {error}.") from None


def _text(values: Any) -> np.ndarray:
    return np.asarray([str(v) for v in values], dtype=np.str_)
