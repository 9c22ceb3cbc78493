from __future__ import annotations

import json
from pathlib import Path

import pytest

from voxtal.calculators.pseudopotentials import (
    Pseudopotential,
    cutoffs,
    functional_of,
    main,
    md5_of,
    problems_of,
    read_header,
    read_table,
)
from voxtal.errors import UserError

V2 = """<UPF version="2.0.1">
<PP_INFO>Suggested minimum cutoff for wavefunctions:  44. Ry</PP_INFO>
<PP_HEADER generated="x" element=" C" functional="{functional}" z_valence="4.0" wfc_cutoff="{wfc}" rho_cutoff="{rho}"/>
"""
V1 = """<PP_HEADER>
   0                   Version Number
  Ni                   Element
   US                  Ultrasoft pseudopotential
    T                  Nonlinear Core Correction
 SLA  PW   PBX  PBC    PBE  Exchange-Correlation functional
   10.00000000000      Z valence
     23.557    371.902 Suggested cutoff for wfc and rho
</PP_HEADER>
"""


def upf(folder: Path, name: str, functional: str = "PBE", wfc: float = 40.0, rho: float = 320.0) -> Path:
    path = folder / name
    path.write_text(V2.format(functional=functional, wfc=wfc, rho=rho))
    return path


def test_headers_of_both_versions_are_read(tmp_path):
    """Files of older sets, or their suggested cutoffs, could not be used."""
    (tmp_path / "ni.UPF").write_text(V1)
    old, new = read_header(tmp_path / "ni.UPF"), read_header(upf(tmp_path, "c.UPF", " SLA  PW   PSX  PSC"))
    assert (old.element, old.functional, old.cutoff_wfc, old.cutoff_rho) == ("Ni", "pbe", 23.557, 371.902)
    assert (new.element, new.functional, new.cutoff_wfc, new.cutoff_rho) == ("C", "pbesol", 40.0, 320.0)
    (tmp_path / "none.UPF").write_text("nothing")
    with pytest.raises(UserError, match=r"none.UPF is no UPF file"):
        read_header(tmp_path / "none.UPF")


def test_a_table_of_sssp_is_read_as_it_is(tmp_path):
    """Users would have to edit the JSON that they downloaded."""
    row = {"filename": "C.pbe.UPF", "md5": "5D27", "pseudopotential": "100US", "cutoff_wfc": 45, "cutoff_rho": 360}
    path = tmp_path / "SSSP.json"
    path.write_text(json.dumps({"Si": row | {"cutoff_wfc": 30.0, "cutoff_rho": 240.0}, "C": row}))
    table = read_table(path)
    assert list(table) == ["C", "Si"]
    assert table["C"] == Pseudopotential("C.pbe.UPF", "5d27", 45.0, 360.0)
    assert cutoffs(table) == (45.0, 360.0)
    assert cutoffs(read_table(path, ["Si"])) == (30.0, 240.0)
    with pytest.raises(UserError, match=r"no pseudopotential for Hf, Zr; it has C, Si"):
        read_table(path, ["Zr", "Hf", "C"])


def test_a_wrong_table_says_what_is_wrong(tmp_path):
    """A traceback instead of the file and the key."""
    with pytest.raises(UserError, match=r"no table of pseudopotentials .*missing.json"):
        read_table(tmp_path / "missing.json")
    (tmp_path / "t.json").write_text('{"C": {"filename": "C.UPF", "md5": "ab"}}')
    with pytest.raises(UserError, match=r"KeyError: 'cutoff_wfc'"):
        read_table(tmp_path / "t.json")


def test_everything_that_is_missing_is_named_at_once(tmp_path):
    """A user would mend one file after the other, each found after hours in the queue."""
    good = upf(tmp_path, "c.UPF")
    table = {
        "C": Pseudopotential("c.UPF", md5_of(good), 40, 320),
        "N": Pseudopotential("n.UPF", "0", 40, 320),
        "O": Pseudopotential("c.UPF", "0", 40, 320),
    }
    found = problems_of(table, tmp_path, ["C", "O", "N", "Hf"])
    assert [line.split(":")[0] for line in found] == ["no pseudopotential for Hf", "N", "O"]
    assert "n.UPF" in found[1]
    assert "md5" in found[2]


def test_mixed_functionals_are_refused(tmp_path):
    """Formation energies would be differences of two functionals."""
    table = {}
    for symbol, functional in (("B", "SLA PW PBX PBC"), ("C", "PBE"), ("N", "PBESOL")):
        upf(tmp_path, f"{symbol}.UPF", functional)
        table[symbol] = Pseudopotential(f"{symbol}.UPF", "0", 40, 320)
    with pytest.raises(UserError, match=r"pbe: B.UPF, C.UPF; pbesol: N.UPF"):
        functional_of(table, tmp_path)
    assert functional_of({s: table[s] for s in "BC"}, tmp_path) == "pbe"
    with pytest.raises(UserError, match=r"None of the table's pseudopotentials"):
        functional_of(table, tmp_path / "elsewhere")


def test_the_command_makes_a_table_of_a_folder(tmp_path, capsys):
    """Users with their own set of files would have to write checksums by hand."""
    (tmp_path / "ni.UPF").write_text(V1)
    upf(tmp_path, "c.upf", wfc=0, rho=0)
    output = tmp_path / "table.json"
    assert main([str(tmp_path), "-o", str(output)]) == 2
    assert "c.upf suggests no cutoff; give --cutoff-wfc" in capsys.readouterr().err
    assert not output.exists()
    assert main([str(tmp_path), "-o", str(output), "--cutoff-wfc", "50"]) == 0
    table = read_table(output)
    assert table["C"] == Pseudopotential("c.upf", md5_of(tmp_path / "c.upf"), 50, 200)
    assert problems_of(table, tmp_path, ["C", "Ni"]) == []
    upf(tmp_path, "c2.upf")
    assert main([str(tmp_path), "-o", str(output), "--cutoff-wfc", "50"]) == 2
    assert "c2.upf and c.upf are both of C" in capsys.readouterr().err
