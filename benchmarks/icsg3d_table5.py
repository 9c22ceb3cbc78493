"""ICSG3D's table 5: what deep features and ionic radii do for the VAE, the paper's figures beside ours.

    python benchmarks/icsg3d_table5.py RUN FOLDER [--unet-steps 2000] [--vae-steps 2000] [--heldout 200]

RUN has structures in round 0, with formation energies, and a configuration with `train.vae.alpha`: its networks are
trained three times, in FOLDER, on the same structures and with the same steps and seeds.

- no DFC, sigma 1: density maps of Gaussians 1 A wide, and a VAE without the UNet's features in its loss (alpha 0)
- DFC, sigma 1: the same maps and the same UNet, with the features (the configuration's alpha)
- DFC, sigma r_i: Gaussians as wide as the ion's radius

All figures are of the held-out structures of RUN's split: mean squared error of the maps that the VAE gives back (the
density is another one with sigma 1), recall of the UNet on true maps, distance and number of the sites that come back
through VAE and UNet, by voxtal's decoder and by the published one; how many gave any sites, of all, without which there
is no distance, and how many are the same crystal by the strict matcher. A second call carries on, and takes what is
trained already. Seconds are of the processor, in this call.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.cli.common import open_run, print_table, progress
from voxtal.config import CONFIG_NAME, load_config
from voxtal.data.voxelize import voxelize
from voxtal.errors import UserError
from voxtal.parallel.communicator import SerialCommunicator
from voxtal.runs import Run
from voxtal.screening.icsg3d import PUBLISHED_TABLE_5, map_figures
from voxtal.screening.icsg3d_models import MapModels, judge_block
from voxtal.structures.splits import HELDOUT, in_split
from voxtal.training.stages import train_model
from voxtal.training.trainer import is_whole

SYSTEMS: dict[str, list[str]] = {
    "no DFC, sigma 1": ["density.sigma_angstrom=1.0", "train.vae.alpha=0"],
    "DFC, sigma 1": ["density.sigma_angstrom=1.0"],
    "DFC, sigma r_i": [],
}
BLOCK = 8


def prepared(source: Run, folder: Path, overrides: list[str]) -> Run:
    """A run of its own on the structures of another, with maps."""
    run = Run(folder, load_config(source.root / CONFIG_NAME, overrides))
    paths = run.round(0)
    paths.root.mkdir(parents=True, exist_ok=True)
    if not paths.structures.is_file():
        shutil.copy(source.round(0).structures, paths.structures)
    voxelize(paths.structures, paths.density, run.config.density, SerialCommunicator())
    return run


def trained(run: Run, unet_of: Run | None) -> dict[str, float]:
    """Train what is not trained yet; the UNet is that of another run of the same maps, where there is one."""
    paths, seconds = run.round(0), {}
    if unet_of is not None and not is_whole(paths.train("unet")):
        shutil.copytree(unet_of.round(0).train("unet"), paths.train("unet"))
    for model in ("unet", "vae"):
        began = time.process_time()
        if not is_whole(paths.train(model)):
            train_model(run, paths, model, progress)
        seconds[model] = time.process_time() - began
    return seconds


def judged(run: Run, most: int) -> dict[str, Any]:
    models = MapModels.of(run, run.round(0))
    rows = models.known(np.arange(models.dataset.n_structures))
    rows = rows[in_split(models.structures, models.dataset.rows[rows], HELDOUT)]
    if not len(rows):
        raise UserError("No structure is held out; set structures.heldout_fraction and make the structures again.")
    rows = rows[:: -(-len(rows) // most)]
    found = []
    with progress("judge", len(rows)) as advance:
        for first in range(0, len(rows), BLOCK):
            found += judge_block(models, rows[first : first + BLOCK])
            advance(len(rows[first : first + BLOCK]), "")
    return map_figures(found)


def text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def line(name: str, figures: dict[str, Any], seconds: dict[str, float]) -> tuple[object, ...]:
    mse, recall, emd, missing = PUBLISHED_TABLE_5[name]
    cells: list[object] = [name, mse, text(figures["vae_mse"]["mean"])]
    cells += [f"{recall:.0%}", f"{figures['unet']['voxels']['label_recall']['mean']:.1%}"]
    ours, theirs = (figures["vae"]["crystals"][decoder] for decoder in ("voxtal", "published"))
    for key, published in (("emd_angstrom", emd), ("missing_sites", missing)):
        cells += [published, text(ours[key]["mean"]), text(theirs[key]["mean"])]
    cells += [f"{one['decoded']['n']}/{one['decoded']['of']}" for one in (ours, theirs)]
    cells.append(f"{ours['strict']['n']}/{ours['strict']['of']}")
    return (*cells, f"{seconds['unet']:.0f} + {seconds['vae']:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--unet-steps", type=int, help="instead of the configuration's")
    parser.add_argument("--vae-steps", type=int)
    parser.add_argument("--heldout", type=int, default=10**9, help="most held-out structures that are judged")
    arguments = parser.parse_args()
    source = open_run(arguments.run)
    if source.config.density.sigma_angstrom is not None or not source.config.train.vae.alpha:
        raise SystemExit(
            "Set train.vae.alpha in the configuration (0.1, say), the weight of the deep features, and leave "
            "density.sigma_angstrom out."
        )
    steps = [
        f"train.{model}.steps={n}"
        for model, n in (("unet", arguments.unet_steps), ("vae", arguments.vae_steps))
        if n is not None
    ]
    rows, of_sigma_1 = [], None
    for name, overrides in SYSTEMS.items():
        run = prepared(source, arguments.folder / name.replace(", ", "-").replace(" ", "-"), [*overrides, *steps])
        same_maps = run.config.density.sigma_angstrom is not None
        seconds = trained(run, of_sigma_1 if same_maps else None)
        of_sigma_1 = of_sigma_1 or run
        rows.append(line(name, judged(run, arguments.heldout), seconds))
        print(*rows[-1], flush=True)
    columns = ("system", "published VAE MSE", "MSE", "published recall", "recall", "published EMD, A", "EMD, A")
    columns += (
        "by watershed",
        "published |dN|",
        "|dN|",
        "by watershed",
        "any sites",
        "by watershed",
        "strict",
        "s, UNet + VAE",
    )
    print_table("Table 5, held-out structures", columns, rows)


if __name__ == "__main__":
    main()
