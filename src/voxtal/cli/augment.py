"""``voxtal augment``: labelled structures into a training set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxtal.cli.common import print_table


def augment(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RELAXED", help="Labelled structure set (.h5), or the folder that `voxtal relax -o` wrote."
        ),
    ],
    into: Annotated[Path, typer.Option("--into", metavar="STRUCTURES.h5", help="Training set; it is not changed.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="NEXT.h5", help="Structure set to write.")] = Path(
        "augmented.h5"
    ),
    max_formation_energy: Annotated[
        float | None,
        typer.Option(
            help="Higher ones are left out, eV/atom; structures.max_formation_energy_ev_per_atom if not given."
        ),
    ] = None,
) -> None:
    """Add labelled structures to a training set: all by one method, none of them twice.

    Example: voxtal augment relaxed.h5 --into structures.h5 -o next.h5

    As the last stage of `voxtal round` does. Left out are structures that are too high in energy, and those that
    the training set has, by id or by the strict structure matcher. Labels of two methods are refused.
    """
    from voxtal.config import StructuresConfig
    from voxtal.structures.augment import augmented
    from voxtal.structures.structure_set import StructureSet

    limit = (
        StructuresConfig().max_formation_energy_ev_per_atom if max_formation_energy is None else max_formation_energy
    )
    labelled = StructureSet.read(source / "relaxed.h5" if source.is_dir() else source)
    training = StructureSet.read(into)
    following, counts = augmented(training, labelled, source.name, limit)
    following.write(output)
    print_table("Augmentation", ("what", "structures"), [("training set", len(training)), *counts.items()])
    print(f"{output}: {len(following)} structures")
