"""``voxtal encode``, under mpirun or alone."""

from __future__ import annotations

from pathlib import Path

import typer

from voxtal.cli.common import RoundOption, RunOption, SetOption, open_run, pick_round, progress


def encode(run: RunOption = Path("."), set_: SetOption = None, round_: RoundOption = None) -> None:
    """Encode a round's voxels to crystal graphs with its trained autoencoders, on as many ranks as mpirun starts.

    Example: voxtal encode --run runs/co-hf

    Example: mpirun -n 16 voxtal encode --run runs/co-hf

    Run it again after a kill: what is there is kept. Any number of ranks writes the same file.
    """
    from voxtal.cli.ranks import together
    from voxtal.parallel.communicator import on_root, world
    from voxtal.runs import append_manifest

    communicator = world()
    with together(communicator):
        opened = on_root(communicator, lambda: open_run(run, set_))
        paths = on_root(communicator, lambda: pick_round(opened, round_))
        from voxtal.training.encode import encode_graphs

        made = encode_graphs(opened, paths, progress, communicator)

        def conclude() -> None:
            from voxtal.data.graphs import GraphSet

            if made:
                append_manifest(opened, "encode", round=paths.index, ranks=communicator.size)
            graphs = GraphSet.read(paths.graphs)
            side = graphs.layout.side
            typer.echo(f"{len(graphs)} crystal graphs of {side} x {side}: {paths.graphs}")

        on_root(communicator, conclude)
