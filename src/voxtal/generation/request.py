"""What may be asked of attempts besides their number: which elements they hold, how many atoms they have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from voxtal.errors import UserError
from voxtal.structures.phases import parse_system


@dataclass(frozen=True)
class Request:
    """Restrictions of attempts; the default has none. Elements are symbols, sorted.

    Attributes
    ----------
    system
        Exactly these elements are decoded, whether or not the generator drew them.
    elements
        Of the elements that the generator drew, only these are decoded.
    exclude
        These are never decoded.
    max_atoms
        An attempt with more atoms is no valid one.
    """

    system: tuple[str, ...] = ()
    elements: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_atoms: int | None = None

    @property
    def name(self) -> str:
        """A name for a folder of such attempts; empty where nothing is asked for."""
        parts = [
            "-".join(self.system),
            "of-" + "-".join(self.elements) if self.elements else "",
            "without-" + "-".join(self.exclude) if self.exclude else "",
            "" if self.max_atoms is None else f"up-to-{self.max_atoms}-atoms",
        ]
        return "_".join(part for part in parts if part)

    @property
    def asked(self) -> dict[str, Any]:
        """What is asked for as plain values, for the note beside the attempts."""
        return {name: value for name, value in vars(self).items() if value not in ((), None)}

    @property
    def chooses(self) -> bool:
        """Whether elements are asked for or excluded."""
        return bool(self.system or self.elements or self.exclude)

    def allowed(self, known: Iterable[str]) -> list[str]:
        """Those of the ``known`` elements that may be drawn or decoded."""
        wanted = self.system or self.elements
        return [symbol for symbol in known if symbol not in self.exclude and (not wanted or symbol in wanted)]

    def fits(self, drawn: Iterable[str]) -> bool:
        """Whether what the generator drew is what was asked for: nothing has to be added or left out."""
        symbols = set(drawn)
        if self.system:
            return symbols == set(self.system)
        return bool(symbols) and symbols == set(self.allowed(symbols))

    def check(self, known: Iterable[str]) -> None:
        """Refuse elements that a model does not know, and a request that leaves none of those that it knows.

        Raises
        ------
        UserError
            The message names the elements that the model knows.
        """
        known = list(known)
        for option, symbols in (("system", self.system), ("elements", self.elements)):
            missing = [symbol for symbol in symbols if symbol not in known]
            if missing:
                raise UserError(
                    f"--{option} {'-'.join(symbols)}: the model knows no {', '.join(missing)}; "
                    f"it knows {', '.join(known)}."
                )
        if not self.allowed(known):
            raise UserError(f"--exclude leaves no element: the model knows {', '.join(known)}.")


def request_of(
    system: str | None = None,
    elements: str | None = None,
    exclude: str | None = None,
    max_atoms: int | None = None,
) -> Request:
    """A request from the command line's words, such as ``Co-Hf`` and ``Pb,Tl``.

    Raises
    ------
    UserError
        An unknown element, one that is named twice, or options that contradict each other.
    """
    if system is not None and (elements is not None or exclude is not None):
        raise UserError("--system says which elements there are: leave --elements and --exclude out.")
    request = Request(
        _symbols("system", system), _symbols("elements", elements), _symbols("exclude", exclude), max_atoms
    )
    both = [symbol for symbol in request.elements if symbol in request.exclude]
    if both:
        raise UserError(f"{', '.join(both)} cannot be in both --elements and --exclude.")
    return request


def _symbols(option: str, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    try:
        return parse_system(text.replace(",", "-"))
    except UserError as error:
        raise UserError(f"--{option} {error}") from None
