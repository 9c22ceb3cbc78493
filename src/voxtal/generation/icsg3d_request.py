"""What may be asked of ICSG3D's generator: where in latent space it draws, and under which condition
(doi:10.1021/acs.jcim.0c00464)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxtal.errors import UserError
from voxtal.runs import safe_name
from voxtal.structures.conditions import DECILES

VARIANCE = 0.5
"""Of the codes that are drawn around a compound's, as published."""


@dataclass(frozen=True)
class MapsRequest:
    """Codes from N(0, 1), from N(mu, variance) around a compound's, or on the line between two compounds'.

    Attributes
    ----------
    around
        Id of a structure of the round, or a file of one; none: codes are drawn at random.
    between
        Two of them, or none.
    steps
        Attempts on the line from the first to the second, both included.
    variance
        Around a compound.
    decile
        Of the condition's property, 0 to 9 from the lowest values on.
    condition
        Values of the condition's properties, by name, sorted. Without these and ``decile``, random attempts take turns
        over what there is in training, others have the condition of their compounds.
    max_atoms
        An attempt with more atoms is no valid one.
    """

    around: str | None = None
    between: tuple[str, ...] = ()
    steps: int = 0
    variance: float = VARIANCE
    decile: int | None = None
    condition: tuple[tuple[str, float], ...] = ()
    max_atoms: int | None = None

    @property
    def bases(self) -> tuple[str, ...]:
        """The compounds that are named."""
        return self.between or (() if self.around is None else (self.around,))

    @property
    def name(self) -> str:
        """A name for a folder of such attempts; empty where nothing is asked for."""
        parts = [
            "" if self.around is None else f"around-{_stem(self.around)}",
            f"variance-{self.variance:g}" if self.around is not None and self.variance != VARIANCE else "",
            f"between-{'-and-'.join(map(_stem, self.between))}_{self.steps}-steps" if self.between else "",
            "" if self.decile is None else f"decile-{self.decile}",
            *(f"{safe_name(name)}-{value:g}" for name, value in self.condition),
            "" if self.max_atoms is None else f"up-to-{self.max_atoms}-atoms",
        ]
        return "_".join(part for part in parts if part)

    @property
    def asked(self) -> dict[str, Any]:
        """What is asked for as plain values, for the note beside the attempts. Files are named without their folder."""
        asked: dict[str, Any] = {}
        if self.around is not None:
            asked |= {"around": _name(self.around), "variance": self.variance}
        if self.between:
            asked |= {"between": [_name(base) for base in self.between], "steps": self.steps}
        if self.decile is not None:
            asked["decile"] = self.decile
        asked |= {f"condition {name}": value for name, value in self.condition}
        return asked | ({} if self.max_atoms is None else {"max_atoms": self.max_atoms})


def maps_request_of(
    around: str | None = None,
    between: Sequence[str] | None = None,
    steps: int = 0,
    variance: float | None = None,
    decile: int | None = None,
    condition: Sequence[str] | None = None,
    max_atoms: int | None = None,
) -> MapsRequest:
    """A request from the command line's words, such as ``formation_energy=-2.5``.

    Raises
    ------
    UserError
        A value that cannot be, or options that contradict each other.
    """
    if around is not None and between:
        raise UserError("--around and --between are two ways to generate; give one of them.")
    if variance is not None and around is None:
        raise UserError("--variance belongs to --around, which names the compound.")
    if variance is not None and not (math.isfinite(variance) and variance > 0):
        raise UserError(f"--variance {variance:g}: it has to be a number above 0; the paper's is {VARIANCE}.")
    if decile is not None and not 0 <= decile < DECILES:
        raise UserError(f"--decile {decile}: deciles are 0, the lowest values, to {DECILES - 1}.")
    if decile is not None and condition:
        raise UserError("--decile and --condition both say what the condition is; give one of them.")
    if between and between[0] == between[1]:
        raise UserError(f"--between {between[0]} {between[1]}: name two compounds.")
    if between and steps < 2:
        raise UserError("--between takes at least two attempts, one at each end; give -n 2 or more.")
    return MapsRequest(
        around,
        tuple(between or ()),
        steps if between else 0,
        VARIANCE if variance is None else variance,
        decile,
        _values(condition or ()),
        max_atoms,
    )


def _values(texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    found: dict[str, float] = {}
    for text in texts:
        name, separator, number = text.partition("=")
        name = name.strip()
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not separator or not name or not math.isfinite(value):
            raise UserError(f"--condition {text!r}: write it as property=number, such as formation_energy=-2.5.")
        if name in found:
            raise UserError(f"--condition {name} is given twice.")
        found[name] = value
    return tuple(sorted(found.items()))


def _name(base: str) -> str:
    return Path(base).name


def _stem(base: str) -> str:
    return safe_name(Path(base).stem if Path(base).is_file() else Path(base).name)
