"""What an earlier start of a VASP flow left in its folder, so that a killed one goes on instead of beginning again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def newest_structure(folder: Path, structure: Any) -> Any:
    """The last geometry that a step in ``folder`` wrote, or ``structure`` itself where there is none.

    Energies come from the last steps of the flow alone, so a relaxation may begin anywhere on its path.
    """
    from pymatgen.io.vasp import Poscar

    for path in reversed([*_files(folder, "CONTCAR")]):
        try:
            found = Poscar.from_file(path, check_for_potcar=False).structure
        except Exception:  # empty until the first ionic step ends, or cut off in the middle
            continue
        if found.composition == structure.composition:
            return found
    return structure


def first_energy(folder: Path) -> float | None:
    """Energy (eV, sigma to 0) of the first ionic step of the first start in ``folder``; None where none got so far."""
    from pymatgen.io.vasp import Oszicar

    for path in _files(folder, "OSZICAR"):
        try:
            return float(Oszicar(path).ionic_steps[0]["E0"])
        except Exception:  # as above
            continue
    return None


def _files(folder: Path, name: str) -> Iterator[Path]:
    """Files of this name in the folders of jobflow's jobs, whose names begin with the time, oldest first."""
    for job in sorted(folder.glob("job_*")):
        yield from (path for path in (job / name, job / f"{name}.gz") if path.is_file())
