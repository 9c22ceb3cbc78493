"""The calculator with the real pw.x and the pseudopotentials of Debian's quantum-espresso-data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from voxtal.calculators import espresso_process as process
from voxtal.calculators import pseudopotentials
from voxtal.calculators.base import CalculatorSpec, RelaxSettings
from voxtal.calculators.espresso import EspressoCalculator
from voxtal.calculators.registry import get_calculator
from voxtal.errors import UserError
from voxtal.screening.hull import HullEntry, build_hull
from voxtal.structures.structure_set import FORMATION_ENERGY, StructureSet
from voxtal.workflows import relaxation
from voxtal.workflows.local import Local

PSEUDO = Path("/usr/share/espresso/pseudo")
FILES = ("Si.pbe-rrkj.UPF", "C.pbe-rrkjus.UPF", "Ni.pbe-nd-rrkjus.UPF")

pytestmark = pytest.mark.skipif(
    shutil.which("pw.x") is None or not PSEUDO.is_dir(),
    reason="no pw.x with Debian's pseudopotentials (packages quantum-espresso and quantum-espresso-data)",
)

SETTINGS = RelaxSettings(max_steps=40, fmax_ev_per_angstrom=0.05)


def table(folder: Path, cutoff_wfc: float, cutoff_rho: float) -> str:
    path = folder / f"table-{cutoff_wfc:g}-{cutoff_rho:g}.json"
    rows = pseudopotentials.make_table([PSEUDO / name for name in FILES], cutoff_wfc, cutoff_rho)
    pseudopotentials.write_table(path, rows)
    return str(path)


def options(home: Path, cutoff_wfc: float = 16, cutoff_rho: float = 64, **others: object) -> dict[str, object]:
    given = {"pseudopotentials": table(home, cutoff_wfc, cutoff_rho), "folder": str(PSEUDO)}
    return given | {"elements": ["Si"], "kpoint_spacing_per_angstrom": 0.55} | others


def espresso(home: Path, cutoff_wfc: float = 16, cutoff_rho: float = 64, **others: object) -> EspressoCalculator:
    calculator = get_calculator(CalculatorSpec("espresso", options(home, cutoff_wfc, cutoff_rho, **others)))
    assert isinstance(calculator, EspressoCalculator)
    return calculator


def silicon() -> Structure:
    """Diamond Si, strained along one edge."""
    fcc = np.array([[0, 2.75, 2.75], [2.65, 0, 2.75], [2.65, 2.75, 0]])
    return Structure(Lattice(fcc), ["Si", "Si"], [[0, 0, 0], [0.25, 0.25, 0.25]])


def records(folder: Path) -> list[dict]:
    return [json.loads((f / "attempt.json").read_text()) for f in sorted(folder.glob("attempt-*"))]


def edge(structure: Structure) -> float:
    return float((structure.volume * 8 / len(structure)) ** (1 / 3))


@pytest.fixture(scope="module")
def relaxed(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("si")
    return espresso(folder).relax(silicon(), SETTINGS, folder / "calculation"), folder


def test_silicon_relaxes_to_its_lattice_constant(relaxed):
    """Cells or energies would be read from the wrong place of an output, or in wrong units."""
    result, folder = relaxed
    assert (result.status, result.reason) == ("converged", "")
    assert edge(result.structure) == pytest.approx(5.47, abs=0.02)
    assert result.structure.lattice.angles == pytest.approx((60, 60, 60), abs=0.3)
    assert -0.2 < result.energy_per_atom - result.energy_per_atom_before < -0.001
    assert result.steps > 0
    assert [(r["stage"], r["outcome"]) for r in records(folder / "calculation")] == [
        ("relax", "converged"),
        ("static", "converged"),
    ]
    assert not (folder / "calculation" / "scratch").exists()


def test_a_finished_calculation_is_not_run_again(relaxed, monkeypatch):
    """A ledger that lost its last rows would cost all of their hours."""
    result, folder = relaxed
    monkeypatch.setattr(process, "run", lambda *_: pytest.fail("pw.x was run again"))
    again = espresso(folder).relax(silicon(), SETTINGS, folder / "calculation")
    assert again.energy_per_atom == result.energy_per_atom
    assert again.structure == result.structure


def test_a_killed_voxtal_takes_pw_with_it_and_goes_on_from_its_last_geometry(relaxed, tmp_path):
    """A preempted job would begin anew, or leave a pw.x that writes into the files of the next one."""
    script = (
        "import signal, sys; from pathlib import Path\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as in a worker\n"
        "sys.path.insert(0, sys.argv[1]); import test_espresso as t\n"
        "t.espresso(Path(sys.argv[2])).relax(t.silicon(), t.SETTINGS, Path(sys.argv[2]) / 'calculation')\n"
    )
    folder = tmp_path / "calculation"
    out = folder / "attempt-1" / "pw.out"
    child = subprocess.Popen([sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)])
    while not (out.is_file() and "number of bfgs steps    =   1" in out.read_text()):
        assert child.poll() is None
        time.sleep(0.05)
    child.kill()
    child.wait()
    deadline = time.monotonic() + 60  # only bounds a hang
    while pw_processes(out.parent) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not pw_processes(out.parent)
    result = espresso(tmp_path).relax(silicon(), SETTINGS, folder)
    found = records(folder)
    assert [r["outcome"] for r in found] == ["interrupted", "converged", "converged"]
    assert found[1]["why"] == "voxtal was stopped; from the last geometry"
    assert result.energy_per_atom == pytest.approx(relaxed[0].energy_per_atom, abs=1e-3)
    assert result.energy_per_atom_before == pytest.approx(relaxed[0].energy_per_atom_before, abs=1e-6)
    assert edge(result.structure) == pytest.approx(edge(relaxed[0].structure), abs=0.01)


def pw_processes(folder: Path) -> list[str]:
    """Processes at work in ``folder``."""
    found = []
    for running in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(running / "cwd")) == folder and b"pw.x" in (running / "cmdline").read_bytes():
                found.append(running.name)
        except OSError:
            continue
    return found


def test_a_killed_pw_is_tried_once_more_and_out_of_steps_goes_on(tmp_path):
    """One node without memory, or a slow relaxation, would cost a candidate its label."""
    once = tmp_path / "once.sh"
    once.write_text(
        "#!/bin/bash\n"
        f"if mkdir {tmp_path}/killed 2>/dev/null; then\n"
        '"$@" & until grep -q "iteration #" pw.out; do sleep 0.02; done; kill -9 $!; kill -9 $$; fi\n'
        'exec "$@"\n'
    )
    once.chmod(0o755)
    calculator = espresso(tmp_path, command=f"{once} pw.x")
    result = calculator.relax(silicon(), RelaxSettings(3, 0.05), tmp_path / "calculation")
    found = records(tmp_path / "calculation")
    assert (found[0]["outcome"], found[0]["exit_code"]) == ("killed", -signal.SIGKILL)
    assert found[1]["why"].startswith("pw.x was killed by SIGKILL")
    assert found[1]["outcome"] in ("out of steps", "converged")
    assert found[-1]["stage"] == "static"
    assert result.status == "converged"


def test_time_limits_restart_pw_from_its_files(tmp_path, monkeypatch):
    """A cell that needs more than one job would never be relaxed."""
    limits = iter([6])  # the first attempt alone is stopped

    def limit(walltime: int | None) -> int | None:
        assert walltime == 600
        return next(limits, None)

    monkeypatch.setattr(process, "time_limit", limit)
    late = tmp_path / "late.sh"  # pauses the first pw.x until past its limit: a fast one would be done by then
    late.write_text(
        "#!/bin/bash\n"
        f"if mkdir {tmp_path}/paused 2>/dev/null; then\n"
        '"$@" & until grep -q "number of bfgs steps    =   1" pw.out; do kill -0 $! || exit; sleep 0.02; done\n'
        "kill -STOP $!; sleep 6; kill -CONT $!; wait $!; exit; fi\n"
        'exec "$@"\n'
    )
    late.chmod(0o755)
    calculator = espresso(tmp_path, walltime_seconds=600, command=f"{late} pw.x")
    calculator.relax(silicon(), SETTINGS, tmp_path / "calculation")
    found = records(tmp_path / "calculation")
    assert found[0]["outcome"] == "walltime"
    assert found[1]["restart"]
    assert found[1]["outcome"] in ("converged", "walltime")
    first, second = ((tmp_path / "calculation" / f"attempt-{i}" / "pw.out").read_text() for i in (1, 2))
    assert "Atomic positions from file used, from input discarded" in second
    assert "Maximum CPU time exceeded" in first


def test_pw_stops_before_its_attempt_or_its_job_ends(monkeypatch):
    """A job's end would kill pw.x before it has written what a restart needs."""
    assert process.time_limit(None) is None
    assert process.time_limit(100) == 90
    now = 1_800_000_000
    monkeypatch.setattr(process, "time", SimpleNamespace(time=lambda: float(now), sleep=time.sleep))
    monkeypatch.setenv("SLURM_JOB_START_TIME", str(now - 9000))
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(now + 1000))
    assert process.time_limit(None) == 1000 - process.STOPPING_SECONDS
    assert process.time_limit(100) == 90


def test_what_pw_says_of_a_wrong_input_is_the_reason(tmp_path):
    """A user would find "failed" and no word of why."""
    result = espresso(tmp_path, 1, 4).relax(silicon(), SETTINGS, tmp_path / "calculation")
    assert result.status == "failed"
    assert "more bands than PWs" in result.reason
    assert len(records(tmp_path / "calculation")) == 1


def test_no_steps_is_one_scf(tmp_path):
    """Labels of structures as they are would cost a relaxation."""
    result = espresso(tmp_path).relax(silicon(), RelaxSettings(0, 0.05), tmp_path / "calculation")
    assert (result.status, result.reason) == ("unconverged", "not converged in 0 steps")
    assert result.energy_per_atom == result.energy_per_atom_before
    assert len(records(tmp_path / "calculation")) == 1


def test_nickel_has_a_moment(tmp_path):
    """Magnetic elements would be computed without spin."""
    nickel = Structure(Lattice([[0, 1.76, 1.76], [1.76, 0, 1.76], [1.76, 1.76, 0]]), ["Ni"], [[0, 0, 0]])
    calculator = espresso(tmp_path, 25, 150, elements=["Ni"], kpoint_spacing_per_angstrom=0.8, degauss=0.02)
    result = calculator.relax(nickel, RelaxSettings(0, 0.05), tmp_path / "calculation")
    assert result.energy_per_atom is not None
    lines = (tmp_path / "calculation" / "attempt-1" / "pw.out").read_text().splitlines()
    (*_, moment) = (float(line.split()[3]) for line in lines if "total magnetization" in line)
    assert 0.3 < moment < 1.0


def test_the_method_is_the_same_for_all_structures_and_changes_with_all_that_energies_depend_on(tmp_path):
    """Formation energies would mix cutoffs, or a run would take labels of another setting for its own."""
    first = espresso(tmp_path).method
    assert (first.code, first.model) == ("espresso", "pbe")
    assert first.fingerprint == espresso(tmp_path, max_attempts=2, command="pw.x -nk 1").method.fingerprint
    known = {"version": first.version}  # asking pw.x takes half a second
    others = [
        espresso(tmp_path, 18, 72, **known),
        espresso(tmp_path, 16, 80, **known),
        espresso(tmp_path, elements=["Si", "C"], **known),
        espresso(tmp_path, kpoint_spacing_per_angstrom=0.5, **known),
        espresso(tmp_path, smearing="mp", **known),
        espresso(tmp_path, degauss=0.02, **known),
        espresso(tmp_path, spin="never", **known),
        espresso(tmp_path, version="7.3.1"),
    ]
    assert len({c.method.fingerprint for c in others} | {first.fingerprint}) == len(others) + 1


def test_everything_that_is_missing_is_named_before_anything_runs(tmp_path):
    """Hundreds of jobs would queue for hours to fail at the same missing file."""
    calculator = espresso(tmp_path, command="no-such-launcher pw.x", folder=str(tmp_path))
    with pytest.raises(UserError, match=r"(?s)no-such-launcher.*no pseudopotential for Hf.*Si: there is no file"):
        calculator.check(["Si", "Hf"])
    espresso(tmp_path).check(["Si"])
    with pytest.raises(UserError, match=r"relax.options.version"):
        _ = espresso(tmp_path, command="no-such-launcher no-pw").method
    with pytest.raises(UserError, match="absolute path"):
        get_calculator(CalculatorSpec("espresso", {"pseudopotentials": "table.json"}))


def test_a_launcher_that_does_not_start_pw_stops_the_run(tmp_path):
    """Every candidate would be recorded as failed because of one wrong option of srun."""
    calculator = espresso(tmp_path, command="env --no-such-option pw.x")
    with pytest.raises(UserError, match=r"code 125 before pw.x started: .*no-such-option"):
        calculator.relax(silicon(), SETTINGS, tmp_path / "calculation")
    other = espresso(tmp_path, version="7.3.1")
    with pytest.raises(UserError, match=r"version 6\.\S+ of pw.x, and the run's method is of version 7.3.1"):
        other.relax(silicon(), RelaxSettings(0, 0.05), tmp_path / "other")


@pytest.mark.slow
def test_a_binary_system_from_structures_to_its_hull(tmp_path, monkeypatch):
    """The way from candidates to a hull would not work with a DFT code, or give a wrong sign."""
    all_candidates = relaxation.element_structures
    monkeypatch.setattr(
        relaxation, "element_structures", lambda symbol: [s for s in all_candidates(symbol) if len(s) == 2]
    )
    spec = CalculatorSpec(
        "espresso", options(tmp_path, 26, 160, elements=["C", "Si"], kpoint_spacing_per_angstrom=0.75)
    )
    cell = Lattice([[0, 2.15, 2.15], [2.15, 0, 2.15], [2.15, 2.15, 0]])
    sic = Structure(cell, ["Si", "C"], [[0, 0, 0], [0.25, 0.25, 0.25]])
    labelled = relaxation.relax_set(
        StructureSet.from_structures([sic], ["3c"]),
        spec,
        RelaxSettings(30, 0.1),
        tmp_path / "ledger.sqlite",
        "candidate",
        backend=Local(2),
        folder=tmp_path / "relax",
    )
    assert list(labelled.ids) == ["3c"]
    (energy,) = labelled.properties[FORMATION_ENERGY]
    assert -0.5 < energy < -0.2  # PBE against diamond: -0.3 eV/atom or so
    assert edge(labelled.structure(0)) == pytest.approx(4.38, abs=0.03)
    method = get_calculator(spec).method.fingerprint
    entry = HullEntry("3c", "candidate", {"Si": 1, "C": 1}, float(energy), method=method)
    assert "3c" in build_hull([entry], "C-Si", method)["hull"]
