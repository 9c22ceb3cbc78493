from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from monty.serialization import dumpfn
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import (
    ComputedEntry,
    ComputedStructureEntry,
    ConstantEnergyAdjustment,
)

from voxtal.errors import UserError
from voxtal.screening.competing import competing_entries, materials_project, method_of, read_entries

METHOD = "vasp-pbe-12345678"
B2 = Structure(Lattice.cubic(3.2), ["Co", "Hf"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def entries(method: str | None = METHOD) -> list[ComputedEntry]:
    parameters = {} if method is None else {"voxtal_method": method}
    return [
        ComputedStructureEntry(
            B2,
            -17.0,
            energy_adjustments=[ConstantEnergyAdjustment(-1.0, name="MP2020")],
            entry_id="mp-1",
            parameters=parameters,
        ),
        ComputedEntry("Co2Hf", -24.0, entry_id="mp-1", parameters=parameters),
        ComputedEntry("CoO", -12.0, parameters=parameters),
    ]


@pytest.mark.parametrize("form", ["dumpfn", "dictionaries", "object"])
def test_every_way_to_write_entries_is_read(tmp_path, form):
    """A user's known phases could not be read; corrections would be lost, elements outside be taken, ids collide."""
    path = tmp_path / "known.json"
    if form == "dumpfn":
        dumpfn(entries(), path)
    else:
        plain = [{k: v for k, v in e.as_dict().items() if not k.startswith("@")} for e in entries()]
        path.write_text(json.dumps(plain if form == "dictionaries" else {"entries": plain}))
    found = competing_entries([str(path)], ["Co", "Hf"], METHOD)
    assert [e.id for e in found] == ["competing-mp-1", "competing-mp-1-2"]
    assert [e.energy_per_atom for e in found] == [-9.0, -8.0]
    assert found[0].composition == {"Co": 1.0, "Hf": 1.0}
    assert (found[0].spacegroup, found[1].spacegroup) == (221, None)
    assert {(e.role, e.method) for e in found} == {("competing", METHOD)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No entries at"),
        ("{", "not valid JSON"),
        ('{"a": 1}', "no list of entries"),
        ('[{"composition": {"Co": 1}}]', "item 1 is no ComputedEntry"),
        (json.dumps([B2.as_dict()]), "item 1 is no ComputedEntry"),
    ],
)
def test_what_holds_no_entries_is_told(tmp_path, text, message):
    """A wrong file would end in a traceback of pymatgen."""
    path = tmp_path / "known.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_entries(path)


def test_other_methods_and_unknown_ones_are_refused(tmp_path):
    """Energies of two methods would meet on one hull."""
    dumpfn(entries("chgnet-0.3.0-aaaaaaaa"), tmp_path / "chgnet.json")
    dumpfn(entries(None), tmp_path / "foreign.json")
    chgnet, foreign = str(tmp_path / "chgnet.json"), str(tmp_path / "foreign.json")
    with pytest.raises(UserError, match=rf"2 by chgnet-0.3.0-aaaaaaaa, and the labels are by {METHOD}"):
        competing_entries([chgnet], ["Co", "Hf"], METHOD)
    with pytest.raises(UserError, match="2 by chgnet"):
        competing_entries([chgnet], ["Co", "Hf"], METHOD, declared=METHOD)
    with pytest.raises(UserError, match=f"do not say .* --competing-method {METHOD}"):
        competing_entries([foreign], ["Co", "Hf"], METHOD)
    with pytest.raises(UserError, match="2 by other-method"):
        competing_entries([foreign], ["Co", "Hf"], METHOD, declared="other-method")
    assert len(competing_entries([foreign], ["Co", "Hf"], METHOD, declared=METHOD)) == 2


def with_run_type(*run_types: str) -> list[ComputedEntry]:
    return [ComputedEntry("CoHf", -17.0, entry_id=f"mp-{r}", parameters={"run_type": r}) for r in run_types]


def test_entries_of_the_materials_project_are_told_by_their_functional(tmp_path):
    """GGA entries would be refused to VASP with those settings, or r2SCAN ones accepted."""
    assert [method_of(e) for e in with_run_type("GGA", "GGA+U", "GGA_U", "r2SCAN", "HSE06")] == [
        *["GGA_GGA+U"] * 3,
        "R2SCAN",
        "",
    ]
    dumpfn(with_run_type("GGA", "GGA+U"), tmp_path / "pbe.json")
    dumpfn(with_run_type("GGA", "r2SCAN"), tmp_path / "mixed.json")
    pbe, mixed = str(tmp_path / "pbe.json"), str(tmp_path / "mixed.json")
    assert len(competing_entries([pbe], ["Co", "Hf"], METHOD, thermo_type="GGA_GGA+U")) == 2
    with pytest.raises(UserError, match="2 by GGA_GGA"):
        competing_entries([pbe], ["Co", "Hf"], "chgnet-0.3.0-aaaaaaaa")
    with pytest.raises(UserError, match="1 by R2SCAN"):
        competing_entries([mixed], ["Co", "Hf"], METHOD, thermo_type="GGA_GGA+U")


def test_the_materials_project_is_asked_once_for_one_thermo_type(tmp_path):
    """A compute node without a network would fail, or MP's default, mixed energies be taken.

    The answer is constructed at the client's boundary: no test speaks with the Materials Project.
    """
    asked: list[tuple[Sequence[str], str]] = []

    def client(elements: Sequence[str], thermo_type: str) -> list[Any]:
        asked.append((elements, thermo_type))
        return with_run_type("GGA", "GGA+U")

    arguments: dict[str, Any] = {"thermo_type": "GGA_GGA+U", "cache": tmp_path / "competing"}
    first = competing_entries(["mp"], ["Hf", "Co"], METHOD, client=client, **arguments)
    again = competing_entries(["mp"], ["Co", "Hf"], METHOD, **arguments)
    assert asked == [(["Co", "Hf"], "GGA_GGA+U")]
    assert [e.id for e in first] == [e.id for e in again] == ["competing-mp-GGA", "competing-mp-GGA+U"]
    assert (tmp_path / "competing" / "GGA_GGA+U-Co-Hf.json").is_file()
    with pytest.raises(UserError, match="R2SCAN besides GGA"):
        materials_project(["Co"], METHOD, "GGA_GGA+U", tmp_path, lambda *_: with_run_type("r2SCAN"))
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("thermo_type", [None, "GGA_GGA+U_R2SCAN"])
def test_the_materials_project_is_refused_to_other_methods(tmp_path, thermo_type):
    """CHGNet's errors would read as stability against DFT phases; mixed energies depend on what was asked."""
    with pytest.raises(UserError, match=r"by chgnet-x.*Relax the competing phases with the same calculator"):
        materials_project(["Co"], "chgnet-x", thermo_type, tmp_path)


def test_what_asking_needs_is_told(tmp_path, monkeypatch):
    """No key, no mp-api, no network: each would be a traceback. mp-api's client is a stand-in here."""

    def ask() -> None:
        materials_project(["Co", "Hf"], METHOD, "GGA_GGA+U", tmp_path)

    monkeypatch.delenv("MP_API_KEY", raising=False)
    monkeypatch.delenv("PMG_MAPI_KEY", raising=False)
    with pytest.raises(UserError, match="set MP_API_KEY"):
        ask()
    monkeypatch.setenv("MP_API_KEY", "x" * 32)
    if importlib.util.find_spec("mp_api") is None:
        with pytest.raises(UserError, match=r"voxtal\[mp\]"):
            ask()

    class Offline:
        def __enter__(self) -> Offline:
            return self

        def __exit__(self, *_: object) -> None: ...

        def get_entries_in_chemsys(self, elements: list[str], additional_criteria: dict[str, Any]) -> list[Any]:
            raise ConnectionError(f"no route for {elements} {additional_criteria}")

    client = types.ModuleType("mp_api.client")
    client.MPRester = Offline  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mp_api", types.ModuleType("mp_api"))
    monkeypatch.setitem(sys.modules, "mp_api.client", client)
    with pytest.raises(UserError, match=r"could not be asked for Co-Hf .*'thermo_types': \['GGA_GGA\+U'\]"):
        ask()


def test_a_source_is_a_path_or_mp(tmp_path, monkeypatch):
    """A file beside the user could not be named."""
    monkeypatch.chdir(tmp_path)
    dumpfn(entries(), Path("mp.json"))
    assert len(competing_entries(["mp.json"], ["Co", "Hf"], METHOD)) == 2
