"""What may be asked of attempts, and what is refused."""

from __future__ import annotations

import pytest

from voxtal.errors import UserError
from voxtal.generation.request import Request, request_of


def test_words_become_a_request_with_a_name() -> None:
    """Two different requests in one folder would mix their attempts."""
    assert request_of() == Request()
    assert Request().name == ""
    assert request_of(system="Hf-Co") == request_of(system="Co-Hf") == Request(system=("Co", "Hf"))
    names = [
        request_of(system="Co-Hf").name,
        request_of(elements="Hf,Co").name,
        request_of(exclude="Co,Hf").name,
        request_of(elements="Co,Hf", exclude="Pb", max_atoms=12).name,
    ]
    assert names == ["Co-Hf", "of-Co-Hf", "without-Co-Hf", "of-Co-Hf_without-Pb_up-to-12-atoms"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"elements": "Co,Hx"}, r"--elements .*'Hx' is no element. Did you mean 'H"),
        ({"exclude": "Pb,Pb"}, "--exclude .*names an element twice"),
        ({"system": "Co-Hf", "exclude": "Pb"}, "--system says which elements there are"),
        ({"elements": "Co,Hf", "exclude": "Hf"}, "Hf cannot be in both"),
    ],
)
def test_wrong_words(words: dict[str, str], message: str) -> None:
    """Hours of attempts that nobody asked for."""
    with pytest.raises(UserError, match=message):
        request_of(**words)  # type: ignore[arg-type]


def test_elements_that_the_model_does_not_know() -> None:
    """Attempts of which every one must fail; but to exclude what is never drawn does no harm."""
    for request in (request_of(system="Co-Ni"), request_of(elements="Ni,Co")):
        with pytest.raises(UserError, match=r"the model knows no Ni; it knows Co, Hf\."):
            request.check(["Co", "Hf"])
    with pytest.raises(UserError, match="--exclude leaves no element"):
        request_of(exclude="Co,Hf").check(["Co", "Hf"])
    request_of(exclude="Pb,Co").check(["Co", "Hf"])


@pytest.mark.parametrize(
    ("request_", "drawn", "fits"),
    [
        (request_of(system="Co-Hf"), ["Co", "Hf"], True),
        (request_of(system="Co-Hf"), ["Co"], False),
        (request_of(system="Co-Hf"), ["Co", "Hf", "O"], False),
        (request_of(elements="Co,Hf,O"), ["Co", "O"], True),
        (request_of(elements="Co,Hf,O"), ["Co", "S"], False),
        (request_of(exclude="Pb"), ["Co", "S"], True),
        (request_of(exclude="Pb"), ["Pb", "S"], False),
        (request_of(exclude="Pb"), [], False),
    ],
)
def test_what_was_drawn_as_asked_for(request_: Request, drawn: list[str], fits: bool) -> None:
    """A fragment of another compound counted as a compound that was asked for."""
    assert request_.fits(drawn) is fits
