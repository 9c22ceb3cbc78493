"""Inputs of pw.x: what is asked of it, in its units, and what is changed where it does not converge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

import numpy as np

from voxtal.calculators.base import RelaxSettings

Stage = Literal["relax", "static"]
"""``relax``: cell or atoms move. ``static``: the scf that gives the label."""

EV_PER_ANGSTROM_IN_RY_PER_BOHR = 1 / 25.71104309541616
EV_PER_ANGSTROM3_IN_KBAR = 1602.1766208

ENERGY_CHANGE_RY_PER_ATOM = 1e-5
"""Between the last two geometries."""
SCF_ACCURACY_RY_PER_ATOM = 1e-8

_3D = ("V", "Cr", "Mn", "Fe", "Co", "Ni")
_4F = ("Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb")
_5F = ("U", "Np", "Pu", "Am", "Cm")
MAGNETIC = frozenset((*_3D, *_4F, *_5F))
"""Structures that hold one of these are spin-polarised: open 3d, 4f and 5f shells."""
MAGNETIC_ALONE = frozenset(["O"])
"""Spin-polarised where they are the only element: oxygen molecules are triplets."""
STARTING_MAGNETIZATION = 0.4
"""Of the valence electrons, all parallel: high enough to find a high-spin state, it can only come down."""

# Each entry replaces the one before it. Only energies of the method's own smearing are labels.
ELECTRONS: tuple[Mapping[str, Any], ...] = (
    {"mixing_beta": 0.5, "electron_maxstep": 100},
    {"mixing_beta": 0.2, "electron_maxstep": 200, "mixing_ndim": 12},
    {"mixing_beta": 0.1, "electron_maxstep": 300, "mixing_mode": "local-TF", "diagonalization": "cg"},
    {"mixing_beta": 0.2, "electron_maxstep": 300, "mixing_mode": "local-TF", "degauss_factor": 3.0},
)
"""From the first attempt on: lower mixing, screened mixing with a sturdier diagonalisation, larger smearing."""
LAST_LABELLING = 2
"""The last of :data:`ELECTRONS` with the method's own smearing."""


@dataclass(frozen=True)
class PlaneWaves:
    """What energies depend on, the same for every structure of a method."""

    cutoff_wfc: float
    """Ry."""
    cutoff_rho: float
    """Ry."""
    kpoint_spacing: float
    """1/A, with the factor 2 pi."""
    smearing: str
    degauss: float
    """Ry."""
    spin: str


def kpoint_grid(cell: np.ndarray, spacing: float) -> tuple[int, int, int]:
    """Divisions of the reciprocal vectors such that points are at most ``spacing`` apart.

    Parameters
    ----------
    cell : (3, 3) float
        Lattice vectors as rows, angstrom.
    spacing : float
        1/A, with the factor 2 pi.
    """
    lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(cell), axis=0)
    first, second, third = (max(1, math.ceil(length / spacing - 1e-6)) for length in lengths)
    return first, second, third


def is_magnetic(symbols: set[str]) -> bool:
    return bool(symbols & MAGNETIC) or symbols <= MAGNETIC_ALONE


def pw_input(
    atoms: Any,
    waves: PlaneWaves,
    pseudopotentials: Mapping[str, str],
    stage: Stage,
    settings: RelaxSettings,
    *,
    electrons: int = 0,
    restart: bool = False,
    max_seconds: int | None = None,
    outdir: str = "scratch",
    pseudo_dir: str = "",
) -> str:
    """Text of an input of pw.x.

    Parameters
    ----------
    atoms : Atoms
        ASE's.
    waves : PlaneWaves
        Of the method.
    pseudopotentials : mapping of symbol to str
        File names within ``pseudo_dir``.
    stage : str
        ``relax`` or ``static``.
    settings : RelaxSettings
        When a relaxation ends.
    electrons : int
        Index of :data:`ELECTRONS`.
    restart : bool
        Go on with what is in ``outdir``.
    max_seconds : int, optional
        When it has to stop itself.
    outdir, pseudo_dir : str
        Folders of the wavefunctions and of the pseudopotentials.
    """
    from ase.io.espresso import write_espresso_in

    atoms, volume = atoms.copy(), float(atoms.get_volume())  # ASE writes a numpy float by its repr
    symbols = set(atoms.get_chemical_symbols())
    scf = dict(ELECTRONS[electrons])
    system: dict[str, Any] = {
        "ecutwfc": waves.cutoff_wfc,
        "ecutrho": waves.cutoff_rho,
        "occupations": "smearing",
        "smearing": waves.smearing,
        "degauss": waves.degauss * scf.pop("degauss_factor", 1.0),
    }
    if waves.spin == "auto" and is_magnetic(symbols):
        system["nspin"] = 2
        magnetic = MAGNETIC | MAGNETIC_ALONE if symbols <= MAGNETIC_ALONE else MAGNETIC
        atoms.set_initial_magnetic_moments([STARTING_MAGNETIZATION * (s in magnetic) for s in atoms.symbols])
    control: dict[str, Any] = {
        "restart_mode": "restart" if restart else "from_scratch",
        "prefix": "voxtal",
        "outdir": outdir,
        "pseudo_dir": pseudo_dir,
        "tprnfor": True,
        "tstress": True,
    }
    if max_seconds is not None:
        control["max_seconds"] = max_seconds
    data = {
        "control": control | _ends(len(atoms), stage, settings),
        "system": system,
        "electrons": scf | {"conv_thr": SCF_ACCURACY_RY_PER_ATOM * len(atoms)},
    }
    if stage == "relax":
        data["ions"] = {"ion_dynamics": "bfgs"}
        if settings.relax_cell:
            data["cell"] = {
                "cell_dynamics": "bfgs",
                "press_conv_thr": _pressure(len(atoms), volume, settings),
            }
    text = StringIO()
    write_espresso_in(
        text,
        atoms,
        input_data=data,
        pseudopotentials={symbol: pseudopotentials[symbol] for symbol in sorted(symbols)},
        kpts=kpoint_grid(atoms.cell.array, waves.kpoint_spacing),
    )
    return text.getvalue()


def _ends(n_atoms: int, stage: Stage, settings: RelaxSettings) -> dict[str, Any]:
    if stage == "static":
        return {"calculation": "scf"}
    # pw.x asks for the largest component of a force, the settings for the largest force.
    component = settings.fmax_ev_per_angstrom / math.sqrt(3)
    return {
        "calculation": "vc-relax" if settings.relax_cell else "relax",
        "nstep": settings.max_steps,
        "etot_conv_thr": ENERGY_CHANGE_RY_PER_ATOM * n_atoms,
        "forc_conv_thr": component * EV_PER_ANGSTROM_IN_RY_PER_BOHR,
    }


def _pressure(n_atoms: int, volume: float, settings: RelaxSettings) -> float:
    """The stress (kbar) at which the virial per atom is as large as the largest force may be."""
    return settings.fmax_ev_per_angstrom * n_atoms / volume * EV_PER_ANGSTROM3_IN_KBAR
