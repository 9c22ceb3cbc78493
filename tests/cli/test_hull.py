from __future__ import annotations

import csv
import gzip
import json
import shutil
from itertools import islice
from pathlib import Path

import pytest
import typer
from monty.serialization import dumpfn, loadfn
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedEntry

from voxtal.calculators.base import CalculatorSpec, RelaxSettings
from voxtal.calculators.registry import get_calculator
from voxtal.cli.common import run_command
from voxtal.cli.hull import hull
from voxtal.errors import EXIT_DONE, EXIT_USAGE
from voxtal.structures.export import export_labelled
from voxtal.structures.importers import import_structures
from voxtal.structures.structure_set import ENERGY_PER_ATOM, FORMATION_ENERGY, METHOD, StructureSet
from voxtal.workflows.labels import element_set
from voxtal.workflows.local import Local
from voxtal.workflows.relaxation import relax_set

FCC = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
EMT = get_calculator(CalculatorSpec("emt")).method.fingerprint
CONFIG = 'system = "Cu-Au"\n[relax]\ncalculator = "emt"\n'


def call(*arguments: object) -> int:
    app = typer.Typer()
    app.command()(hull)
    command = typer.main.get_command(app)
    return run_command(lambda: command.main([str(a) for a in arguments], standalone_mode=False))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one known phase in round 0 and a better one, a candidate, in round 1; both also in a set, alone."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "voxtal.toml").write_text(CONFIG)
    b2 = Structure(Lattice.cubic(3.1), ["Au", "Cu"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    l12 = Structure(Lattice.cubic(3.75), ["Au", "Cu", "Cu", "Cu"], FCC)
    labelled = []
    for n, (id, structure, purpose) in enumerate([("b2", b2, "training"), ("l12", l12, "candidate")]):
        given = StructureSet.from_structures([structure], [id])
        given.write(folder / f"round-{n:03d}" / "structures.h5")
        ledger = folder / "ledger.sqlite"
        emt, settings = CalculatorSpec("emt"), RelaxSettings(60, 0.02)
        labelled.append(relax_set(given, emt, settings, ledger, purpose, round=n, backend=Local(1)))
    StructureSet.concatenate(labelled).write(folder / "alone" / "relaxed.h5")
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of :func:`made` of one's own."""
    return shutil.copytree(made, tmp_path / "run")


def test_the_hull_of_a_run_is_written_drawn_and_told(run, capsys):
    """The newest round's hull would miss labels, or its files would not be where the report looks."""
    assert call("--run", run) == EXIT_DONE
    folder = run / "round-001" / "hull"
    built = json.loads((folder / "hull.json").read_text())
    assert built["elements"] == ["Au", "Cu"]
    assert len(built["hull"]) == 3
    assert "l12" in built["hull"]
    assert (folder / "hull.png").stat().st_size > 10_000
    assert (folder / "hull.svg").read_text().startswith("<?xml")
    printed = capsys.readouterr().out
    assert "Stable phases of Au-Cu" in printed
    assert "Cu3Au" in printed


def test_an_earlier_round_knows_nothing_of_later_ones(run):
    """The hull before augmentation would hold what augmentation found."""
    assert call("--run", run, "--round", 0) == EXIT_DONE
    built = json.loads((run / "round-000" / "hull" / "hull.json").read_text())
    assert "l12" not in {row["id"] for row in built["entries"]}


def test_competing_phases_join_the_known_ones(run, tmp_path, capsys):
    """A candidate would be a discovery although a known phase is lower."""
    stable = ComputedEntry("AuCu3", 4 * (average(run) - 0.5), entry_id="known", parameters={"voxtal_method": EMT})
    dumpfn([stable], tmp_path / "known.json")
    assert call("--run", run, "--competing", tmp_path / "known.json", "-o", tmp_path / "out") == EXIT_DONE
    rows = rows_of(tmp_path / "out")
    assert rows["competing-known"]["formation_energy_ev_per_atom"] == pytest.approx(-0.5, abs=0.01)
    assert rows["l12"]["e_above_known_hull_ev_per_atom"] > 0.4
    shutil.copy(tmp_path / "known.json", run / "known.json")
    config = CONFIG + '[hull]\ncompeting = ["known.json"]\n'
    (run / "voxtal.toml").write_text(config)
    assert call("--run", run) == EXIT_DONE
    assert "competing-known" in rows_of(run / "round-001" / "hull")
    capsys.readouterr()
    assert call("--run", run, "--competing", "mp") == EXIT_USAGE
    assert f"The labels are by {EMT}, and the Materials Project's" in capsys.readouterr().err


def average(run: Path) -> float:
    """Energy per atom of Cu3Au that is unmixed, eV."""
    elements = element_set(run / "ledger.sqlite", EMT, ("Cu", "Au"))
    gold, copper = elements.properties[ENERGY_PER_ATOM]
    return 0.25 * gold + 0.75 * copper


def rows_of(folder: Path) -> dict[str, dict]:
    return {row["id"]: row for row in json.loads((folder / "hull.json").read_text())["entries"]}


def test_a_set_alone_has_a_hull(run, monkeypatch, capsys):
    """Structures relaxed by hand could not be judged without a training run: by their formation energies, and by total
    energies with the ledger beside them."""
    monkeypatch.chdir(run / "alone")
    assert call("relaxed.h5") == EXIT_DONE
    alone = rows_of(Path("hull"))
    assert Path("hull/hull.png").is_file()
    assert {row["role"] for row in alone.values()} == {"element", "given"}
    assert "Stable phases of Au-Cu" in capsys.readouterr().out
    assert call(".", "--run", run, "-o", "with-ledger") == EXIT_DONE
    beside = rows_of(Path("with-ledger"))
    assert "element-Cu" not in beside
    for id in ("b2", "l12"):
        for key in ("formation_energy_ev_per_atom", "e_above_hull_ev_per_atom"):
            assert beside[id][key] == pytest.approx(alone[id][key], abs=1e-9)
    shutil.copy(run / "ledger.sqlite", "ledger.sqlite")
    assert call("relaxed.h5", "-o", "beside", "--system", "Cu-Au") == EXIT_DONE
    assert rows_of(Path("beside")) == beside


def test_entries_alone_have_a_hull(run, monkeypatch, capsys):
    """The JSON that `voxtal relax -o FOLDER/` writes, or a user has from elsewhere, could not be judged."""
    monkeypatch.chdir(run / "alone")
    structures = StructureSet.read(Path("relaxed.h5"))
    export_labelled(structures, Path("out"), element_set(run / "ledger.sqlite", EMT, ("Cu", "Au")))
    assert call("out/entries.json") == EXIT_DONE
    assert call("relaxed.h5", "-o", "set", "--competing", "out/entries.json") == EXIT_DONE
    rows, same = rows_of(Path("set")), rows_of(Path("hull"))
    assert {rows["b2"]["role"], rows["competing-b2"]["role"], same["b2"]["role"]} == {"candidate", "competing", "given"}
    for id in ("b2", "l12"):
        above = same[id]["e_above_hull_ev_per_atom"]
        assert rows[id]["e_above_known_hull_ev_per_atom"] == pytest.approx(above, abs=1e-9)
    dumpfn([ComputedEntry("Cu", -1.0)], "foreign.json")
    capsys.readouterr()
    assert call("relaxed.h5", "--competing", "foreign.json") == EXIT_USAGE
    assert "do not say by which method" in capsys.readouterr().err
    dumpfn([e for e in loadfn("out/entries.json") if not e.composition.is_element], "compounds.json")
    assert call("compounds.json") == EXIT_USAGE
    assert "compounds.json has no reference energy of Au, Cu by emt-" in capsys.readouterr().err


def test_a_run_without_a_system_has_heights_above_the_hulls_of_its_systems(run, capsys):
    """Candidates of a run over the whole periodic table would have no energy above the hull."""
    assert call("--run", run) == EXIT_DONE
    one = rows_of(run / "round-001" / "hull")
    (run / "voxtal.toml").write_text(CONFIG.partition("\n")[2])
    assert call("--run", run) == EXIT_DONE
    many = rows_of(run / "round-001" / "hull")
    assert many.keys() == one.keys()
    for key in ("formation_energy_ev_per_atom", "e_above_known_hull_ev_per_atom", "e_above_hull_ev_per_atom"):
        assert [many[id][key] for id in one] == pytest.approx([one[id][key] for id in one], abs=1e-9)
    assert call("--run", run, "--competing", "mp") == EXIT_USAGE
    assert "one chemical system" in capsys.readouterr().err


def test_the_materials_project_joins_vasp_from_the_runs_cache(tmp_path, monkeypatch, capsys):
    """On a node without a network, VASP's labels could not meet the phases that were fetched before. The answer of the
    Materials Project is constructed; the calculator and its method are VASP's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MP_API_KEY", raising=False)
    Path("voxtal.toml").write_text('[relax]\ncalculator = "vasp"\n')
    vasp = get_calculator(CalculatorSpec("vasp")).method.fingerprint
    b2 = Structure(Lattice.cubic(3.1), ["Co", "Hf"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    energies = {ENERGY_PER_ATOM: [-8.5], FORMATION_ENERGY: [-0.4]}
    StructureSet.from_structures([b2], ["b2"], properties=energies, provenance={METHOD: [vasp]}).write(Path("set.h5"))
    assert call("set.h5", "--competing", "mp") == EXIT_USAGE
    assert "set MP_API_KEY" in capsys.readouterr().err
    Path("competing").mkdir()
    known = [
        ComputedEntry(formula, energy, parameters={"run_type": "GGA"})
        for formula, energy in (("Co", -7.0), ("Hf", -9.9), ("CoHf", -17.5))
    ]
    dumpfn(known, "competing/GGA_GGA+U-Co-Hf.json")
    assert call("set.h5", "--competing", "mp") == EXIT_DONE
    row = rows_of(Path("hull"))["b2"]
    assert row["formation_energy_ev_per_atom"] == pytest.approx(-0.05)
    assert row["e_above_known_hull_ev_per_atom"] == pytest.approx(0.25)
    Path("voxtal.toml").write_text('[relax]\ncalculator = "emt"\n')
    assert call("set.h5", "--competing", "mp") == EXIT_USAGE
    assert "name the run that made the labels with --run" in capsys.readouterr().err


def test_many_systems_get_a_table(tmp_path, shared_data, monkeypatch, capsys):
    """Real structures of hundreds of systems, with imported formation energies and no ledger, would need a run each."""
    monkeypatch.chdir(tmp_path)
    csv.field_size_limit(10**9)
    with (
        gzip.open(shared_data / "mp_20_binary_ternary.csv.gz", "rt", encoding="utf-8") as file,
        open("mp.csv", "w") as few,
    ):
        rows = csv.reader(file)
        csv.writer(few).writerows([next(rows), *islice(rows, 0, None, 60)])
    import_structures([Path("mp.csv")]).structures.write(Path("mp.h5"))
    assert call("mp.h5") == EXIT_DONE
    built = json.loads(Path("hull/hull.json").read_text())
    assert built["system"] is None
    assert not Path("hull/hull.png").exists()
    assert "an unknown method" in capsys.readouterr().out
    assert call("mp.h5", "--system", "Co-Hf-Xx") == EXIT_USAGE


def test_a_run_without_labels_says_what_to_do(run, tmp_path, capsys):
    """A hull too early, or with another calculator's labels, would be empty or a traceback."""
    assert call("--run", run, "--set", "relax.calculator=chgnet") == EXIT_USAGE
    assert "it holds labels of emt-" in capsys.readouterr().err
    assert call("--run", run, "--set", "system=Cu-Ag") == EXIT_USAGE
    assert "no reference energy of Ag" in capsys.readouterr().err
    (run / "ledger.sqlite").unlink()
    assert call("--run", run) == EXIT_USAGE
    assert "voxtal relax" in capsys.readouterr().err
    assert not (run / "ledger.sqlite").exists()
