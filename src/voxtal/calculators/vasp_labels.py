"""From what atomate2 read of a VASP flow to one result: what converged, the corrected energy, the structure."""

from __future__ import annotations

from typing import Any

from voxtal.structures.text import structure_to_text


def label(
    relax1: Any,
    relax2: Any,
    static: Any,
    corrections: str = "MP2020",
    first_energy: float | None = None,
    same_functional: bool = True,
) -> dict[str, Any]:
    """The plain result (keyword arguments of ``Ledger.finish``) of a double relaxation and a static calculation.

    Parameters
    ----------
    relax1, relax2, static : emmet's TaskDoc
        Of the three steps.
    corrections : str
        ``MP2020`` or ``none``.
    first_energy : float, optional
        Energy of the geometry as given in eV, where ``relax1`` went on from a later one.
    same_functional : bool
        Whether ``relax1`` has the functional of the label; if not, there is no energy of the geometry as given.

    Returns
    -------
    dict
        ``failed`` where the static calculation's electrons did not converge or MP2020 refuses it; ``unconverged``
        where the second relaxation did not reach its forces.
    """
    ionic = [step for document in (relax1, relax2) for step in document.calcs_reversed[0].output.ionic_steps]
    result: dict[str, Any] = {
        "status": "failed",
        "reason": "",
        "relaxed": None,
        "energy_per_atom": None,
        "energy_per_atom_before": None,
        "steps": len(ionic),
        "wall_seconds": sum(_elapsed(document) for document in (relax1, relax2, static)),
    }
    if static.state != "successful":
        return result | {"reason": "the electrons of the static calculation did not converge"}
    entry = static.structure_entry
    try:
        correction = correction_per_atom(entry, corrections)
    except ValueError as refusal:
        return result | {"reason": f"no MP2020 correction: {refusal}"}
    before = ionic[0].e_0_energy if first_energy is None else first_energy
    converged = relax2.state == "successful"
    return result | {
        "status": "converged" if converged else "unconverged",
        "reason": "" if converged else f"relaxation not converged in {len(ionic)} ionic steps",
        "relaxed": structure_to_text(entry.structure),
        "energy_per_atom": entry.energy / len(entry.structure) + correction,
        "energy_per_atom_before": before / len(entry.structure) + correction if same_functional else None,
    }


def correction_per_atom(entry: Any, corrections: str) -> float:
    """What MP2020 adds to the energy of ``entry`` (pymatgen's ComputedStructureEntry), eV/atom; 0 for ``none``.

    References: Wang et al. 2021, doi:10.1038/s41598-021-94550-5.

    Raises
    ------
    ValueError
        MP2020 does not hold for it: another functional, U values or POTCARs than its own.
    """
    if corrections == "none":
        return 0.0
    from pymatgen.entries.compatibility import CompatibilityError, MaterialsProject2020Compatibility

    try:
        adjustments = MaterialsProject2020Compatibility().get_adjustments(entry)
    except CompatibilityError as error:
        raise ValueError(str(error).split(" for {")[0]) from None  # the rest is the whole entry
    return float(sum(adjustment.value for adjustment in adjustments)) / entry.composition.num_atoms


def _elapsed(document: Any) -> float:
    statistics = (document.run_stats or {}).get("overall")
    return float(statistics.elapsed_time or 0.0) if statistics else 0.0
