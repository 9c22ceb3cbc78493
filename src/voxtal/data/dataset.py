"""``VoxelDataset``: a finished folder of voxels, read sparse, in batches of any rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from voxtal.config import VoxelsConfig
from voxtal.data.schema import INDEX_NAME, INDEX_SCHEMA, decode_text, settings_difference, shard_path
from voxtal.data.shards import MappedShard
from voxtal.errors import UserError

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


class VoxelDataset:
    """The data set in ``folder``.

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
    image_structure, image_numbers
        (n_images,) structure (row of this data set) and atomic number of each sites image.
    bad
        (row in the structure set, id, reason) of every structure without voxels.

    Raises
    ------
    UserError
        No index, another format or other settings, or a shard that is missing or has another length.
    """

    def __init__(self, folder: Path, settings: VoxelsConfig | None = None) -> None:
        path = folder / INDEX_NAME
        if not path.is_file():
            raise UserError(f"No voxels in {folder} ({INDEX_NAME} is missing); run voxelize, to its end.")
        self.folder = folder
        try:
            with h5py.File(path, "r") as file:
                self._read(path, file, settings)
        except (OSError, KeyError) as error:
            raise UserError(f"{path} cannot be read: {error}. Delete it and run voxelize again.") from None
        self._shards: dict[int, MappedShard] = {}
        self._check_shards()

    def _read(self, path: Path, file: h5py.File, settings: VoxelsConfig | None) -> None:
        if (schema := file.attrs.get("schema")) != INDEX_SCHEMA:
            raise UserError(
                f"{path} has the format {schema!r}, this voxtal reads {INDEX_SCHEMA!r}: run voxelize --force."
            )
        stored = str(file.attrs["settings"])
        if settings and (difference := settings_difference(stored, settings)):
            raise UserError(
                f"{self.folder} was made with other settings: {difference}. Change them back, or run voxelize --force."
            )
        self.settings = VoxelsConfig.model_validate(json.loads(stored))
        self.rows = file["rows"][()]
        self.ids = decode_text(file["ids"][()])
        self.image_structure = file["image_structure"][()]
        self.image_numbers = file["image_numbers"][()]
        reasons = zip(
            file["bad/rows"][()].tolist(),
            decode_text(file["bad/ids"][()]).tolist(),
            decode_text(file["bad/reasons"][()]).tolist(),
            strict=True,
        )
        self.bad: list[tuple[int, str, str]] = list(reasons)
        self._first_structure = file["shards/structures"][()]
        self._first_image = file["shards/images"][()]
        self._bytes = file["shards/bytes"][()]

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

    @property
    def n_images(self) -> int:
        return len(self.image_numbers)

    def images_of(self, structure: int) -> np.ndarray:
        """Rows of the sites images of one structure."""
        return np.arange(*np.searchsorted(self.image_structure, [structure, structure + 1]))

    def sites_sparse(self, image_rows: Rows) -> SparseBatch:
        """The sites images at ``image_rows``, in that order."""
        return self._batch("sites", image_rows, self._first_image, self.settings.sites_grid)

    def lattice_sparse(self, structure_rows: Rows) -> SparseBatch:
        """The lattice images of the structures at ``structure_rows``, in that order."""
        return self._batch("lattice", structure_rows, self._first_structure, self.settings.lattice_grid)

    def _batch(self, kind: str, rows: Rows, first: np.ndarray, size: int) -> SparseBatch:
        wanted = np.asarray(rows, dtype=np.int64)
        shards = np.searchsorted(first, wanted, side="right") - 1
        pairs = [
            self._shard(shard).voxels(kind, row)
            for shard, row in zip(shards.tolist(), (wanted - first[shards]).tolist(), strict=True)
        ]
        counts = [len(index) for index, _ in pairs]
        return SparseBatch(
            batch_index=np.repeat(np.arange(len(wanted)), counts),
            flat_index=np.concatenate([np.empty(0, np.int64), *(index for index, _ in pairs)]),
            values=np.concatenate([np.empty(0, np.float32), *(values for _, values in pairs)]),
            shape=(len(wanted), size, size, size),
        )

    def _shard(self, number: int) -> MappedShard:
        if number not in self._shards:
            self._shards[number] = MappedShard(shard_path(self.folder, number))
        return self._shards[number]
