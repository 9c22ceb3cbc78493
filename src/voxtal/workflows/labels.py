"""From the ledger's rows to the entries of a hull."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from voxtal.errors import UserError
from voxtal.ledger import Ledger
from voxtal.screening.hull import HullEntry
from voxtal.structures.phases import PHASE_SYMPREC_ANGSTROM, with_spacegroup
from voxtal.workflows.plain import composition_of_text, structure_from_text
from voxtal.workflows.relaxation import formation_energies, reference_energies


def hull_entries(
    ledger: Ledger, method: str, elements: Sequence[str], up_to_round: int | None = None
) -> list[HullEntry]:
    """Every label of ``method`` within the system, in the order in which it was made.

    A structure that was relaxed again with other settings counts with its latest label.

    Raises
    ------
    UserError
        The ledger holds no label of this method, or none of one of the elements.
    """
    rows = ledger.calculations(method, up_to_round)
    if not any(row["status"] != "failed" for row in rows):
        others = [name for name in ledger.methods() if name != method]
        found = f"it holds labels of {', '.join(others)}" if others else "it is empty"
        raise UserError(f"{ledger.path} has no labels of {method} ({found}); run `voxtal relax` first.")
    references = reference_energies(rows)
    missing = [symbol for symbol in elements if symbol not in references]
    if missing:
        raise UserError(
            f"{ledger.path} has no reference energy of {', '.join(missing)} by {method}; "
            "run `voxtal relax` on structures of the whole system."
        )
    entries: dict[str, HullEntry] = {}
    for row in rows:
        composition = composition_of_text(row["initial"])
        energy, _ = formation_energies(row, references)
        if np.isfinite(energy) and composition.keys() <= set(elements):
            relaxed = structure_from_text(row["relaxed"])
            entries[row["id"]] = HullEntry(
                id=row["id"],
                role=row["purpose"],
                composition=composition,
                formation_energy=energy,
                spacegroup=with_spacegroup(relaxed, PHASE_SYMPREC_ANGSTROM),
                round=row["round"],
                method=row["method"],
            )
    return list(entries.values())
