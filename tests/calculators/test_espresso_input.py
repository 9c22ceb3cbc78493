from __future__ import annotations

from io import StringIO

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io.espresso import read_espresso_in
from ase.io.espresso_namelist.namelist import Namelist

from voxtal.calculators.base import RelaxSettings
from voxtal.calculators.espresso_input import ELECTRONS, PlaneWaves, kpoint_grid, pw_input

WAVES = PlaneWaves(40.0, 320.0, 0.25, "mv", 0.01, "auto")
FILES = {symbol: f"{symbol}.UPF" for symbol in ("Si", "Ni", "O")}
SETTINGS = RelaxSettings(max_steps=30, fmax_ev_per_angstrom=0.05)


def values(text: str) -> dict[str, dict]:
    from ase.io.espresso import read_fortran_namelist

    data, _ = read_fortran_namelist(StringIO(text))
    return {section: dict(items) for section, items in Namelist(data).items()}


def test_k_points_are_as_dense_as_asked_for():
    """Energies of large and small cells would have different errors."""
    assert kpoint_grid(np.diag([3.0, 6.0, 60.0]), 0.25) == (9, 5, 1)
    cell = bulk("Si").cell.array
    spacing = 2 * np.pi * np.linalg.norm(np.linalg.inv(cell), axis=0) / kpoint_grid(cell, 0.25)
    assert ((spacing <= 0.25) & (spacing > 0.2)).all()


def test_the_thresholds_are_those_of_the_settings():
    """Relaxations would end too early or never, by a factor of a unit."""
    atoms = bulk("Si")
    found = values(pw_input(atoms, WAVES, FILES, "relax", SETTINGS))
    assert found["control"]["calculation"] == "vc-relax"
    assert found["control"]["nstep"] == 30
    assert found["control"]["forc_conv_thr"] == pytest.approx(0.05 / 3**0.5 / 13.605693 * 0.529177, rel=1e-5)
    # 1 kbar = 0.1 GPa, 1 eV/A^3 = 160.2 GPa
    virial = found["cell"]["press_conv_thr"] / 1602.18 * atoms.get_volume() / 2
    assert virial == pytest.approx(0.05, rel=1e-5)
    still = values(pw_input(atoms, WAVES, FILES, "relax", RelaxSettings(30, 0.05, relax_cell=False)))
    assert (still["control"]["calculation"], still.get("cell", {})) == ("relax", {})
    assert values(pw_input(atoms, WAVES, FILES, "static", SETTINGS))["control"]["calculation"] == "scf"


def test_the_structure_is_that_of_the_input():
    """pw.x would compute another crystal."""
    atoms = Atoms("NiO", [[0.1, 0, 0], [2.0, 2.1, 2.2]], cell=[[4, 0, 0], [0.3, 4, 0], [0, 0.2, 4]], pbc=True)
    again = read_espresso_in(StringIO(pw_input(atoms, WAVES, FILES, "static", SETTINGS)))
    assert again.get_chemical_symbols() == ["Ni", "O"]
    np.testing.assert_allclose(again.positions, atoms.positions, atol=1e-8)
    np.testing.assert_allclose(again.cell.array, atoms.cell.array, atol=1e-8)


def test_magnetic_elements_start_with_a_moment():
    """Fe, Ni or O2 would be computed without spin, several tenths of an eV too high."""
    nio = Atoms("NiO", [[0, 0, 0], [2.1, 0, 0]], cell=[4.2, 4.2, 2.1], pbc=True)
    system = values(pw_input(nio, WAVES, FILES, "static", SETTINGS))["system"]
    assert system["nspin"] == 2
    assert sorted(value for key, value in system.items() if key.startswith("starting_mag")) == [0.0, 0.4]
    o2 = Atoms("O2", [[0, 0, 0], [1.2, 0, 0]], cell=[8, 8, 8], pbc=True)
    assert values(pw_input(o2, WAVES, FILES, "static", SETTINGS))["system"]["nspin"] == 2
    sio2 = Atoms("SiO2", [[0, 0, 0], [2, 0, 0], [0, 2, 0]], cell=[4, 4, 4], pbc=True)
    assert "nspin" not in values(pw_input(sio2, WAVES, FILES, "static", SETTINGS))["system"]


def test_harder_electronic_settings_change_no_cutoff():
    """A label of a second attempt would be of another method."""
    found = [values(pw_input(bulk("Si"), WAVES, FILES, "static", SETTINGS, electrons=i)) for i in range(len(ELECTRONS))]
    assert len({(f["system"]["ecutwfc"], f["system"]["ecutrho"]) for f in found}) == 1
    assert [f["system"]["degauss"] for f in found] == pytest.approx([0.01, 0.01, 0.01, 0.03])
    assert "degauss_factor" not in found[-1]["electrons"]
