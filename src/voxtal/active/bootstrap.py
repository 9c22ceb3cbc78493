"""Round 0's structures: made or imported, withheld phases set aside, labelled, split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.active.sources import source_structures
from voxtal.calculators.base import RelaxSettings
from voxtal.calculators.registry import configured
from voxtal.errors import UserError
from voxtal.runs import RoundPaths, Run
from voxtal.structures.matching import STRICT, Matcher, find_known, first_of_duplicates
from voxtal.structures.phases import matches_phase
from voxtal.structures.splits import with_split
from voxtal.structures.structure_set import FORMATION_ENERGY, SPLIT, StructureSet
from voxtal.workflows.backends import backend_of
from voxtal.workflows.relaxation import relax_set

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
Say = Callable[[str], None]


def bootstrap(run: Run, paths: RoundPaths, progress: Progress, say: Say) -> dict[str, Any]:
    """Write round 0's ``structures.h5`` (and ``withheld.h5``); returns the counts.

    Raises
    ------
    UserError
        The source gives no structures or labels of several methods, or too few are left to train on.
    """
    settings = run.config.structures
    given = source_structures(run, paths, say)
    from_source = settings.labels == "source"
    phases = {
        phase: [i for i in range(len(given)) if matches_phase(given.structure(i), phase)] for phase in settings.withhold
    }
    for phase in (phase for phase, rows in phases.items() if not rows):
        say(f"structures.withhold: no structure is {phase!r}, so its rediscovery cannot be judged")
    withheld_rows = sorted({i for rows in phases.values() for i in rows})
    withheld = given.subset(withheld_rows)
    labelled = given.subset(np.setdiff1d(np.arange(len(given)), withheld_rows))
    if not from_source:
        withheld = _calculated(run, withheld, run.config.relax.candidate_max_steps, "withheld", progress)
        labelled = _calculated(run, labelled, run.config.relax.label_max_steps, "training", progress)
    withheld.write(withheld_path(paths))
    structures, dropped = training_set(
        labelled, withheld, settings.max_formation_energy_ev_per_atom, relaxed=not from_source
    )
    if len(structures) < _FEWEST:
        raise UserError(
            f"Only {len(structures)} structures are left to train on ({dropped}); bring more with "
            "structures.source, or drop less."
        )
    structures = with_split(
        structures, settings.split, settings.heldout_fraction, settings.validation_fraction, run.config.seed
    )
    structures.write(paths.structures)
    unlabelled = int(np.sum(~np.isfinite(structures.properties[FORMATION_ENERGY])))
    return {
        "given": len(given),
        "withheld": len(withheld_rows),
        **dropped,
        **Counter(structures.provenance[SPLIT].tolist()),
        **({"of these without a formation energy": unlabelled} if unlabelled else {}),
    }


_FEWEST = 10


def withheld_path(paths: RoundPaths) -> Path:
    """The withheld phases, relaxed and labelled: what a rediscovery is compared with."""
    return paths.root / "withheld.h5"


def relax_settings(run: Run, max_steps: int) -> RelaxSettings:
    return RelaxSettings(max_steps=max_steps, fmax_ev_per_angstrom=run.config.relax.fmax_ev_per_angstrom)


def _calculated(run: Run, structures: StructureSet, max_steps: int, purpose: str, progress: Progress) -> StructureSet:
    """The structures relaxed and labelled by the run's calculator."""
    return relax_set(
        structures,
        configured(run.config.relax),
        relax_settings(run, max_steps),
        run.ledger,
        purpose,
        backend=backend_of(run),
        progress=progress,
    )


def training_set(
    labelled: StructureSet, withheld: StructureSet, max_formation_energy: float, relaxed: bool = True
) -> tuple[StructureSet, dict[str, int]]:
    """What is trained on, and counts of what is not: too high, equal to a withheld phase, relaxed into each other.

    Structures without an energy stay: autoencoders learn from them. Those that were not ``relaxed`` are told apart by
    their ids alone: a source that lists two similar structures has an energy for each.
    """
    low = np.flatnonzero(~(labelled.properties[FORMATION_ENERGY] > max_formation_energy))
    structures = labelled.subset(low)
    matcher = Matcher(STRICT)
    forbidden = np.array([match is not None for match in find_known(structures, withheld, matcher)], dtype=bool)
    repeated = np.zeros(len(structures), dtype=bool)
    if relaxed:
        repeated = np.asarray(first_of_duplicates(structures, matcher)) != np.arange(len(structures))
    kept = np.flatnonzero(~forbidden & ~repeated)
    dropped = {
        "too high in energy": len(labelled) - len(low),
        "equal to a withheld phase": int(forbidden.sum()),
        "relaxed into another": int((repeated & ~forbidden).sum()),
    }
    return structures.subset(kept), dropped
