"""``voxtal hypothetical``: the elements of a system in known prototypes, as a structure set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxtal.cli.common import RunOption, SetOption, print_table


def hypothetical(
    system: Annotated[str, typer.Argument(help="Elements joined with hyphens, such as Co-Hf.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Structure set to write; RUN/hypothetical-SYSTEM.h5 if not given."),
    ] = None,
    run: RunOption = Path("."),
    set_: SetOption = None,
) -> None:
    """Put the elements of a chemical system, and of its sub-systems, into the AFLOW prototypes.

    Example: voxtal hypothetical Co-Hf -o co-hf.h5

    Limits are structures.max_atoms and structures.max_length_angstrom of the run's voxtal.toml, or of
    --set structures.max_atoms=12; by default 20 atoms and 10 A.
    """
    from voxtal.cli.import_structures import structures_config
    from voxtal.errors import UserError
    from voxtal.structures.phases import parse_system

    name = "-".join(parse_system(system))
    limits = structures_config(run, set_)
    print(f"Putting {name} into the AFLOW prototypes ...", flush=True)
    from voxtal.structures.prototypes import hypothetical_structures

    result = hypothetical_structures(system, limits.max_atoms, limits.max_length_angstrom)
    dropped = [(f"dropped: {reason}", number) for reason, number in result.dropped.items()]
    print_table(
        f"Hypothetical {name}",
        ("prototypes, each with every assignment of elements", "structures"),
        [("tried", result.tried), *dropped, ("kept", len(result.structures))],
    )
    if len(result.structures) == 0:
        raise UserError(
            f"No prototype of {name} is within structures.max_atoms = {limits.max_atoms} and "
            f"structures.max_length_angstrom = {limits.max_length_angstrom:g}; raise them."
        )
    target = output or run / f"hypothetical-{name}.h5"
    result.structures.write(target)
    print(f"{target}: {len(result.structures)} structures")
