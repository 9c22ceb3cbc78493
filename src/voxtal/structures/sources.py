"""Paths that a user names to raw rows: tables, folders, single files, structure sets."""

from __future__ import annotations

import csv
import gzip
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from voxtal.errors import UserError
from voxtal.structures.columns import CIF, ID, rename, resolve_columns
from voxtal.structures.formats import READERS, Item, format_of
from voxtal.structures.rows import BadRowError, Dropped, RawRow
from voxtal.structures.structure_set import SOURCE, StructureSet

_READ_ERRORS = (OSError, EOFError, zlib.error, UnicodeDecodeError)


def open_source(path: Path, explicit: Mapping[str, str]) -> Iterator[RawRow | Dropped]:
    """Rows of a CSV, CIF, POSCAR, extxyz, JSON or structure set file, or of a folder of such files.

    The header of a table is read at once, so that what is wrong with it shows before any work is done.

    Raises
    ------
    UserError
        There is no such path, it is empty, cannot be read or has no CIF column.
    """
    if path.is_dir():
        return _folder_rows(path, explicit)
    if not path.exists():
        raise UserError(f"There is no file or folder {path}.")
    kind = format_of(path.name)
    if kind is None:
        raise UserError(
            f"{path}: the format cannot be told from the name. Known: .csv, .cif, .vasp, POSCAR*, CONTCAR*, "
            ".extxyz, .xyz, .json (each also .gz) and .h5 structure sets."
        )
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty.")
    if kind == "h5":
        return rows_of(StructureSet.read(path), str(path))
    if kind == "csv":
        return _table_rows(path, explicit)
    try:
        text = _read_text(path)
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from None
    if not text.strip():
        raise UserError(f"{path} is empty.")
    return _file_rows(text, kind, str(path), path.name, explicit)


def _unreadable(path: Path, error: BaseException) -> UserError:
    if isinstance(error, gzip.BadGzipFile):
        return UserError(f"{path} is named .gz but is not gzip-compressed; rename it or compress it.")
    if isinstance(error, (EOFError, zlib.error)):
        return UserError(f"{path} is a broken gzip file ({error}); get it again.")
    if isinstance(error, UnicodeDecodeError):
        return UserError(f"{path} is not UTF-8 text ({error}); convert it, for example with iconv.")
    return UserError(f"{path} cannot be read: {error}.")


def _open_text(path: Path) -> TextIO:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return open(path, encoding="utf-8-sig", newline="")


def _read_text(path: Path) -> str:
    with _open_text(path) as handle:
        return handle.read()


def _folder_rows(folder: Path, explicit: Mapping[str, str]) -> Iterator[RawRow | Dropped]:
    files = [
        (Path(root) / name)
        for root, folders, names in os.walk(folder)
        if folders.sort() is None
        for name in sorted(names)
        if not name.startswith(".") and format_of(name) in READERS
    ]
    if not files:
        raise UserError(f"{folder} holds no CIF, POSCAR, extxyz or JSON file.")

    def rows() -> Iterator[RawRow | Dropped]:
        for path in files:
            name = path.relative_to(folder).as_posix()
            try:
                text = _read_text(path)
            except _READ_ERRORS as error:
                yield Dropped(str(path), name, "file cannot be read", str(error))
                continue
            if not text.strip():
                yield Dropped(str(path), name, "empty file", "")
                continue
            yield from _file_rows(text, format_of(path.name) or "", str(path), name, explicit)

    return rows()


def _file_rows(text: str, kind: str, source: str, name: str, explicit: Mapping[str, str]) -> Iterator[RawRow | Dropped]:
    items: list[Item] = []
    failure = None
    try:
        for item in READERS[kind](text):
            items.append(item)
    except BadRowError as error:
        failure = Dropped(source, name, error.reason, error.detail)
    header = dict.fromkeys(key for *_, columns in items for key in columns)
    columns = resolve_columns(header, explicit if header else {}, source)
    return _item_rows(items, columns, source, name, failure)


def _item_rows(
    items: Iterable[Item], columns: Mapping[str, str], source: str, name: str, failure: Dropped | None
) -> Iterator[RawRow | Dropped]:
    for part, kind, payload, row in items:
        own_id = _clean(row.get(columns.get(ID, ""), ""))
        where = f"{source}:{part}" if part else source
        yield RawRow(where, own_id or (f"{name}-{part}" if part else name), kind, payload, rename(row, columns))
    if failure is not None:
        yield failure


def _table_rows(path: Path, explicit: Mapping[str, str]) -> Iterator[RawRow]:
    csv.field_size_limit(sys.maxsize)
    try:
        handle = _open_text(path)
        reader = csv.DictReader(handle)
        header = reader.fieldnames
    except (*_READ_ERRORS, csv.Error) as error:
        raise _unreadable(path, error) from None
    if not header:
        raise UserError(f"{path} is empty.")
    columns = resolve_columns(header, explicit, str(path))
    if CIF not in columns:
        raise UserError(
            f"{path} has no CIF column; its columns are: {', '.join(header)}. Name it with --column cif=COLUMN."
        )

    def rows() -> Iterator[RawRow]:
        number = 0
        with handle:
            try:
                for number, row in enumerate(reader, start=1):
                    row_id = _clean(row.get(columns.get(ID, ""), "")) or f"{path.name.split('.')[0]}-{number}"
                    yield RawRow(f"{path}:{number}", row_id, "cif", row[columns[CIF]] or "", rename(row, columns))
            except (*_READ_ERRORS, csv.Error) as error:
                raise UserError(f"After row {number}: {_unreadable(path, error)}") from None
        if number == 0:
            raise UserError(f"{path} has a header but no rows.")

    return rows()


def rows_of(structures: StructureSet, name: str) -> Iterator[RawRow]:
    """Rows of a structure set; ``name`` stands for it where a row does not tell its source."""
    for i, own_id in enumerate(structures.ids):
        provenance = {column: str(text[i]) for column, text in structures.provenance.items()}
        source = provenance.pop(SOURCE, "") or f"{name}:{i + 1}"
        properties = {column: float(values[i]) for column, values in structures.properties.items()}
        # NaN means unknown in a structure set, so it is handed on as an empty value.
        known = {column: None if value != value else value for column, value in properties.items()}
        yield RawRow(source, str(own_id), "arrays", structures.arrays(i), known, provenance)


def _clean(value: Any) -> str:
    return "" if value is None else str(value).strip()
