"""One shard of a voxel data set: made from a block of structures, written whole, checked, and read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from voxtal.data.layouts import Layout, layout_of
from voxtal.data.schema import (
    UNREADABLE,
    Settings,
    arrays_sha256,
    encode_text,
    inputs_sha256,
    settings_difference,
    settings_json,
)
from voxtal.runs import atomic_path, sha256_of
from voxtal.structures.structure_set import StructureSet


def shard_arrays(block: StructureSet, first_row: int, settings: Settings) -> dict[str, np.ndarray]:
    """The datasets of the shard that holds ``block``; a structure without voxels becomes a bad row."""
    encoded = layout_of(settings).encode(block, settings)
    bad = np.array(sorted(encoded.reasons), dtype=np.int64)
    return {
        "rows": encoded.rows + first_row,
        "ids": encode_text(block.ids[encoded.rows]),
        **encoded.arrays,
        "bad/rows": bad + first_row,
        "bad/ids": encode_text(block.ids[bad]),
        "bad/reasons": encode_text([encoded.reasons[row] for row in bad.tolist()]),
    }


def write_shard(path: Path, block: StructureSet, first_row: int, settings: Settings) -> None:
    """Encode ``block`` and write it atomically."""
    arrays = shard_arrays(block, first_row, settings)
    attributes = {
        "schema": layout_of(settings).shard_schema,
        "settings": settings_json(settings),
        "inputs_sha256": inputs_sha256(block),
        "content_sha256": arrays_sha256(dict(sorted(arrays.items()))),
    }
    write_arrays(path, arrays, attributes)


def write_arrays(path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, str]) -> None:
    """Write datasets and attributes atomically; the same ones give the same bytes."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(attributes)
        for name, array in arrays.items():
            file.create_dataset(name, data=array, track_times=False)


def read_arrays(file: h5py.File) -> dict[str, np.ndarray]:
    """All datasets of a file, by name."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return {name: file[name][()] for name in sorted(names)}


WHOLE = "whole"
ABSENT = "absent"


def shard_state(path: Path, block: StructureSet, settings: Settings, published: str | None) -> str:
    """``whole``, ``absent`` (or damaged: to be made again), or what it was made from instead of this.

    ``published`` is the checksum of the file in the index, where there is one: other bytes are damage.
    """
    if not path.is_file() or (published is not None and sha256_of(path) != published):
        return ABSENT
    try:
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
            if (schema := attributes.get("schema")) != (wanted := layout_of(settings).shard_schema):
                return f"its format is {schema} there and {wanted} now"
            if difference := settings_difference(attributes["settings"], settings):
                return difference
            if attributes["inputs_sha256"] != inputs_sha256(block):
                return "its structures are others"
            intact = published is not None or attributes["content_sha256"] == arrays_sha256(read_arrays(file))
    except UNREADABLE:
        return ABSENT
    return WHOLE if intact else ABSENT


@dataclass(frozen=True)
class ShardSummary:
    """What the index says about a shard: its small tables, the size of its file and its checksum."""

    tables: dict[str, np.ndarray]
    bytes: int
    sha256: str


COMMON_TABLES = ("rows", "ids", "bad/rows", "bad/ids", "bad/reasons")


def summarize_shard(path: Path, layout: Layout) -> ShardSummary:
    with h5py.File(path, "r") as file:
        tables = {name: file[name][()] for name in (*COMMON_TABLES, *layout.tables)}
    return ShardSummary(tables, path.stat().st_size, sha256_of(path))


class MappedShard:
    """A shard's arrays, read through the page cache: memory is bounded by what is asked for."""

    def __init__(self, path: Path) -> None:
        places: dict[str, tuple[int | None, np.dtype, tuple[int, ...]]] = {}

        def note(name: str, item: h5py.Dataset | h5py.Group) -> None:
            if isinstance(item, h5py.Dataset):
                places[name] = item.id.get_offset(), item.dtype, item.shape

        with h5py.File(path, "r") as file:
            file.visititems(note)
        contents = np.memmap(path, dtype=np.uint8, mode="r")
        self._arrays = {
            name: np.ndarray(shape, dtype, contents, offset) if offset is not None else np.empty(shape, dtype)
            for name, (offset, dtype, shape) in places.items()
        }

    def __getitem__(self, name: str) -> np.ndarray:
        """A whole dataset."""
        return self._arrays[name]

    def of(self, group: str, i: int, *names: str) -> tuple[np.ndarray, ...]:
        """Entries ``offsets[i]:offsets[i + 1]`` of datasets of a group such as ``sites``."""
        start, stop = self._arrays[f"{group}/offsets"][i : i + 2]
        return tuple(self._arrays[f"{group}/{name}"][start:stop] for name in names)
