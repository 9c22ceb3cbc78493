"""``voxtal generate``, under mpirun or alone."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from voxtal.errors import UserError

if TYPE_CHECKING:
    from voxtal.generation.icsg3d_request import MapsRequest
    from voxtal.generation.request import Request
    from voxtal.parallel.communicator import Communicator
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
    model: Annotated[
        str | None,
        typer.Option(help="ccdcgan, flow, analogue or icsg3d; generate.generator if not given.", metavar="GENERATOR"),
    ] = None,
    decile: Annotated[
        int | None, typer.Option(help="icsg3d: decile of the condition's property, 0 (lowest values) to 9.")
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="icsg3d: value of a property of the condition. Repeatable."),
    ] = None,
    around: Annotated[
        str | None, typer.Option(metavar="ID|FILE", help="icsg3d: draw around the code of this compound.")
    ] = None,
    variance: Annotated[
        float | None, typer.Option(help="icsg3d: of the codes around a compound; 0.5 if not given.")
    ] = None,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="ID|FILE ID|FILE", help="icsg3d: -n codes on the line from one compound to another."),
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

    Example: voxtal generate --model icsg3d --around mp-4019 --variance 0.5 -n 1000 --run runs/cubic

    Run it again after a kill, or with a larger -n: what is there is kept. Any number of ranks writes the same file.
    """
    from voxtal.cli.ranks import together
    from voxtal.parallel.communicator import on_root, world
    from voxtal.runs import Run, append_manifest, exclusive

    overrides = [*(set_ or []), *([] if model is None else [f"generate.generator={model}"])]

    communicator = world()
    with together(communicator), ExitStack() as stack:
        opened, paths = on_root(communicator, lambda: _model(run, overrides, round_, output))
        from voxtal.generation.folder import candidates_folder
        from voxtal.generation.stage import generate as generate_stage

        attempts = n or opened.config.generate.n
        of_elements = {"system": system, "elements": elements, "exclude": exclude}
        of_maps = {"around": around, "between": between, "variance": variance, "decile": decile, "condition": condition}
        request = on_root(communicator, lambda: _request(opened, of_elements, of_maps, attempts, max_atoms))
        folder = on_root(communicator, lambda: candidates_folder(paths, request, name))

        def lock() -> None:
            stack.enter_context(exclusive(folder.root, "voxtal generate"))

        on_root(communicator, lock)
        path = generate_stage(opened, paths, attempts, progress, request, name, communicator, typer.echo)

        def conclude() -> None:
            from voxtal.generation.request import Request
            from voxtal.structures.structure_set import StructureSet

            noted = Run(paths.attempts or opened.root, opened.config)
            append_manifest(noted, "generate", round=paths.index, attempts=attempts, ranks=communicator.size)
            candidates = StructureSet.read(path)
            _print_outcome(candidates, path)
            if isinstance(request, Request) and request.chooses:
                _print_fitting(candidates, request)
            if cif:
                _write_cifs(candidates, path.parent / "cif")

        on_root(communicator, conclude)
        if around is not None:
            _tell_funnel(opened, paths, path, around, communicator)


def _request(
    run: Run, of_elements: dict[str, Any], of_maps: dict[str, Any], attempts: int, max_atoms: int | None
) -> Request | MapsRequest:
    """What is asked for, of the kind that the run's generator takes."""
    from voxtal.config import ICSG3D
    from voxtal.generation.icsg3d_request import maps_request_of
    from voxtal.generation.request import request_of

    generator = run.config.generate.generator
    given = {name for name, value in (of_elements | of_maps).items() if value not in (None, [])}
    if generator == ICSG3D:
        if wrong := sorted(given & of_elements.keys()):
            raise UserError(
                f"--{wrong[0]}: icsg3d reads elements off the maps that it draws and cannot be asked for any."
            )
        return maps_request_of(**of_maps, steps=attempts, max_atoms=max_atoms)
    if wrong := sorted(given & of_maps.keys()):
        raise UserError(f"--{wrong[0]} belongs to icsg3d, and the generator is {generator}; add --model icsg3d.")
    return request_of(**of_elements, max_atoms=max_atoms)


def _tell_funnel(run: Run, paths: RoundPaths, path: Path, around: str, communicator: Communicator) -> None:
    """Write ``funnel.json`` and print it, if the training structures are there. Collective."""
    import numpy as np

    from voxtal.generation.bases import find_bases
    from voxtal.generation.icsg3d_stage import with_energy
    from voxtal.parallel.communicator import on_root
    from voxtal.runs import write_json
    from voxtal.screening.around import around_funnel
    from voxtal.structures.splits import training_rows
    from voxtal.structures.structure_set import StructureSet

    def read() -> tuple[StructureSet, StructureSet, StructureSet]:
        structures = StructureSet.read(paths.structures)
        training = structures.subset(np.flatnonzero(training_rows(structures, np.arange(len(structures)))))
        base = with_energy(run, paths, find_bases(run, paths, [around])[0])
        return StructureSet.read(path), base, training

    if not on_root(communicator, paths.structures.is_file):
        if communicator.rank == 0:
            typer.echo(f"What is new among them cannot be told: {paths.structures} is not there.")
        return
    candidates, base, training = on_root(communicator, read)
    found = around_funnel(candidates, base, training, progress, communicator)

    def conclude() -> None:
        write_json(path.with_name("funnel.json"), found)
        rows = [
            (step["step"], step["n"], f"{step['share']:.1%}", f"{step['published_percent']}%")
            for step in found["steps"]
        ]
        target = found["target_formation_energy_ev_per_atom"]
        title = f"Around {found['base']}, {target:.3f} eV/atom: {path.with_name('funnel.json')}"
        print_table(title, ["step", "left", "of all", "published"], rows)

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
    if not (paths.graphs.is_file() or (paths.train("vae") / "best.pt").is_file()):
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


def _print_outcome(candidates: StructureSet, path: Path) -> None:
    """How many attempts are valid, and why the others are not."""
    from voxtal.structures.structure_set import REASON

    reasons = candidates.provenance[REASON].tolist()
    rows = [(reason or "valid", count) for reason, count in Counter(reasons).most_common()]
    print_table(f"{len(candidates)} attempts: {path}", ["outcome", "attempts"], rows)


def _print_fitting(candidates: StructureSet, request: Request) -> None:
    """How many attempts were drawn with the elements that are asked for."""

    from voxtal.generation.blocks import DRAWN
    from voxtal.structures.structure_set import REASON

    fitting = [request.fits(drawn.split("-") if drawn else ()) for drawn in candidates.provenance[DRAWN].tolist()]
    valid = sum(
        fits and not reason for fits, reason in zip(fitting, candidates.provenance[REASON].tolist(), strict=True)
    )
    print(f"Drawn as asked for, with no element added or left out: {sum(fitting)} attempts, {valid} of them valid.")
