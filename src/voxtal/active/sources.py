"""From ``structures.source`` to one structure set, with what its labels are by."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from voxtal.errors import UserError
from voxtal.runs import RoundPaths, Run, sha256_of
from voxtal.structures.matching import STRICT, Matcher, find_known
from voxtal.structures.rows import Dropped
from voxtal.structures.structure_set import FORMATION_ENERGY, METHOD, SOURCE, StructureSet

_FEWEST_PAIRS = 3
_UNLIKE_EV_PER_ATOM = 0.1
"""Same structures in two files of one method differ by a few meV/atom (mp_20 and mpts_52: median 3)."""


def source_structures(run: Run, paths: RoundPaths, say: Callable[[str], None]) -> StructureSet:
    """The structures of ``structures.source`` as they are there, kept in ``given.h5`` for the next start.

    With ``structures.labels = "source"`` every row with a label tells its method.

    Raises
    ------
    UserError
        There are none, or their labels are of several methods.
    """
    path = paths.root / "given.h5"
    if path.is_file():
        return StructureSet.read(path)
    settings = run.config.structures
    if settings.source == ("hypothetical",):
        from voxtal.structures.prototypes import hypothetical_structures

        if run.config.system is None:
            raise UserError('structures.source = "hypothetical" needs a system, for example system = "Co-Hf".')
        made = hypothetical_structures(run.config.system, settings.max_atoms, settings.max_length_angstrom).structures
        given = _selected(made, run, path.with_suffix(".dropped.csv"), say)
    else:
        given = within_system(_imported(run, path.with_suffix(".dropped.csv"), say), run.config.system)
    if len(given) == 0:
        names = ", ".join(map(repr, settings.source))
        raise UserError(f"structures.source = {names} gives no structures of {run.config.system or 'any system'}.")
    given.write(path)
    return given


def _selected(made: StructureSet, run: Run, dropped_path: Path, say: Callable[[str], None]) -> StructureSet:
    """What ``structures.classes`` and ``structures.cell`` keep of structures that no file holds."""
    from voxtal.structures.filters import Selection
    from voxtal.structures.importers import select, write_dropped

    selection = Selection.of(run.config.structures)
    if not selection.classes and selection.cell == "primitive":
        return made  # as they are made
    result = select(made, selection)
    write_dropped(dropped_path, result.dropped)
    say(_account(len(made), result.dropped, len(result.structures)))
    return result.structures


def _account(read: int, dropped: Iterable[Dropped], kept: int) -> str:
    reasons = Counter(row.reason for row in dropped).most_common()
    return (
        f"structures.source: {', '.join([f'{read} read', *(f'{n} dropped: {why}' for why, n in reasons)])}, {kept} kept"
    )


def within_system(structures: StructureSet, system: str | None) -> StructureSet:
    """The structures whose elements all belong to ``system``; all of them where it is None."""
    if system is None:
        return structures
    from ase.data import atomic_numbers

    allowed = [atomic_numbers[symbol] for symbol in system.split("-")]
    inside = [np.isin(structures.arrays(i)[0], allowed).all() for i in range(len(structures))]
    return structures.subset(np.flatnonzero(inside))


def _imported(run: Run, dropped_path: Path, say: Callable[[str], None]) -> StructureSet:
    """What ``structures.source`` and ``structures.unlabelled_source`` hold and the selection keeps."""
    from voxtal.structures.filters import Selection
    from voxtal.structures.importers import import_structures, write_dropped

    settings = run.config.structures
    selection = Selection.of(settings)
    sources, unlabelled = (
        [run.root / name for name in names] for names in (settings.source, settings.unlabelled_source)
    )
    parts: list[StructureSet] = []
    seen: set[str] = set()
    dropped: list[Dropped] = []
    read = 0
    for file in (*sources, *unlabelled):
        imported = import_structures([file], selection=selection)
        read += imported.read
        again = np.isin(imported.structures.ids, sorted(seen))
        for row in np.flatnonzero(again):
            source, id_ = imported.structures.provenance[SOURCE][row], imported.structures.ids[row]
            dropped.append(Dropped(str(source), str(id_), "duplicate id", "in a file before it"))
        dropped += imported.dropped
        part = imported.structures.subset(np.flatnonzero(~again))
        seen.update(part.ids.tolist())
        parts.append(part)
    write_dropped(dropped_path, dropped)
    say(_account(read, dropped, sum(map(len, parts))))
    labelled = parts[: len(sources)]
    if settings.labels == "source":
        refuse_unlike_labels(list(zip(sources, labelled, strict=True)))
        labelled = [with_method(StructureSet.concatenate(labelled), files_fingerprint(sources))]
    return StructureSet.concatenate([*labelled, *(part.without_labels() for part in parts[len(sources) :])])


def with_method(labelled: StructureSet, method: str) -> StructureSet:
    """The set with the method of its labels on every row: the one that it tells, else ``method``.

    So labels that ``voxtal relax`` made keep their method.

    Raises
    ------
    UserError
        The labels are of several methods.
    """
    energies = labelled.properties.get(FORMATION_ENERGY, np.full(len(labelled), np.nan))
    told = labelled.provenance.get(METHOD, np.full(len(labelled), ""))
    methods = sorted(set(told[np.isfinite(energies)].tolist())) or [""]
    if len(methods) > 1:
        names = ", ".join(name or "an unknown method" for name in methods)
        raise UserError(
            f"structures.source holds labels of {names}: labels of different methods must not be mixed. Name the files "
            "of one of them there, and the others in structures.unlabelled_source."
        )
    return labelled.with_columns(
        properties={FORMATION_ENERGY: energies}, provenance={METHOD: [methods[0] or method] * len(labelled)}
    )


def refuse_unlike_labels(parts: Iterable[tuple[Path, StructureSet]]) -> None:
    """Refuse files that give the same structures other formation energies.

    Raises
    ------
    UserError
        Of at least three structures that two files have in common, by the strict matcher, half differ by more than
        0.1 eV/atom. A constraint that learned from both would be wrong for both.
    """
    matcher = Matcher(STRICT)
    for (one_path, one), (other_path, other) in combinations([(path, _with_energy(part)) for path, part in parts], 2):
        matches = find_known(other, one, matcher)
        pairs = [(i, j) for i, j in enumerate(matches) if j is not None]
        energies = other.properties[FORMATION_ENERGY], one.properties[FORMATION_ENERGY]
        differences = np.array([energies[0][i] - energies[1][j] for i, j in pairs])
        if len(pairs) >= _FEWEST_PAIRS and np.median(np.abs(differences)) > _UNLIKE_EV_PER_ATOM:
            raise UserError(
                f"structures.source: {other_path} and {one_path} have {len(pairs)} structures in common; the first's "
                f"formation energies differ by {np.median(differences):+.2f} eV/atom (median): they are of different "
                "methods or against different references, and must not be mixed. Name one of the files in "
                "structures.unlabelled_source instead; its structures are then used without their labels."
            )


def _with_energy(structures: StructureSet) -> StructureSet:
    energies = structures.properties.get(FORMATION_ENERGY, np.full(len(structures), np.nan))
    chosen = structures.subset(np.flatnonzero(np.isfinite(energies)))
    return chosen.with_columns(properties={FORMATION_ENERGY: energies[np.isfinite(energies)]})


def files_fingerprint(paths: Sequence[Path]) -> str:
    """``source:`` and a hash of the contents of the files, and of those in folders, in any order."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    digest = hashlib.sha256("".join(sorted(map(sha256_of, files))).encode())
    return f"source:{digest.hexdigest()[:12]}"
