"""Round 0's structures: made or imported, withheld phases set aside, labelled, split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.calculators.base import RelaxSettings
from voxtal.calculators.registry import configured
from voxtal.errors import UserError
from voxtal.runs import RoundPaths, Run
from voxtal.structures.matching import STRICT, Matcher, find_known, first_of_duplicates
from voxtal.structures.phases import matches_phase
from voxtal.structures.structure_set import FORMATION_ENERGY, SPLIT, StructureSet
from voxtal.workflows.backends import backend_of
from voxtal.workflows.relaxation import relax_set

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]


def bootstrap(run: Run, paths: RoundPaths, progress: Progress, say: Callable[[str], None]) -> dict[str, Any]:
    """Write round 0's ``structures.h5`` (and ``withheld.h5``); returns the counts.

    Raises
    ------
    UserError
        The source gives no structures, or too few are left to train on.
    """
    config = run.config
    given = source_structures(run, paths)
    rows_of_phase = {
        phase: [i for i in range(len(given)) if matches_phase(given.structure(i), phase)]
        for phase in config.structures.withhold
    }
    for phase in (phase for phase, rows in rows_of_phase.items() if not rows):
        say(f"structures.withhold: no structure is {phase!r}, so its rediscovery cannot be judged")
    withheld_rows = sorted({i for rows in rows_of_phase.values() for i in rows})
    kept_rows = np.setdiff1d(np.arange(len(given)), withheld_rows)

    def label(rows: Sequence[int] | np.ndarray, max_steps: int, purpose: str) -> StructureSet:
        return relax_set(
            given.subset(rows),
            configured(config.relax),
            relax_settings(run, max_steps),
            run.ledger,
            purpose,
            backend=backend_of(run),
            progress=progress,
        )

    withheld = label(withheld_rows, config.relax.candidate_max_steps, "withheld")
    withheld.write(withheld_path(paths))
    labelled = label(kept_rows, config.relax.label_max_steps, "training")
    structures, dropped = training_set(labelled, withheld, config.structures.max_formation_energy_ev_per_atom)
    if len(structures) < _FEWEST:
        raise UserError(
            f"Only {len(structures)} structures are left to train on ({dropped}); bring more with "
            "structures.source, or drop less."
        )
    split_structures(structures, config.structures.heldout_fraction, config.seed).write(paths.structures)
    return {"given": len(given), "withheld": len(withheld_rows), **dropped, "training": len(structures)}


_FEWEST = 10


def withheld_path(paths: RoundPaths) -> Path:
    """The withheld phases, relaxed and labelled: what a rediscovery is compared with."""
    return paths.root / "withheld.h5"


def relax_settings(run: Run, max_steps: int) -> RelaxSettings:
    return RelaxSettings(max_steps=max_steps, fmax_ev_per_angstrom=run.config.relax.fmax_ev_per_angstrom)


def source_structures(run: Run, paths: RoundPaths) -> StructureSet:
    """The structures of ``structures.source``, unlabelled, kept in ``given.h5`` for the next start."""
    path = paths.root / "given.h5"
    if path.is_file():
        return StructureSet.read(path)
    settings = run.config.structures
    if settings.source == "hypothetical":
        from voxtal.structures.prototypes import hypothetical_structures

        if run.config.system is None:
            raise UserError('structures.source = "hypothetical" needs a system, for example system = "Co-Hf".')
        given = hypothetical_structures(run.config.system, settings.max_atoms, settings.max_length_angstrom).structures
    else:
        from voxtal.structures.filters import Selection
        from voxtal.structures.importers import import_structures

        selection = Selection(max_atoms=settings.max_atoms, max_length=settings.max_length_angstrom)
        source = Path(settings.source)
        given = import_structures(
            [source if source.is_absolute() else run.root / source], selection=selection
        ).structures
        given = within_system(given, run.config.system)
    if len(given) == 0:
        raise UserError(f"structures.source = {settings.source!r} gives no structures of {run.config.system}.")
    given.write(path)
    return given


def within_system(structures: StructureSet, system: str | None) -> StructureSet:
    """The structures whose elements all belong to ``system``; all of them where it is None."""
    if system is None:
        return structures
    from ase.data import atomic_numbers

    allowed = [atomic_numbers[symbol] for symbol in system.split("-")]
    inside = [np.isin(structures.arrays(i)[0], allowed).all() for i in range(len(structures))]
    return structures.subset(np.flatnonzero(inside))


def training_set(
    labelled: StructureSet, withheld: StructureSet, max_formation_energy: float
) -> tuple[StructureSet, dict[str, int]]:
    """What is trained on, and counts of what is not: too high, or relaxed into a withheld phase or each other."""
    low = np.flatnonzero(labelled.properties[FORMATION_ENERGY] <= max_formation_energy)
    structures: Sequence[Any] = [labelled.structure(int(i)) for i in low]
    matcher = Matcher(STRICT)
    forbidden = np.array([match is not None for match in find_known(structures, list(withheld), matcher)], dtype=bool)
    repeated = np.asarray(first_of_duplicates(structures, matcher)) != np.arange(len(structures))
    kept = low[~forbidden & ~repeated]
    dropped = {
        "too high in energy": len(labelled) - len(low),
        "relaxed into a withheld phase": int(forbidden.sum()),
        "relaxed into another": int((repeated & ~forbidden).sum()),
    }
    return labelled.subset(kept), dropped


def split_structures(structures: StructureSet, heldout_fraction: float, seed: int) -> StructureSet:
    """Mark a random share as held out."""
    n = len(structures)
    split = np.full(n, "train", dtype="<U8")
    split[np.random.default_rng([seed, 4]).permutation(n)[: round(heldout_fraction * n)]] = "heldout"
    return structures.with_columns(provenance={SPLIT: split})
