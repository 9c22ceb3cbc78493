"""docs/adding-a-calculator.md, followed to the letter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from voxtal.structures.structure_set import METHOD, StructureSet


def fcc(symbol: str, edge: float) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge), [symbol], [[0, 0, 0]]).get_primitive_structure()


@pytest.fixture
def workplace(project_root: Path, tmp_path: Path) -> Path:
    """A folder with the document's module and voxtal.toml, and structures of krypton."""
    text = (project_root / "docs" / "adding-a-calculator.md").read_text()
    for language, name in (("python", "lennard_jones.py"), ("toml", "voxtal.toml")):
        (block,) = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
        (tmp_path / name).write_text(block)
    (tmp_path / "krypton").mkdir()
    fcc("Kr", 5.3).to_file(str(tmp_path / "krypton" / "fcc.cif"))
    return tmp_path


def voxtal(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("voxtal")), *arguments]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_document_leads_to_a_calculator_that_works(workplace: Path):
    """Whoever follows the document would end with a calculator that cannot be used."""
    answer = voxtal(workplace, "relax", "krypton/", "-o", "relaxed.h5", "--max-steps", "60")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    relaxed = StructureSet.read(workplace / "relaxed.h5")
    (method,) = relaxed.provenance[METHOD]
    assert method.startswith("lj-12-6-")
    neighbours = np.cbrt(relaxed.structure(0).volume * 2**0.5)
    assert neighbours / 3.65 == pytest.approx(1.10, abs=0.02), "of a Lennard-Jones crystal, in units of sigma"
    assert relaxed.properties["formation_energy"][0] == pytest.approx(0, abs=1e-3)


@pytest.mark.slow
def test_its_mistakes_are_told_as_those_of_any_other(workplace: Path):
    """A wrong option or element of one's own calculator would end in a traceback."""
    configuration = workplace / "voxtal.toml"
    fcc("Cu", 3.6).to_file(str(workplace / "krypton" / "copper.cif"))
    answer = voxtal(workplace, "relax", "krypton/")
    assert (answer.returncode, "not for Cu" in answer.stderr) == (2, True), answer.stderr
    configuration.write_text(configuration.read_text().replace("sigma_angstrom", "sigma"))
    answer = voxtal(workplace, "relax", "krypton/")
    assert (answer.returncode, "sigma_angstrom" in answer.stderr) == (2, True), answer.stderr
    answer = voxtal(workplace, "relax", "krypton/", "--set", "relax.calculator=lenard_jones:LennardJones")
    assert (answer.returncode, "PYTHONPATH" in answer.stderr) == (2, True), answer.stderr
