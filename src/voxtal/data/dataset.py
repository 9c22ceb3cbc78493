"""Finished folders of voxels, read sparse, in batches of any rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from voxtal.config import DensityConfig, VoxelsConfig
from voxtal.data.layouts import DENSITY, SITES, Layout
from voxtal.data.schema import INDEX_NAME, UNREADABLE, Settings, decode_text, settings_difference, shard_path
from voxtal.data.shards import MappedShard
from voxtal.errors import UserError
from voxtal.representations.density import Crystal, DensityGrid
from voxtal.representations.ionic_radii import MAX_NUMBER
from voxtal.representations.rotations import IDENTITY, Rotation

Rows = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class SparseBatch:
    """Non-zero voxels of a batch of images.

    Attributes
    ----------
    batch_index
        (v,) int64: image in the batch that each voxel belongs to, rising.
    flat_index
        (v,) int64: its place in the flattened image.
    values
        (v,) float32.
    shape
        (batch, G, G, G) of the dense batch.
    """

    batch_index: np.ndarray
    flat_index: np.ndarray
    values: np.ndarray
    shape: tuple[int, int, int, int]


class PublishedSet:
    """What the data sets of both representations have in common.

    Parameters
    ----------
    folder
        Where ``voxelize`` wrote it.
    settings
        The settings it must have been made with; any if not given.

    Attributes
    ----------
    settings
        The settings it was made with.
    ids, rows
        (n_structures,) id of each structure, and its row in the structure set.
    bad
        (row in the structure set, id, reason) of every structure without voxels.

    Raises
    ------
    UserError
        No index, another format or other settings, or a shard that is missing or has another length.
    """

    layout: Layout
    settings_type: type[Any]
    holds = "voxels"
    made_by = "voxelize"

    def __init__(self, folder: Path, settings: Settings | None = None) -> None:
        path = folder / INDEX_NAME
        if not path.is_file():
            raise UserError(f"No {self.holds} in {folder} ({INDEX_NAME} is missing); run {self.made_by}, to its end.")
        self.folder = folder
        try:
            with h5py.File(path, "r") as file:
                self._read(path, file, settings)
        except UNREADABLE as error:
            raise UserError(f"{path} cannot be read: {error}. Delete it and run voxelize again.") from None
        self._shards: dict[int, MappedShard] = {}
        self._check_shards()

    def _read(self, path: Path, file: h5py.File, settings: Settings | None) -> None:
        if (schema := file.attrs.get("schema")) != self.layout.index_schema:
            raise UserError(
                f"{path} has the format {schema!r}, wanted is {self.layout.index_schema!r}: run voxelize --force."
            )
        stored = str(file.attrs["settings"])
        if settings and (difference := settings_difference(stored, settings)):
            raise UserError(
                f"{self.folder} was made with other settings: {difference}. Change them back, or run voxelize --force."
            )
        self.settings = self.settings_type.model_validate(json.loads(stored))
        self.rows = file["rows"][()]
        self.ids = decode_text(file["ids"][()])
        reasons = zip(
            file["bad/rows"][()].tolist(),
            decode_text(file["bad/ids"][()]).tolist(),
            decode_text(file["bad/reasons"][()]).tolist(),
            strict=True,
        )
        self.bad: list[tuple[int, str, str]] = list(reasons)
        self._first_structure = file["shards/structures"][()]
        self._bytes = file["shards/bytes"][()]
        self._read_more(file)

    def _read_more(self, file: h5py.File) -> None:
        """What only one of the layouts has in its index."""

    def _check_shards(self) -> None:
        for number, expected in enumerate(self._bytes):
            path = shard_path(self.folder, number)
            if not path.is_file():
                raise UserError(f"{path} is missing; run voxelize again, it makes only what is not there.")
            if (size := path.stat().st_size) != expected:
                raise UserError(f"{path} has {size} bytes instead of {expected}; delete it and run voxelize again.")

    @property
    def n_structures(self) -> int:
        return len(self.ids)

    def _located(self, rows: Rows, first: np.ndarray) -> list[tuple[MappedShard, int]]:
        """Shard of each row and its place there; ``first`` has the first row of every shard."""
        wanted = np.asarray(rows, dtype=np.int64)
        shards = np.searchsorted(first, wanted, side="right") - 1
        places = (wanted - first[shards]).tolist()
        return [(self._shard(shard), place) for shard, place in zip(shards.tolist(), places, strict=True)]

    def _shard(self, number: int) -> MappedShard:
        if number not in self._shards:
            self._shards[number] = MappedShard(shard_path(self.folder, number))
        return self._shards[number]


@dataclass(frozen=True)
class AtomBatch:
    """What the sites images of a batch show.

    Attributes
    ----------
    batch_index
        (a,) int64: image in the batch that each atom belongs to, rising.
    positions
        (a, 3) float32: Cartesian coordinates in the box, angstrom.
    images
        How many images there are.
    """

    batch_index: np.ndarray
    positions: np.ndarray
    images: int


class VoxelDataset(PublishedSet):
    """Sites and lattice voxels (CCDCGAN).

    Attributes
    ----------
    image_structure, image_numbers
        (n_images,) structure (row of this data set) and atomic number of each sites image.
    """

    layout = SITES
    settings_type = VoxelsConfig

    def _read_more(self, file: h5py.File) -> None:
        self.image_structure = file["image_structure"][()]
        self.image_numbers = file["image_numbers"][()]
        self._first_image = file["shards/images"][()]

    @property
    def n_images(self) -> int:
        return len(self.image_numbers)

    def sites_sparse(self, image_rows: Rows) -> SparseBatch:
        """The sites images at ``image_rows``, in that order."""
        return self._batch("sites", image_rows, self._first_image, self.settings.sites_grid)

    def lattice_sparse(self, structure_rows: Rows) -> SparseBatch:
        """The lattice images of the structures at ``structure_rows``, in that order."""
        return self._batch("lattice", structure_rows, self._first_structure, self.settings.lattice_grid)

    def cells(self, structure_rows: Rows) -> np.ndarray:
        """Cells (n, 3, 3; rows, angstrom) that the lattice images at ``structure_rows`` show."""
        found = [shard["cells"][i] for shard, i in self._located(structure_rows, self._first_structure)]
        return np.asarray(found, dtype=np.float32).reshape(-1, 3, 3)

    def atoms(self, image_rows: Rows) -> AtomBatch:
        """The atoms that the sites images at ``image_rows`` show, in that order."""
        parts = [shard.of("atoms", i, "positions")[0] for shard, i in self._located(image_rows, self._first_image)]
        counts = [len(part) for part in parts]
        return AtomBatch(
            np.repeat(np.arange(len(parts)), counts), np.concatenate([np.empty((0, 3), np.float32), *parts]), len(parts)
        )

    def _batch(self, kind: str, rows: Rows, first: np.ndarray, size: int) -> SparseBatch:
        pairs = [shard.of(kind, i, "index", "values") for shard, i in self._located(rows, first)]
        counts = [len(index) for index, _ in pairs]
        return SparseBatch(
            batch_index=np.repeat(np.arange(len(pairs)), counts),
            flat_index=np.concatenate([np.empty(0, np.int64), *(index for index, _ in pairs)]),
            values=np.concatenate([np.empty(0, np.float32), *(values for _, values in pairs)]),
            shape=(len(pairs), size, size, size),
        )


@dataclass(frozen=True)
class DensityBatch:
    """Maps of a batch of structures.

    Attributes
    ----------
    density
        (b, N, N, N) float32.
    species
        (b, N, N, N) uint8.
    coordinate_lines
        (b, 3, N, 3) float32, angstrom: what the position along each axis adds to the coordinate grid, which is
        the sum of the three.
    """

    density: np.ndarray
    species: np.ndarray
    coordinate_lines: np.ndarray


class DensityDataset(PublishedSet):
    """Density, species and coordinate maps (ICSG3D)."""

    layout = DENSITY
    settings_type = DensityConfig
    holds = "density maps"
    made_by = "voxelize --representation density"

    def species_counts(self, structure_rows: Rows) -> np.ndarray:
        """Voxels of each atomic number (119,) int64 in the species maps at ``structure_rows``; first the empty ones."""
        counts = np.zeros(MAX_NUMBER + 1, dtype=np.int64)
        for shard, i in self._located(structure_rows, self._first_structure):
            (numbers,) = shard.of("species", i, "numbers")
            counts += np.bincount(numbers, minlength=len(counts))
        counts[0] = len(structure_rows) * self.settings.grid**3 - counts[1:].sum()
        return counts

    def cells(self, structure_rows: Rows) -> np.ndarray:
        """Cells (n, 3, 3; rows, angstrom) that the maps at ``structure_rows`` were made with."""
        found = [shard["cells"][i] for shard, i in self._located(structure_rows, self._first_structure)]
        return np.asarray(found, dtype=np.float32).reshape(-1, 3, 3)

    def atom_counts(self, structure_rows: Rows) -> np.ndarray:
        """(n,) atoms that the maps at ``structure_rows`` show."""
        located = self._located(structure_rows, self._first_structure)
        return np.array([len(shard.of("atoms", i, "numbers")[0]) for shard, i in located], dtype=np.int64)

    def crystals(self, structure_rows: Rows) -> list[Crystal]:
        """What the maps at ``structure_rows`` show."""
        located = self._located(structure_rows, self._first_structure)
        return [(*shard.of("atoms", i, "numbers", "frac_coords"), shard["cells"][i]) for shard, i in located]

    def maps(self, structure_rows: Rows, rotations: Sequence[Rotation] | None = None) -> DensityBatch:
        """The maps of the structures at ``structure_rows``, in that order, each turned by its rotation."""
        located = self._located(structure_rows, self._first_structure)
        grid = DensityGrid.of(self.settings)
        n = grid.size
        density = np.empty((len(located), n, n, n), dtype=np.float32)
        species = np.empty((len(located), n, n, n), dtype=np.uint8)
        lines = np.empty((len(located), 3, n, 3), dtype=np.float32)
        corners = np.arange(n) * grid.step
        for k, (shard, i) in enumerate(located):
            turn = IDENTITY if rotations is None else rotations[k]
            np.multiply(turn(shard["density"][i]), shard["density_unit"][i], out=density[k])
            index, numbers = shard.of("species", i, "index", "numbers")
            as_encoded = np.zeros(n**3, dtype=np.uint8)
            as_encoded[index] = numbers
            species[k] = turn(as_encoded.reshape(n, n, n))
            for axis in range(3):
                along = corners[::-1] if axis in turn.flips else corners
                lines[k, axis] = along[:, None] * shard["cells"][i, turn.axes[axis]]
        return DensityBatch(density, species, lines)


DATASETS: dict[str, type[PublishedSet]] = {"sites": VoxelDataset, "density": DensityDataset}
"""By the name of the representation."""
