"""A round's UNet and VAE put to the test: maps labelled, encoded, decoded, and crystals made of them again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voxtal.data.dataset import DensityDataset
from voxtal.errors import UserError
from voxtal.generation.decode import Decoded
from voxtal.generation.map_decoding import THRESHOLD, MapDecoder
from voxtal.generation.vae_codes import decode_codes, encode_crystals
from voxtal.models.build import restore
from voxtal.models.ions_vae import IonsVAE
from voxtal.models.unet import UNet
from voxtal.models.vae import VAE
from voxtal.representations.density import DensityGrid, cell_from_coordinates, placed_sites
from voxtal.representations.reasons import Undecodable
from voxtal.runs import RoundPaths, Run
from voxtal.screening.map_metrics import earth_mover_distance, length_errors, voxel_counts
from voxtal.structures.conditions import Condition
from voxtal.structures.formula_classes import class_of
from voxtal.structures.matching import CDVAE, STRICT, Matcher
from voxtal.structures.splits import SPLIT, TRAIN
from voxtal.structures.structure_set import FORMATION_ENERGY, StructureSet
from voxtal.training.checkpoint import load
from voxtal.training.density_data import MapBatch, TurnedMaps
from voxtal.training.device import Arithmetic
from voxtal.training.trainer import is_whole
from voxtal.training.vae_task import load_unet

Row = dict[str, Any]

UNET_ALONE, THROUGH_VAE = "unet", "vae"
"""What crystals are made of: the true maps, or those that the VAE gives back."""
DECODERS = {"voxtal": False, "published": True}
"""Name -> whether it is the published watershed."""
EDGES = ("a", "b", "c")
COUNTS = ("right", "inside", "found")
"""Of :func:`voxtal.screening.map_metrics.voxel_counts`."""


@dataclass(frozen=True)
class MapModels:
    """The networks of a round and the maps that they are of.

    Attributes
    ----------
    vae, condition
        None where there is no VAE yet.
    vectors
        (n, condition) of the data set's structures; NaN where one of the properties is not known.
    """

    dataset: DensityDataset
    structures: StructureSet
    unet: UNet
    vae: VAE | None
    condition: Condition | None
    vectors: np.ndarray
    arithmetic: Arithmetic

    @classmethod
    def of(cls, run: Run, paths: RoundPaths) -> MapModels:
        """Of a round.

        Raises
        ------
        UserError
            There are no maps or no UNet, or a network is of other maps.
        """
        density = run.config.density
        dataset, structures = DensityDataset(paths.density, density), StructureSet.read(paths.structures)
        arithmetic = Arithmetic.of(run.config.train)
        unet = arithmetic.place(load_unet(paths.train("unet") / "best.pt", density))
        vae, condition, vectors = None, None, np.zeros((dataset.n_structures, 0), dtype=np.float32)
        if is_whole(paths.train("vae")):
            path = paths.train("vae") / "best.pt"
            saved = load(path, "voxtal train vae")
            if saved["facts"]["density"] != dataset.settings.model_dump():
                raise UserError(f"{path} was trained on other maps than {paths.density}; train it with `voxtal train`.")
            vae = arithmetic.place(restore(saved))
            condition = Condition.from_facts(saved["facts"]["condition"])
            vectors = vectors_of_structures(condition, structures, dataset.rows)
        return cls(dataset, structures, unet, vae, condition, vectors, arithmetic)  # type: ignore[arg-type]

    @property
    def grid(self) -> DensityGrid:
        return DensityGrid.of(self.dataset.settings)

    def batch(self, rows: np.ndarray) -> MapBatch:
        """The maps at ``rows`` of the data set, as they are."""
        return TurnedMaps(self.dataset, rows, 0, 0, self.arithmetic.device).batch(np.arange(len(rows)))

    def known(self, rows: np.ndarray) -> np.ndarray:
        """Those of ``rows`` whose condition is known."""
        return rows[np.isfinite(self.vectors[rows]).all(axis=1)]

    def conditions(self, rows: np.ndarray) -> Tensor:
        """Condition vectors (b, condition) of structures."""
        return torch.from_numpy(self.vectors[rows]).to(self.arithmetic.device)

    def encoded(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, each (b, latent), of structures."""
        assert self.vae is not None
        return encode_crystals(self.vae, self.dataset.crystals(rows), self.conditions(rows), self.grid)

    @torch.no_grad()
    def decoded(self, codes: Tensor, conditions: Tensor) -> Tensor:
        """Maps (b, 4, N, N, N) of codes."""
        assert self.vae is not None
        return self.vae.decode(codes, conditions)

    @torch.no_grad()
    def labelled(self, maps: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest element of every voxel, (b, N, N, N), and where there is an ion, bool."""
        species, binary = self.unet.segment(maps, 0.0)
        return species.cpu().numpy(), (binary >= THRESHOLD).cpu().numpy()


def judge_block(models: MapModels, rows: np.ndarray) -> list[Row]:
    """One row for each structure at ``rows`` (b,) of the data set: who it is, and what becomes of its maps.

    With a VAE each structure goes through it too, from the mean of its code.
    """
    batch = models.batch(rows)
    out = [_identity(models, int(row)) for row in models.dataset.rows[rows]]
    sources = {UNET_ALONE: batch.maps}
    if models.vae is not None:
        mean, _ = models.encoded(rows)
        maps = models.decoded(mean, models.conditions(rows))
        sources[THROUGH_VAE] = maps
        squared = (maps - batch.maps).square()
        for found, all_channels, density in zip(
            out, squared.mean((1, 2, 3, 4)).tolist(), squared[:, 0].mean((1, 2, 3)).tolist(), strict=True
        ):
            found |= {"vae_mse": all_channels, "vae_density_mse": density}
    truth = batch.species.cpu().numpy()
    for source, maps in sources.items():
        for found, row, coordinates in zip(out, models.dataset.rows[rows], maps[:, 1:].cpu().numpy(), strict=True):
            errors = _edge_errors(coordinates, models.structures.cells[row], models.grid)
            found |= {f"{source}_{edge}_error": error for edge, error in zip(EDGES, errors, strict=True)}
        species, binary = models.unet.segment(maps, 0.0)
        labels, inside = species.cpu().numpy(), (binary >= THRESHOLD).cpu().numpy()
        where_ions = voxel_counts(np.where(truth != 0, labels, 0), truth)
        segmented = voxel_counts(np.where(inside, labels, 0), truth)
        for found, label_counts, counts in zip(out, where_ions, segmented, strict=True):
            found[f"{source}_right_labels"] = int(label_counts[0])
            found |= {f"{source}_{name}": int(n) for name, n in zip(COUNTS, counts, strict=True)}
        for name, published in DECODERS.items():
            decoder = MapDecoder(models.unet, models.grid, published, drawn=source == THROUGH_VAE)
            if source == THROUGH_VAE and not published and isinstance(models.vae, IonsVAE):
                crystals = decode_codes(models.vae, None, mean, models.conditions(rows))
            else:
                crystals = decoder.decode_segmented(maps, species, binary)
            for found, row, crystal in zip(out, models.dataset.rows[rows], crystals, strict=True):
                judged = judged_crystal(crystal, models.structures, int(row), models.grid)
                found |= {f"{source}_{name}_{key}": value for key, value in judged.items()}
    return out


def vectors_of_structures(condition: Condition, structures: StructureSet, rows: np.ndarray) -> np.ndarray:
    """Condition vectors (n, width) of the structures at ``rows`` (n,); NaN where a value is not known."""
    unknown = np.full(len(structures), np.nan)
    values = {name: structures.properties.get(name, unknown)[rows] for name in condition.properties}
    known = np.isfinite(np.stack(list(values.values()))).all(axis=0)
    out = np.full((len(rows), condition.width), np.nan, dtype=np.float32)
    out[known] = condition.encode({name: column[known] for name, column in values.items()})
    return out


def _identity(models: MapModels, row: int) -> Row:
    structures = models.structures
    numbers, _, _ = structures.arrays(row)
    split = str(structures.provenance[SPLIT][row]) if SPLIT in structures.provenance else ""
    energy = structures.properties.get(FORMATION_ENERGY)
    return {
        "id": str(structures.ids[row]),
        "formula": structures.structure(row).composition.reduced_formula,
        "class": class_of(numbers) or "",
        "split": split or TRAIN,
        "n_atoms": len(numbers),
        "formation_energy_ev_per_atom": None if energy is None else float(energy[row]),
    }


def _edge_errors(coordinates: np.ndarray, cell: np.ndarray, grid: DensityGrid) -> list[float | None]:
    """Errors of a, b and c, angstrom, of a coordinate grid (3, N, N, N); None where it holds no cell."""
    try:
        return length_errors(cell_from_coordinates(coordinates, grid), cell).tolist()
    except Undecodable:
        return [None] * 3


def judged_crystal(crystal: Decoded, structures: StructureSet, row: int, grid: DensityGrid) -> Row:
    """What is wrong with a decoded crystal. Errors are None where there are no sites to compare."""
    numbers, frac_coords, cell = structures.arrays(row)
    out: Row = {"reason": crystal.reason, "strict": False, "cdvae": False}
    if not len(crystal.numbers):
        return out | dict.fromkeys(("emd", "missing", "composition"))
    out |= {
        "emd": earth_mover_distance((crystal.frac_coords, crystal.cell), placed_sites(frac_coords, cell, grid)),
        "missing": abs(len(crystal.numbers) - len(numbers)),
        "composition": np.array_equal(np.sort(crystal.numbers), np.sort(numbers)),
    }
    if not crystal.reason:
        original = structures.structure(row)
        decoded = _structure(crystal)
        out |= {
            "strict": Matcher(STRICT).matches(original, decoded),
            "cdvae": Matcher(CDVAE).matches(original, decoded),
        }
    return out


def _structure(crystal: Decoded) -> Any:
    from pymatgen.core import Lattice, Structure

    return Structure(Lattice(crystal.cell), crystal.numbers.tolist(), crystal.frac_coords)


@dataclass(frozen=True)
class Latent:
    """Codes of structures.

    Attributes
    ----------
    rows
        (n,) of the data set.
    mean, scale
        (n, latent): mean and standard deviation of each code.
    """

    rows: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    def drawn(self, seed: int) -> np.ndarray:
        """A code (n, latent) of each, as the decoder saw them in training."""
        return self.mean + self.scale * np.random.default_rng(seed).standard_normal(self.mean.shape)


def encode_block(models: MapModels, rows: np.ndarray) -> Latent:
    """Codes of the structures at ``rows`` (b,) of the data set."""
    mean, log_variance = models.encoded(rows)
    return Latent(rows, mean.cpu().numpy(), torch.exp(0.5 * log_variance).cpu().numpy())


@dataclass(frozen=True)
class Slices:
    """Slices through the middle of maps, perpendicular to the third axis: (rows, columns, N, N) each.

    Attributes
    ----------
    density, species
        Electrons per cubic angstrom, and atomic numbers with 0 for none.
    row_labels, column_labels
        What is in which.
    """

    density: np.ndarray
    species: np.ndarray
    row_labels: list[str]
    column_labels: list[str]


def reconstructions(models: MapModels, rows: np.ndarray) -> Slices:
    """A row for each structure at ``rows``: its true maps, the UNet's species of these, and with a VAE what comes back.

    The UNet has no density of its own: NaN.
    """
    batch = models.batch(rows)
    density, species = [batch.maps], [batch.species.cpu().numpy()]
    names = ["true"]
    predicted, inside = models.labelled(batch.maps)
    density.append(torch.full_like(batch.maps, torch.nan))
    species.append(np.where(inside, predicted, 0))
    names.append("labelled by the UNet")
    if models.vae is not None:
        mean, _ = models.encoded(rows)
        density.append(models.decoded(mean, models.conditions(rows)))
        predicted, inside = models.labelled(density[-1])
        species.append(np.where(inside, predicted, 0))
        names.append("through the VAE")
    labels = [_identity(models, int(row))["formula"] for row in models.dataset.rows[rows]]
    return _slices([maps[:, 0].cpu().numpy() for maps in density], species, labels, names)


def interpolations(models: MapModels, pairs: np.ndarray, steps: int) -> Slices:
    """A row for each pair (n, 2) of rows of the data set: the true maps of the first, ``steps`` on the line from its
    code to that of the second, both included, and the true maps of the second.

    Conditions are interpolated like codes; in a pair of one decile they are the same.
    """
    ends = [models.batch(pairs[:, k]) for k in (0, 1)]
    codes = [models.encoded(batch.rows)[0] for batch in ends]
    conditions = [models.conditions(batch.rows) for batch in ends]
    density, species = [ends[0].maps[:, 0].cpu().numpy()], [ends[0].species.cpu().numpy()]
    shares = np.linspace(0, 1, steps)
    for share in shares:
        code, condition = ((1 - share) * a + share * b for a, b in (codes, conditions))
        maps = models.decoded(code, condition)
        predicted, inside = models.labelled(maps)
        density.append(maps[:, 0].cpu().numpy())
        species.append(np.where(inside, predicted, 0))
    density.append(ends[1].maps[:, 0].cpu().numpy())
    species.append(ends[1].species.cpu().numpy())
    formulas = [[_identity(models, int(row))["formula"] for row in models.dataset.rows[pair]] for pair in pairs]
    labels = [f"{first} - {last}" for first, last in formulas]
    return _slices(density, species, labels, ["true", *(f"{share:.2f}" for share in shares), "true"])


def _slices(density: list[np.ndarray], species: list[np.ndarray], rows: list[str], columns: list[str]) -> Slices:
    middle = density[0].shape[-1] // 2
    return Slices(
        np.stack([maps[..., middle] for maps in density], axis=1),
        np.stack([maps[..., middle] for maps in species], axis=1),
        rows,
        columns,
    )
