"""``voxtal generate``, under mpirun or alone."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxtal.cli.common import (
    RoundOption,
    RunOption,
    SetOption,
    open_run,
    pick_round,
    print_table,
    progress,
)

if TYPE_CHECKING:
    from voxtal.generation.request import Request
    from voxtal.structures.structure_set import StructureSet


def generate(
    n: Annotated[int | None, typer.Option("-n", min=1, help="Attempts; generate.n if not given.")] = None,
    system: Annotated[
        str | None,
        typer.Option(help="Decode exactly these elements, such as Co-Hf, whatever the generator drew."),
    ] = None,
    elements: Annotated[
        str | None, typer.Option(help="Decode only these of the elements drawn, such as Co,Hf,O.")
    ] = None,
    exclude: Annotated[str | None, typer.Option(help="Never decode these elements, such as Pb,Tl.")] = None,
    max_atoms: Annotated[
        int | None, typer.Option("--max-atoms", min=1, help="An attempt with more atoms is not valid.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Folder of the attempts below generate/; named by what is asked for if not given."),
    ] = None,
    run: RunOption = Path("."),
    set_: SetOption = None,
    round_: RoundOption = None,
) -> None:
    """Generate crystal structures with a round's trained models, on as many ranks as mpirun starts.

    Example: voxtal generate -n 1000 --run runs/co-hf

    Example: mpirun -n 16 voxtal generate -n 50000 --exclude Pb,Tl --max-atoms 12

    Run it again after a kill, or with a larger -n: what is there is kept. Any number of ranks writes the same file.
    """
    from voxtal.cli.ranks import together
    from voxtal.parallel.communicator import on_root, world
    from voxtal.runs import append_manifest, exclusive

    communicator = world()
    with together(communicator), ExitStack() as stack:
        opened = on_root(communicator, lambda: open_run(run, set_))
        paths = on_root(communicator, lambda: pick_round(opened, round_))
        from voxtal.generation.folder import candidates_folder
        from voxtal.generation.request import request_of
        from voxtal.generation.stage import generate as generate_stage

        request = on_root(communicator, lambda: request_of(system, elements, exclude, max_atoms))
        folder = on_root(communicator, lambda: candidates_folder(paths, request, name))

        def lock() -> None:
            stack.enter_context(exclusive(folder.root, "voxtal generate"))

        on_root(communicator, lock)
        attempts = n or opened.config.generate.n
        path = generate_stage(opened, paths, attempts, progress, request, name, communicator, typer.echo)

        def conclude() -> None:
            from voxtal.structures.structure_set import StructureSet

            append_manifest(opened, "generate", round=paths.index, attempts=attempts, ranks=communicator.size)
            _print_outcome(StructureSet.read(path), path, request)

        on_root(communicator, conclude)


def _print_outcome(candidates: StructureSet, path: Path, request: Request) -> None:
    """How many attempts are valid, and why the others are not; with chosen elements, how many were drawn so."""
    from voxtal.generation.stage import DRAWN
    from voxtal.structures.structure_set import REASON

    reasons = candidates.provenance[REASON].tolist()
    rows = [(reason or "valid", count) for reason, count in Counter(reasons).most_common()]
    print_table(f"{len(candidates)} attempts: {path}", ["outcome", "attempts"], rows)
    if request.chooses:
        fitting = [request.fits(drawn.split("-") if drawn else ()) for drawn in candidates.provenance[DRAWN].tolist()]
        valid = sum(fits and not reason for fits, reason in zip(fitting, reasons, strict=True))
        print(f"Drawn as asked for, with no element added or left out: {sum(fitting)} attempts, {valid} of them valid.")
