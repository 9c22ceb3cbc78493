"""Recorded outputs of pw.x 6.7 (Debian 12), mostly of Si with 16 Ry; pwo/record.py makes them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from voxtal.calculators.espresso_output import (
    Outcome,
    first_energy,
    judge,
    last_geometry,
    read_label,
    steps_in,
    version_in,
)

SI = Atoms("Si2", [[0, 0, 0], [1.4, 1.4, 1.34]], cell=[[0, 2.8, 2.8], [2.75, 0, 2.75], [2.75, 2.8, 0]], pbc=True)


def recorded(name: str) -> str:
    with gzip.open(Path(__file__).parent / "pwo" / f"{name}.pwo.gz", "rt") as file:
        return file.read()


@pytest.mark.parametrize(
    ("name", "exit_code", "outcome", "words"),
    [
        ("vc-relax-converged", 0, Outcome.CONVERGED, ""),
        ("vc-relax-restarted", 0, Outcome.CONVERGED, ""),
        ("relax-converged", 0, Outcome.CONVERGED, ""),
        ("scf-converged", 0, Outcome.CONVERGED, ""),
        ("vc-relax-out-of-steps", 3, Outcome.OUT_OF_STEPS, "maximum number of steps"),
        ("relax-out-of-steps", 3, Outcome.OUT_OF_STEPS, "maximum number of steps"),
        ("relax-bfgs-gave-up", 0, Outcome.STUCK, "history already reset"),
        ("vc-relax-scf-unconverged", 2, Outcome.SCF_UNCONVERGED, "NOT achieved after   2 iterations"),
        ("scf-unconverged", 2, Outcome.SCF_UNCONVERGED, "NOT achieved after   2 iterations"),
        ("c_bands", 1, Outcome.SCF_UNCONVERGED, "c_bands: too many bands are not converged"),
        ("vc-relax-walltime", 2, Outcome.WALLTIME, "Maximum CPU time exceeded"),
        ("bad-keyword", 1, Outcome.INPUT_ERROR, "read_namelists: bad line in namelist &control"),
        ("no-pseudopotential", 1, Outcome.INPUT_ERROR, "Si.none.UPF not found"),
        ("more-bands-than-waves", 1, Outcome.INPUT_ERROR, "more bands than PWs!"),
        ("truncated-pseudopotential", 2, Outcome.KILLED, "exit code 2"),
        ("aborted", 33, Outcome.KILLED, "exit code 33"),
        ("killed", -9, Outcome.KILLED, "SIGKILL"),
        ("killed", 137, Outcome.KILLED, "SIGKILL"),
        ("killed", None, Outcome.INTERRUPTED, ""),
    ],
)
def test_every_kind_of_end_is_told(name, exit_code, outcome, words):
    """A failure would be taken for a result (pw.x prints JOB DONE after most of them), or for another failure."""
    moves = not name.startswith("scf")
    found, message = judge(recorded(name), exit_code, moves)
    assert found == outcome
    assert words in message
    if outcome not in (Outcome.KILLED, Outcome.INTERRUPTED):  # launchers hide exit codes, and versions change them
        assert judge(recorded(name), None, moves)[0] == outcome


def test_a_relaxation_is_converged_even_where_its_last_scf_is_cut_off():
    """A relaxed geometry would be relaxed again because time ran out in pw.x's scf after it."""
    text = recorded("vc-relax-converged")
    whole = text[: text.index("Final scf calculation")]
    assert judge(whole, 137, moves=True)[0] == Outcome.CONVERGED
    assert judge(whole[: whole.index("End final coordinates")], 137, moves=True)[0] == Outcome.KILLED


def test_the_last_geometry_is_that_of_the_output():
    """A restart would begin at the first geometry again, or with a cell and positions of different steps."""
    text = recorded("killed")
    assert steps_in(text) == 5
    assert last_geometry(text, SI).get_volume() == pytest.approx(44.13136, abs=1e-4)
    half = text[: text.rindex("ATOMIC_POSITIONS")]  # killed between the cell and the positions
    assert last_geometry(half, SI).get_volume() == pytest.approx(44.08757, abs=1e-4)
    cut = text[: text.rindex("ATOMIC_POSITIONS") + 60]  # killed within a number
    assert last_geometry(cut, SI).get_volume() == pytest.approx(44.08757, abs=1e-4)
    fixed = last_geometry(recorded("relax-converged"), SI)
    assert fixed.get_volume() == SI.get_volume()
    assert np.abs(fixed.positions - SI.positions).max() > 0.01
    assert last_geometry(recorded("no-pseudopotential"), SI) == SI


def test_the_relaxed_cell_is_that_of_the_final_coordinates():
    """The label would be computed in the starting cell."""
    atoms = last_geometry(recorded("vc-relax-converged"), SI)
    volumes = [
        line.split("(")[-1].split()[0]
        for line in recorded("vc-relax-converged").splitlines()
        if "new unit-cell" in line
    ]
    assert atoms.get_volume() == pytest.approx(float(volumes[-1]), abs=1e-4)


def test_numbers_are_in_electronvolt():
    """Energies would be off by the factor of a unit."""
    text = recorded("scf-converged")
    label = read_label(text)
    assert label.energy == pytest.approx(-15.72513102 * 13.605693, abs=1e-4)
    assert first_energy(text) == pytest.approx(label.energy, abs=1e-6)
    assert label.forces.shape == (2, 3)
    assert label.stress.shape == (6,)
    assert np.abs(label.stress).max() < 0.01
    assert version_in(text) == "6.7MaX"
    assert first_energy(recorded("vc-relax-scf-unconverged")) is None
