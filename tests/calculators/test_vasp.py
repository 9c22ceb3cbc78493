"""VASP: its inputs, and stored real runs replayed through the whole hand-off (vasp_runs/README.md)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jobflow
import mongomock_persistence
import pytest
from atomate2.utils.testing import vasp as replay
from atomate2.vasp.run import run_vasp
from emmet.core.tasks import TaskDoc
from fireworks import FWorker
from fireworks.core import launchpad
from fireworks.core.rocket_launcher import rapidfire
from jobflow import JobStore
from jobflow.managers.fireworks import flow_to_workflow
from maggma.stores import MemoryStore
from mongomock.gridfs import enable_gridfs_integration
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.vasp import Incar, Kpoints

from voxtal.calculators.base import CalculatorSpec, RelaxSettings
from voxtal.calculators.maker import RelaxMaker
from voxtal.calculators.registry import get_calculator
from voxtal.calculators.vasp import VaspCalculator
from voxtal.calculators.vasp_labels import correction_per_atom, label
from voxtal.errors import UserError
from voxtal.structures.text import structure_from_text

RUNS = Path(__file__).parent / "vasp_runs"
SETTINGS = RelaxSettings(max_steps=60, fmax_ev_per_angstrom=0.1)
INCAR = {"ALGO": "Fast", "EDIFF": 2e-6, "EDIFFG": -0.03, "ENCUT": 250, "GGA": "Ps", "ISMEAR": 0, "NSW": 60}
"""What the stored chain of silicon was run with, where the Materials Project's set differs."""
OPTIONS = {"user_incar_settings": INCAR, "corrections": "none"}
CHAIN = {"MP GGA relax 1": "relax1", "MP GGA relax 2": "relax2", "MP GGA static": "static"}
CHECKED = {"relax": [*INCAR, "IBRION", "ISIF", "ISPIN", "SIGMA"], "static": ["ALGO", "ENCUT", "GGA", "ISMEAR"]}


POTCAR = """  PAW_PBE Co 06Sep2000
   9.0
 parameters from PSCTR are:
   VRHFIN =Co:
   LEXCH  = PE
   EATOM  =   100.0000 eV,    7.0000 Ry
   TITEL  = PAW_PBE Co 06Sep2000
   POMASS =   58.933; ZVAL   =    9.000    mass and valenz
 END of PSCTR-controll parameters
 local part
   1.0
 End of Dataset
"""
"""A stand-in with a POTCAR's form and made-up numbers; real ones may not be passed on."""


def vasp(**options: object) -> VaspCalculator:
    calculator = get_calculator(CalculatorSpec("vasp", options))
    assert isinstance(calculator, VaspCalculator)
    return calculator


def rocksalt(metal: str, edge: float) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge), [metal, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.fixture
def silicon() -> Structure:
    return Structure.from_file(RUNS / "silicon" / "relax1" / "inputs" / "POSCAR")


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Stored outputs instead of VASP: ``replayed(static="unfinished")`` exchanges a step of silicon's chain.

    Inputs of the chain's own steps are compared with the stored ones, an exchanged step takes any.
    """
    generator = replay.monkeypatch_vasp(monkeypatch, RUNS, nelect=8)
    use = next(generator)

    def choose(**exchanged: str) -> None:
        folders = {job: exchanged.get(step, f"silicon/{step}") for job, step in CHAIN.items()}
        checks = {
            job: {"check_inputs": ()}
            if exchanged
            else {"incar_settings": CHECKED["static" if "st" in job else "relax"]}
            for job in CHAIN
        }
        use(folders, checks)

    yield choose
    next(generator, None)


def document(run: str) -> TaskDoc:
    return TaskDoc.from_directory(RUNS / run / "outputs")


def test_inputs_of_an_intermetallic_are_those_of_the_materials_project(tmp_path: Path):
    """Labels of candidates could not share a hull with the Materials Project's PBE energies."""
    cohf = Structure(Lattice.cubic(3.16), ["Co", "Hf"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    relax1, relax2, static = vasp().write_inputs(cohf, tmp_path)
    incar = Incar.from_file(relax1 / "INCAR")
    assert (incar["ENCUT"], incar["ISPIN"], incar["PREC"], incar["ISIF"]) == (520, 2, "Accurate", 3)
    assert incar["MAGMOM"] == [0.6, 0.6]
    assert "LDAU" not in incar
    assert "GGA" not in incar
    assert Kpoints.from_file(relax1 / "KPOINTS").style.name == "Gamma"
    assert (relax1 / "POTCAR.spec").read_text().split() == ["Hf_pv", "Co"]
    assert (relax2 / "INCAR").read_text() == (relax1 / "INCAR").read_text()
    assert Incar.from_file(static / "INCAR")["NSW"] == 0


def test_cobalt_has_a_hubbard_u_in_its_oxide_only(tmp_path: Path):
    """MP2020's corrections of oxides are fitted to GGA+U: without U every Co oxide would be off by 1.6 eV per Co."""
    (relax1, *_) = vasp().write_inputs(rocksalt("Co", 4.26).get_primitive_structure(), tmp_path)
    incar = Incar.from_file(relax1 / "INCAR")
    assert incar["LDAU"] is True
    assert incar["LDAUU"] == [3.32, 0]


def test_the_r2scan_flow_is_on_request(tmp_path: Path):
    """The 2024 workflow of the Materials Project could not be chosen, or would meet PBE labels."""
    calculator = vasp(flow="MP24DoubleRelaxStaticMaker")
    relax1, relax2, _ = calculator.write_inputs(rocksalt("Co", 4.26), tmp_path)
    assert Incar.from_file(relax1 / "INCAR")["GGA"] == "Ps"
    assert Incar.from_file(relax2 / "INCAR")["METAGGA"] == "R2scan"
    assert (calculator.thermo_type, vasp().thermo_type) == ("R2SCAN", "GGA_GGA+U")
    assert calculator.method.fingerprint != vasp().method.fingerprint


def test_overrides_reach_every_step_and_ionic_ones_only_the_relaxations(tmp_path: Path):
    """A user's cutoff would hold for some steps only, or NSW would turn the static calculation into a relaxation."""
    own = vasp(
        user_incar_settings={"ENCUT": 600, "NSW": 7},
        user_kpoints_settings={"reciprocal_density": 10},
        user_potcar_settings={"Co": "Co_pv"},
    )
    for calculator, folder in ((vasp(), "mp"), (own, "own")):
        calculator.write_inputs(rocksalt("Co", 4.26), tmp_path / folder)
    incars = [Incar.from_file(tmp_path / "own" / step / "INCAR") for step in ("relax1", "relax2", "static")]
    assert [incar["ENCUT"] for incar in incars] == [600, 600, 600]
    assert [incar["NSW"] for incar in incars] == [7, 7, 0]
    assert (tmp_path / "own" / "static" / "POTCAR.spec").read_text().split() == ["Co_pv", "O"]
    meshes = [Kpoints.from_file(tmp_path / name / "relax1" / "KPOINTS").kpts[0][0] for name in ("mp", "own")]
    assert meshes[1] < meshes[0]


def test_a_method_changes_with_what_changes_energies_and_with_nothing_else():
    """Labels of other settings would meet on one hull, or labels would be lost on a machine without POTCARs."""
    fingerprint = vasp().method.fingerprint
    assert fingerprint.startswith("vasp-pbe-")
    assert vasp(user_incar_settings={"KPAR": 4, "NCORE": 8}, command="srun vasp_std").method.fingerprint == fingerprint
    different = (
        {"user_incar_settings": {"ENCUT": 600}},
        {"user_kpoints_settings": {"reciprocal_density": 100}},
        {"user_potcar_settings": {"Co": "Co_pv"}},
        {"user_potcar_functional": "PBE_54"},
        {"corrections": "none"},
    )
    others = {vasp(**options).method.fingerprint for options in different}
    assert len({fingerprint, *others}) == 1 + len(different)
    assert all(vasp(**options).thermo_type is None for options in different)


def test_a_stored_chain_becomes_a_label(replayed: Callable[..., None], silicon: Structure, tmp_path: Path):
    """What comes back of a real double relaxation and static calculation would not be its energy and cell."""
    replayed()
    result = vasp(**OPTIONS).relax(silicon, SETTINGS, tmp_path)
    assert (result.status, result.reason) == ("converged", "")
    assert result.energy_per_atom == pytest.approx(-10.62045741 / 2)
    assert result.energy_per_atom_before == pytest.approx(-10.61487473 / 2)
    assert result.structure.lattice.abc == pytest.approx([2.71640004 * 2**0.5] * 3)
    assert result.steps == 4
    assert result.wall_seconds == pytest.approx(6.549 + 2.596 + 3.566)
    assert len([*tmp_path.glob("job_*/OUTCAR.gz")]) == 3
    assert not [*tmp_path.glob("job_*/CHGCAR*"), *tmp_path.glob("job_*/WAVECAR*")]


@pytest.mark.parametrize(
    ("exchanged", "status", "words"),
    [
        ({"relax1": "unfinished"}, "failed", "MP GGA relax 1: XMLSyntaxError"),
        ({"static": "elec-unconverged"}, "failed", "electrons of the static"),
        ({"relax2": "ionic-unconverged"}, "unconverged", "not converged in 8 ionic steps"),
        ({"relax1": "ionic-unconverged"}, "converged", ""),
    ],
)
def test_a_failed_step_is_a_result_with_its_reason(replayed, silicon, tmp_path, exchanged, status, words):
    """A job that jobflow only logs would be taken for done, or one bad structure would end a batch."""
    replayed(**exchanged)
    result = vasp(**OPTIONS).relax(silicon, SETTINGS, tmp_path)
    assert result.status == status
    assert words in result.reason
    assert (result.energy_per_atom is None) == (result.structure is None) == (status == "failed")
    assert [*tmp_path.glob("job_*")]


def test_a_killed_relaxation_goes_on_where_it_was(replayed, silicon, tmp_path):
    """Hours of VASP would be done again, or the energy of the geometry as given would be lost."""
    replayed(relax1="silicon/relax2")
    left = tmp_path / "job_2026-01-01-00-00-00-000000-12345"
    left.mkdir()
    shutil.copy(RUNS / "silicon" / "relax1" / "outputs" / "CONTCAR.gz", left)
    (left / "OSZICAR").write_text("   1 F= -.10614875E+02 E0= -.10614875E+02  d E =-.106149E+02\n")
    broken = tmp_path / "job_2026-01-01-00-00-01-000000-12345"
    broken.mkdir()
    (broken / "CONTCAR").touch()
    result = vasp(**OPTIONS).relax(silicon, SETTINGS, tmp_path)
    begun = sorted(tmp_path.glob("job_*/POSCAR.gz"))[0]
    first = Structure.from_file(begun)
    assert first.lattice.abc == pytest.approx([2.71640004 * 2**0.5] * 3)
    assert result.energy_per_atom_before == pytest.approx(-10.614875 / 2)
    assert result.status == "converged"


@pytest.mark.slow
def test_custodian_reports_a_vasp_that_dies(replayed, silicon, tmp_path, monkeypatch):
    """The configured command would not be what runs, or its death would not be noticed."""
    replayed()
    monkeypatch.setattr(replay.atomate2.vasp.jobs.base, "run_vasp", run_vasp)
    program = tmp_path / "vasp_std"
    program.write_text(f"#!/bin/sh\ncp {RUNS}/unfinished/outputs/* .\ngunzip -f *.gz\nexit 1\n")
    program.chmod(0o755)
    result = vasp(**OPTIONS, command=str(program)).relax(silicon, SETTINGS, tmp_path / "calculation")
    assert result.status == "failed"
    assert result.reason == "MP GGA relax 1: ValidationError: Validation failed: VasprunXMLValidator"
    assert [*(tmp_path / "calculation").glob("job_*/custodian.json*")]


def test_mp2020_corrects_an_oxide_with_u_and_refuses_what_it_is_not_made_for():
    """Formation energies of oxides would not be the Materials Project's, or a wrong correction would go unseen."""
    structure = rocksalt("Co", 4.26)
    spec = [{"titel": "PAW_PBE Co 06Sep2000"}, {"titel": "PAW_PBE O 08Apr2002"}]
    parameters = {"run_type": "GGA+U", "is_hubbard": True, "hubbards": {"Co": 3.32, "O": 0}, "potcar_spec": spec}
    entry = ComputedStructureEntry(structure, energy=-50.0, parameters=parameters)
    assert correction_per_atom(entry, "MP2020") == pytest.approx((-0.687 - 1.638) / 2, abs=1e-3)
    assert correction_per_atom(entry, "none") == 0
    plain = parameters | {"run_type": "GGA", "is_hubbard": False, "hubbards": {}}
    for wrong in (
        plain,
        parameters | {"run_type": "PBEsol"},
        parameters | {"potcar_spec": [{"titel": "PAW_PBE Co_pv"}]},
    ):
        with pytest.raises(ValueError):
            correction_per_atom(ComputedStructureEntry(structure, energy=-50.0, parameters=wrong), "MP2020")


def test_a_refused_correction_is_a_failed_label():
    """An uncorrected energy would stand among corrected ones."""
    steps = [document(f"silicon/{step}") for step in ("relax1", "relax2", "static")]
    result = label(*steps, corrections="MP2020")
    assert result["status"] == "failed"
    assert "MP2020" in result["reason"]
    assert "PBEsol" in result["reason"]
    fine = label(*steps, corrections="none", same_functional=False)
    assert (fine["status"], fine["energy_per_atom_before"]) == ("converged", None)
    assert len(structure_from_text(fine["relaxed"])) == 2


def test_mp2020_with_another_functional_is_refused_before_anything_runs():
    """A user would learn after days of computing that the labels are worth nothing."""
    for options in ({"user_incar_settings": {"GGA": "PS"}}, {"flow": "MP24DoubleRelaxStaticMaker"}):
        with pytest.raises(UserError, match=r"corrections = .none"):
            vasp(**options, corrections="MP2020")
    with pytest.raises(UserError, match="user_incar_settings"):
        vasp(user_incar_setings={})


def test_a_fixed_cell_is_refused(silicon: Structure):
    """A relaxation that was asked to keep the cell would change it in silence."""
    for ask in (vasp().relax, vasp().flow):
        with pytest.raises(UserError, match="ISIF = 2"):
            ask(silicon, RelaxSettings(10, 0.1, relax_cell=False))


def test_check_names_everything_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A batch would be submitted only to fail one by one, and the user would mend one thing at a time."""
    from pymatgen.io.vasp import inputs

    monkeypatch.setitem(inputs.SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path))
    with pytest.raises(UserError) as refused:
        vasp(command="no-srun -n 4 no-vasp").check(["Co", "Hf", "Og"])
    for words in ("'no-srun'", "'no-vasp'", "Og has no POTCAR", "POTCAR Co of PBE", "POTCAR Hf_pv of PBE"):
        assert words in str(refused.value)
    (tmp_path / "POT_GGA_PAW_PBE").mkdir()
    (tmp_path / "POT_GGA_PAW_PBE" / "POTCAR.Co").write_text(POTCAR)
    vasp(command="true").check(["Co"])
    monkeypatch.delitem(inputs.SETTINGS, "PMG_VASP_PSP_DIR")
    with pytest.raises(UserError, match="PMG_VASP_PSP_DIR"):
        vasp(command="true").check(["Co"])


def test_its_flow_runs_through_fireworks(replayed, silicon, tmp_path, monkeypatch):
    """Steps that FireWorks runs, each from JSON, would not hand their documents on to the label."""
    replayed()
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    monkeypatch.setattr(jobflow.SETTINGS, "JOB_STORE", store)
    (tmp_path / "server.json").write_text("{}")
    monkeypatch.setenv("MONGOMOCK_SERVERSTORE_FILE", str(tmp_path / "server.json"))
    monkeypatch.setattr(launchpad, "MongoClient", mongomock_persistence.MongoClient)  # as FireWorks does on import
    enable_gridfs_integration()
    pad = launchpad.LaunchPad(name="vasp")
    pad.reset("", require_password=False)
    flow = RelaxMaker(calculator="vasp", options=OPTIONS).make(silicon)
    workflow = flow_to_workflow(flow)
    assert [firework.name for firework in workflow.fws] == [*CHAIN, "label"]
    pad.add_wf(workflow)
    monkeypatch.chdir(tmp_path)
    rapidfire(pad, FWorker(), sleep_time=0, strm_lvl="CRITICAL")
    plain = store.get_output(flow.output.uuid)
    assert (plain["status"], plain["energy_per_atom"]) == ("converged", pytest.approx(-10.62045741 / 2))
