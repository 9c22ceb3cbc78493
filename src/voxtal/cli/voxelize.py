"""``voxelize`` and ``voxtal voxelize``: structures to voxels, under mpirun or alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxtal.cli.common import RunOption, SetOption, duration, open_run, print_table, progress
from voxtal.errors import EXIT_FAILED, UserError

if TYPE_CHECKING:
    from voxtal.config import Config
    from voxtal.data.schema import Settings
    from voxtal.data.voxelize import VoxelizeCounts
    from voxtal.runs import Run


class Representation(StrEnum):
    """What structures are turned into."""

    SITES = "sites"
    DENSITY = "density"

    @property
    def folder(self) -> str:
        """Name of the folder beside the structures."""
        return "voxels" if self is Representation.SITES else "density"


def voxelize(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CONFIG.toml | STRUCTURES.h5 | RUN]",
            help="What to voxelize; the newest round of the run directory if not given.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder to write; voxels/ or density/ by the structures."),
    ] = None,
    run: RunOption = Path("."),
    set_: SetOption = None,
    representation: Annotated[
        Representation | None,
        typer.Option(
            "--representation",
            help="sites: sites and lattice voxels; density: density and species maps. "
            "If not given, what the configuration's representation names.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace voxels made from other structures or settings.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Make nothing; compare every file with its published checksum.")
    ] = False,
) -> None:
    """Turn a set of structures into voxels, on as many ranks as mpirun starts.

    Example: mpirun -n 256 voxelize --run runs/co-hf

    Example: voxelize structures.h5 -o voxels --set voxels.sites_grid=64

    Run it again after a kill: finished shards are kept. Any number of ranks writes the same files.
    """
    from voxtal.cli.ranks import together
    from voxtal.data.verify import damaged_files
    from voxtal.data.voxelize import voxelize as voxelize_set
    from voxtal.parallel.communicator import on_root, world

    communicator = world()
    with together(communicator):
        plans = on_root(communicator, lambda: _plans(source, output, run, set_ or [], representation))
        intact = True
        for plan in plans:
            if verify:
                damaged = damaged_files(plan.folder, plan.settings, communicator)
                on_root(communicator, partial(_tell_damage, plan, damaged))
                intact = intact and not damaged
            else:
                counts = voxelize_set(plan.structures, plan.folder, plan.settings, communicator, progress, force)
                on_root(communicator, partial(_conclude, plan, counts, communicator.size))
        if not intact:
            raise typer.Exit(EXIT_FAILED)


def main() -> None:
    """Entry point of ``voxelize``."""
    from voxtal.cli.ranks import enter

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command("voxelize")(voxelize)
    enter(app)


@dataclass(frozen=True)
class _Plan:
    """What to read, where to write and with which settings."""

    structures: Path
    folder: Path
    settings: Settings
    run: Run | None


def _plans(
    source: Path | None, output: Path | None, run: Path, overrides: list[str], asked: Representation | None
) -> list[_Plan]:
    """One for each representation."""
    from voxtal.config import CONFIG_NAME, build_config, load_config
    from voxtal.runs import Run

    if source is not None and not source.exists():
        raise UserError(f"There is no {source}; give a {CONFIG_NAME}, a structure set or a run directory.")
    opened = None
    if source is not None and source.is_file() and source.suffix != ".toml":
        here = run / CONFIG_NAME
        config = load_config(here, overrides) if here.is_file() else build_config({}, overrides)
        structures = source
    else:
        if source is not None and source.is_file():
            opened = Run(source.parent, load_config(source, overrides))
        else:
            opened = open_run(source or run, overrides)
        config, structures = opened.config, opened.latest_round().structures
    wanted = [asked] if asked else [Representation(name) for name in dict.fromkeys(config.voxelized)]
    if output is not None and len(wanted) > 1:
        raise UserError(f"{output} cannot hold both representations; name one of them with --representation.")
    return [
        _Plan(structures, output or structures.parent / kind.folder, settings_of(config, kind), opened)
        for kind in wanted
    ]


def settings_of(config: Config, representation: Representation) -> Settings:
    """The section of the configuration that a representation is made with."""
    return config.density if representation is Representation.DENSITY else config.voxels


def _tell_damage(plan: _Plan, damaged: dict[str, str]) -> None:
    """Print what is damaged, if anything is."""
    if not damaged:
        print(f"Every file in {plan.folder} is as it was published.")
        return
    print_table(f"Damaged in {plan.folder}", ("file", "what"), sorted(damaged.items()))
    print("Run voxelize again: it makes these files anew and leaves the others.")


def _conclude(plan: _Plan, counts: VoxelizeCounts, ranks: int) -> None:
    """Print what there is now and, in a run directory, note it in the manifest."""
    from voxtal.runs import append_manifest, sha256_of

    megabytes = f"{counts.bytes / 1e6:.1f} MB"
    bad = [(f"no voxels: {reason}", rows) for reason, rows in sorted(counts.bad.items())]
    print_table(
        f"Voxels in {plan.folder}",
        ("", "number"),
        [
            ("rows of the structure set", counts.rows),
            ("structures with voxels", counts.structures),
            *bad,
            ("sites images", counts.images),
            ("shards", counts.shards),
        ],
    )
    if counts.rows_made:
        rate = counts.rows_made / max(counts.seconds, 1e-9)
        where = f"{ranks} ranks" if ranks > 1 else "one rank"
        took = f"{counts.rows_made} rows in {duration(counts.seconds)} on {where}"
        print(f"{megabytes}; {took}, {rate:.0f} structures/s")
    else:
        print(f"{megabytes}; every shard was there already")
    if plan.run is not None:
        append_manifest(
            plan.run,
            "voxelize",
            world_size=ranks,
            inputs={str(plan.structures): sha256_of(plan.structures)},
            outputs=str(plan.folder),
        )
