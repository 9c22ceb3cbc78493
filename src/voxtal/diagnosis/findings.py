"""A finding: one row of the doctor's table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """Works, but slower or less safely than it could."""
    WRONG = "wrong"
    """Work would fail, or give something else than was asked for."""


@dataclass(frozen=True)
class Finding:
    """What one check found, and how to mend it."""

    check: str
    found: str
    verdict: Verdict = Verdict.OK
    mend: str = ""


def warning(check: str, found: str, mend: str) -> Finding:
    return Finding(check, found, Verdict.WARNING, mend)


def wrong(check: str, found: str, mend: str) -> Finding:
    return Finding(check, found, Verdict.WRONG, mend)
