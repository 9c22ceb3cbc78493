"""The folder that attempts are written to: whose they are, their blocks, and how these become ``candidates.h5``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from voxtal.errors import UserError
from voxtal.runs import RoundPaths, atomic_path, read_json, safe_name, write_json
from voxtal.structures.structure_set import SCHEMA, StructureSet

BLOCK = 64
"""Attempts of a file, which one rank makes in one go: seconds of work, and what a kill loses at most."""

_RESERVED = ("blocks", "earlier-")


@dataclass(frozen=True)
class CandidatesFolder:
    """Attempts of one request. Blocks are whole from the moment that they are there, and stay."""

    root: Path

    @property
    def candidates(self) -> Path:
        return self.root / "candidates.h5"

    def block(self, attempts: range) -> Path:
        """File of the attempts; its name tells which and how many."""
        return self.root / "blocks" / f"block-{attempts.start:08d}-{len(attempts)}.h5"

    def claim(self, asked: Mapping[str, Any], made_by: dict[str, Any], say: Callable[[str], None]) -> None:
        """Make sure that what is here, and will be, is of one request to the same models, seed and settings.

        Attempts of other models are moved to a folder ``earlier-NNN``, and ``say`` is told; nothing is deleted.

        Raises
        ------
        UserError
            The folder holds attempts of another request.
        """
        for left in [*self.root.glob(".candidates.h5.*.tmp"), *self.root.glob("blocks/.*.tmp")]:
            left.unlink()
        note = json.loads(json.dumps({"asked": dict(asked), "made_by": made_by}))
        path = self.root / "request.json"
        found = read_json(path) if path.is_file() else {}
        if found == note:
            return
        if found.get("asked", note["asked"]) != note["asked"]:
            raise UserError(
                f"{self.root} holds attempts of another request ({_words(found['asked'])}). "
                "Give these a folder of their own with --name."
            )
        if self.candidates.is_file() or any(self.root.glob("blocks/*.h5")):
            aside = self._set_aside()
            say(f"{self.root} held attempts of other models, settings or another seed; they are in {aside} now")
        write_json(path, note)

    def _set_aside(self) -> Path:
        aside = next(path for i in count(1) if not (path := self.root / f"earlier-{i:03d}").exists())
        aside.mkdir()
        for name in ("candidates.h5", "blocks", "request.json", "times.json"):
            if (self.root / name).exists():
                (self.root / name).rename(aside / name)
        return aside

    def note_time(self, attempts: int, seconds: float, ranks: int) -> None:
        """Add to ``times.json`` how long it took to make attempts; a call that was killed leaves nothing there."""
        path = self.root / "times.json"
        times = read_json(path) if path.is_file() else []
        write_json(path, [*times, {"attempts": attempts, "seconds": round(seconds, 2), "ranks": ranks}])

    def missing(self, n: int) -> list[range]:
        """The blocks of the first ``n`` attempts that are not there."""
        return [attempts for attempts in blocks_of(n) if not self.block(attempts).is_file()]

    def is_joined(self, n: int) -> bool:
        """Whether ``candidates.h5`` holds the first ``n`` attempts and no more."""
        if not self.candidates.is_file():
            return False
        with h5py.File(self.candidates, "r") as file:
            return len(file["cells"]) == n

    def join(self, n: int) -> None:
        """Write ``candidates.h5`` from the blocks of the first ``n`` attempts."""
        with atomic_path(self.candidates) as temporary:
            join_sets([self.block(attempts) for attempts in blocks_of(n)], temporary)


class Named(Protocol):
    """A request; its name is empty where nothing is asked for."""

    @property
    def name(self) -> str: ...


def candidates_folder(paths: RoundPaths, request: Named, name: str | None = None) -> CandidatesFolder:
    """The round's own folder for a request without restrictions, else one below it, by default named by the request.

    Raises
    ------
    UserError
        ``name`` is no name for a folder.
    """
    own = paths.candidates.parent
    if name is not None and (name != safe_name(name) or name.startswith((".", *_RESERVED)) or not name):
        raise UserError(f"--name {name!r} cannot be the name of a folder here; take letters, digits, - and _.")
    below = request.name if name is None else name
    return CandidatesFolder(own / below if below else own)


def blocks_of(n: int) -> list[range]:
    """The first ``n`` attempts in blocks; a block begins with the same attempt whatever ``n`` is."""
    return [range(first, min(first + BLOCK, n)) for first in range(0, n, BLOCK)]


def join_sets(paths: Sequence[Path], target: Path) -> None:
    """Write one structure set of several with the same columns, holding only one of them at a time."""
    rows, atoms = _places([_sizes(path) for path in paths])
    with h5py.File(target, "w") as file:
        file.attrs["schema"] = SCHEMA
        file.create_dataset("offsets", (rows[-1] + 1,), np.int64)[0] = 0
        for i, path in enumerate(paths):
            part = StructureSet.read(path)
            own_rows, own_atoms = slice(rows[i], rows[i + 1]), slice(atoms[i], atoms[i + 1])
            file["offsets"][own_rows.start + 1 : own_rows.stop + 1] = part.offsets[1:] + own_atoms.start
            _put(file, "numbers", atoms[-1], own_atoms, part.numbers)
            _put(file, "frac_coords", atoms[-1], own_atoms, part.frac_coords)
            _put(file, "cells", rows[-1], own_rows, part.cells)
            _put(file, "ids", rows[-1], own_rows, part.ids)
            for group, columns in (("properties", part.properties), ("provenance", part.provenance)):
                for name, values in columns.items():
                    _put(file, f"{group}/{name}", rows[-1], own_rows, values)


def _put(file: h5py.File, name: str, length: int, place: slice, values: np.ndarray) -> None:
    text = values.dtype.kind == "U"
    if name not in file:
        file.create_dataset(name, (length, *values.shape[1:]), h5py.string_dtype() if text else values.dtype)
    if len(values):
        file[name][place] = values.astype(object) if text else values


def _sizes(path: Path) -> tuple[int, int]:
    with h5py.File(path, "r") as file:
        return len(file["cells"]), len(file["numbers"])


def _places(sizes: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Where the rows and the atoms of each part begin, and where the last ends."""
    rows, atoms = np.cumsum([(0, 0), *sizes], axis=0).T.tolist()
    return rows, atoms


def _words(asked: dict[str, Any]) -> str:
    parts = [f"{name} {'-'.join(value) if isinstance(value, list) else value}" for name, value in asked.items()]
    return ", ".join(parts) or "nothing asked for"
