"""Formation energy and cell of one compound by pw.x, over plane-wave cutoffs and k-point spacings.

    python benchmarks/espresso_convergence.py FILE.UPF FILE.UPF [--structure compound.cif]

Without a structure it is zincblende SiC, with Debian's files for Si and C. Compound and elements (the first structure
of each in ``element_structures``) are relaxed by the calculator itself, at every cutoff with the densest k-points and
at every spacing with the highest cutoff; that one setting which both share is the reference of the other rows.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from pymatgen.core import Lattice, Structure

from voxtal.calculators.base import CalculatorSpec, RelaxSettings
from voxtal.calculators.elements import element_structures, formation_energy_per_atom
from voxtal.calculators.pseudopotentials import make_table, write_table
from voxtal.calculators.registry import get_calculator

SETTINGS = RelaxSettings(max_steps=50, fmax_ev_per_angstrom=0.02)
DEBIAN = Path("/usr/share/espresso/pseudo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "files", type=Path, nargs="*", default=[DEBIAN / "Si.pbe-rrkj.UPF", DEBIAN / "C.pbe-rrkjus.UPF"]
    )
    parser.add_argument("--structure", type=Path)
    parser.add_argument("--cutoffs", type=float, nargs="+", default=[20, 25, 30], help="Ry")
    parser.add_argument(
        "--rho-factor", type=float, default=8, help="cutoff of the density, by that of the wavefunctions"
    )
    parser.add_argument("--spacings", type=float, nargs="+", default=[0.6, 0.45, 0.35, 0.25], help="1/A")
    parser.add_argument("--command", default="pw.x")
    options = parser.parse_args()
    compound = Structure.from_file(options.structure) if options.structure else _silicon_carbide()
    highest, densest = max(options.cutoffs), min(options.spacings)
    cases = [(cutoff, densest) for cutoff in options.cutoffs if cutoff != highest]
    cases += [(highest, spacing) for spacing in options.spacings if spacing != densest]
    reference = _case(compound, options, highest, densest)
    print(f"{compound.composition.reduced_formula}; {', '.join(path.name for path in options.files)}\n")
    print("| cutoffs, Ry | k-points, 1/A | E_f, eV/atom | difference, meV/atom | V, A^3/atom | difference | s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for cutoff, spacing in [*cases, (highest, densest)]:
        energy, volume, seconds = reference
        if (cutoff, spacing) != (highest, densest):
            energy, volume, seconds = _case(compound, options, cutoff, spacing)
        print(
            f"| {cutoff:g} / {cutoff * options.rho_factor:g} | {spacing:g} | {energy:.4f} "
            f"| {1000 * (energy - reference[0]):+.1f} | {volume:.3f} | {volume / reference[1] - 1:+.2%} "
            f"| {seconds:.0f} |",
            flush=True,
        )


def _case(
    compound: Structure, options: argparse.Namespace, cutoff: float, spacing: float
) -> tuple[float, float, float]:
    """Formation energy (eV/atom), volume (A^3/atom) and seconds of all relaxations."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "table.json")
        write_table(table, make_table(options.files, cutoff, cutoff * options.rho_factor))
        calculator = get_calculator(
            CalculatorSpec(
                "espresso",
                {
                    "pseudopotentials": str(table),
                    "folder": str(options.files[0].parent.absolute()),
                    "kpoint_spacing_per_angstrom": spacing,
                    "command": options.command,
                },
            )
        )
        calculator.check({element.symbol for element in compound.elements})
        references = {
            element.symbol: _relax(calculator, element_structures(element.symbol)[0]).energy_per_atom
            for element in compound.elements
        }
        relaxed = _relax(calculator, compound)
    amounts = {element.symbol: amount for element, amount in compound.composition.items()}
    energy = formation_energy_per_atom(amounts, relaxed.energy_per_atom, references)
    return energy, relaxed.structure.volume / len(relaxed.structure), time.perf_counter() - begun


def _relax(calculator: Any, structure: Structure) -> Any:
    result = calculator.relax(structure, SETTINGS)
    if result.status != "converged":
        print(f"{structure.composition.reduced_formula}: {result.status}, {result.reason}", flush=True)
    return result


def _silicon_carbide() -> Structure:
    half = 4.38 / 2
    lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
    return Structure(lattice, ["Si", "C"], [[0, 0, 0], [0.25, 0.25, 0.25]])


if __name__ == "__main__":
    main()
