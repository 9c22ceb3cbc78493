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
    from voxtal.runs import RoundPaths, Run
    from voxtal.structures.structure_set import StructureSet

SHIPPED = Path(__file__).parents[1] / "default_model"
"""The trained model that comes with voxtal, as `voxtal export` packs one."""
GENERATED = Path("generated")
"""Where its attempts go if no folder is named."""


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
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Folder of the attempts; the round's if not given."),
    ] = None,
    cif: Annotated[bool, typer.Option("--cif", help="Write the valid ones as CIF files, too.")] = False,
    run: RunOption = Path("."),
    set_: SetOption = None,
    round_: RoundOption = None,
) -> None:
    """Generate crystal structures with a round's trained models, on as many ranks as mpirun starts.

    Where there is no run directory, the model that comes with voxtal generates, into the folder `generated` if no other
    is named. A model that `voxtal export` packed is named with --run.

    Example: voxtal generate -n 200 --cif -o new-structures

    Example: voxtal generate -n 1000 --run runs/co-hf

    Example: mpirun -n 16 voxtal generate -n 50000 --exclude Pb,Tl --max-atoms 12

    Run it again after a kill, or with a larger -n: what is there is kept. Any number of ranks writes the same file.
    """
    from voxtal.cli.ranks import together
    from voxtal.parallel.communicator import on_root, world
    from voxtal.runs import Run, append_manifest, exclusive

    communicator = world()
    with together(communicator), ExitStack() as stack:
        opened, paths = on_root(communicator, lambda: _model(run, set_, round_, output))
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

            noted = Run(paths.attempts or opened.root, opened.config)
            append_manifest(noted, "generate", round=paths.index, attempts=attempts, ranks=communicator.size)
            candidates = StructureSet.read(path)
            _print_outcome(candidates, path, request)
            if cif:
                _write_cifs(candidates, path.parent / "cif")

        on_root(communicator, conclude)


def _model(run: Path, overrides: list[str] | None, round_: int | None, output: Path | None) -> tuple[Run, RoundPaths]:
    """Whose models generate, and where attempts go; a packed model has no structures."""
    from dataclasses import replace

    from voxtal.config import CONFIG_NAME

    if run == Path(".") and not (run / CONFIG_NAME).is_file() and (SHIPPED / CONFIG_NAME).is_file():
        run, output = SHIPPED, output or GENERATED
        typer.echo(f"There is no {CONFIG_NAME} here: the model that comes with voxtal generates, into {output}")
    opened = open_run(run, overrides)
    paths = opened.latest_round() if round_ is None else opened.round(round_)
    if not paths.graphs.is_file():
        paths = pick_round(opened, round_)
    return opened, replace(paths, attempts=output)


def _write_cifs(candidates: StructureSet, folder: Path) -> None:
    """Write the valid attempts; what an earlier call wrote is removed."""
    import shutil

    import numpy as np

    from voxtal.structures.export import write_cifs
    from voxtal.structures.structure_set import REASON

    shutil.rmtree(folder, ignore_errors=True)
    valid = candidates.subset(np.flatnonzero(candidates.provenance[REASON] == ""))
    with progress("write CIFs", len(valid)) as advance:
        write_cifs(valid, folder, advance)
    typer.echo(f"{len(valid)} CIFs: {folder}")


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
