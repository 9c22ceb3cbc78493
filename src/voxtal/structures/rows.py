"""One row of a data set on its way in: as it was read, kept, or dropped with a reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from voxtal.structures.filters import Arrays


class BadRowError(Exception):
    """A row that cannot become a structure; recorded with its reason, never a stop."""

    def __init__(self, reason: str, detail: object = "") -> None:
        super().__init__(reason, str(detail))
        self.reason = reason
        self.detail = " ".join(str(detail).split())[:300]


@dataclass(frozen=True)
class RawRow:
    """A row as it was read; its payload is what its format's parser takes, see ``formats.PARSERS``."""

    source: str
    """``file:row`` for tables, the path for a file of its own."""
    id: str
    format: str
    payload: Any
    properties: dict[str, Any] = field(default_factory=dict)
    """Voxtal's names and the file's own, values as they were read."""
    provenance: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    source: str
    id: str
    arrays: Arrays
    properties: dict[str, float]
    text_columns: frozenset[str]
    """Names of properties whose value is no number here; such a column is not kept."""
    provenance: dict[str, str]


@dataclass(frozen=True)
class Dropped:
    source: str
    id: str
    reason: str
    detail: str
