"""One shard of a voxel data set: made from a block of structures, written whole, checked, and read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from voxtal.config import VoxelsConfig
from voxtal.data.schema import (
    SHARD_SCHEMA,
    VALUE_TYPE,
    arrays_sha256,
    encode_text,
    index_type,
    inputs_sha256,
    settings_difference,
    settings_json,
)
from voxtal.representations.reasons import Unencodable
from voxtal.representations.voxels import StructureVoxels, encode_structure
from voxtal.runs import atomic_path
from voxtal.structures.structure_set import StructureSet
from voxtal.structures.validity import why_invalid


def encode_block(block: StructureSet, first_row: int, settings: VoxelsConfig) -> dict[str, np.ndarray]:
    """The datasets of the shard that holds ``block``; a structure without voxels becomes a bad row."""
    encoded: list[StructureVoxels] = []
    rows: list[int] = []
    bad: list[tuple[int, str]] = []
    for i in range(len(block)):
        numbers, frac_coords, cell = block.arrays(i)
        try:
            if reason := why_invalid(numbers, frac_coords, cell):
                raise Unencodable(reason)
            encoded.append(encode_structure(numbers, frac_coords, cell, settings))
            rows.append(i)
        except (Unencodable, np.linalg.LinAlgError) as error:
            bad.append((i, str(error)))
    images = [np.diff(voxels.sites_offsets) for voxels in encoded]
    bad_rows = [i for i, _ in bad]
    return {
        "rows": np.array(rows, dtype=np.int64) + first_row,
        "ids": encode_text(block.ids[rows]),
        "image_structure": np.repeat(np.arange(len(encoded)), [len(counts) for counts in images]),
        "image_numbers": _join([v.elements for v in encoded], np.uint8),
        "sites/offsets": _offsets(_join(images, np.int64)),
        "sites/index": _join([v.sites_index for v in encoded], index_type(settings.sites_grid)),
        "sites/values": _join([v.sites_values for v in encoded], VALUE_TYPE),
        "lattice/offsets": _offsets(np.array([len(v.lattice_index) for v in encoded], dtype=np.int64)),
        "lattice/index": _join([v.lattice_index for v in encoded], index_type(settings.lattice_grid)),
        "lattice/values": _join([v.lattice_values for v in encoded], VALUE_TYPE),
        "bad/rows": np.array(bad_rows, dtype=np.int64) + first_row,
        "bad/ids": encode_text(block.ids[bad_rows]),
        "bad/reasons": encode_text([reason for _, reason in bad]),
    }


def _join(arrays: list[np.ndarray], dtype: np.dtype | type) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=dtype), *(array.astype(dtype) for array in arrays)])


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def write_shard(path: Path, block: StructureSet, first_row: int, settings: VoxelsConfig) -> None:
    """Encode ``block`` and write it atomically."""
    arrays = encode_block(block, first_row, settings)
    attributes = {
        "schema": SHARD_SCHEMA,
        "settings": settings_json(settings),
        "inputs_sha256": inputs_sha256(block),
        "content_sha256": arrays_sha256(arrays),
    }
    write_arrays(path, arrays, attributes)


def write_arrays(path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, str]) -> None:
    """Write datasets and attributes atomically; the same ones give the same bytes."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(attributes)
        for name, array in arrays.items():
            file.create_dataset(name, data=array, track_times=False)


def read_arrays(file: h5py.File) -> dict[str, np.ndarray]:
    """All datasets of a file, in the order of ``encode_block``."""
    names = [
        *("rows", "ids", "image_structure", "image_numbers"),
        *(f"{kind}/{part}" for kind in ("sites", "lattice") for part in ("offsets", "index", "values")),
        *("bad/rows", "bad/ids", "bad/reasons"),
    ]
    return {name: file[name][()] for name in names}


WHOLE = "whole"
ABSENT = "absent"


def shard_state(path: Path, block: StructureSet, settings: VoxelsConfig) -> str:
    """``whole``, ``absent`` (or damaged: to be made again), or what it was made from instead of this."""
    if not path.is_file():
        return ABSENT
    try:
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
            if attributes.get("schema") != SHARD_SCHEMA:
                return f"its format is {attributes.get('schema')} there and {SHARD_SCHEMA} now"
            if difference := settings_difference(attributes["settings"], settings):
                return difference
            if attributes["inputs_sha256"] != inputs_sha256(block):
                return "its structures are others"
            intact = attributes["content_sha256"] == arrays_sha256(read_arrays(file))
    except (OSError, KeyError, ValueError, RuntimeError):
        return ABSENT
    return WHOLE if intact else ABSENT


@dataclass(frozen=True)
class ShardSummary:
    """What the index says about a shard: its small tables, the size of its file and its checksum."""

    tables: dict[str, np.ndarray]
    bytes: int
    content_sha256: str


SUMMARY_TABLES = ("rows", "ids", "image_structure", "image_numbers", "bad/rows", "bad/ids", "bad/reasons")


def summarize_shard(path: Path) -> ShardSummary:
    with h5py.File(path, "r") as file:
        tables = {name: file[name][()] for name in SUMMARY_TABLES}
        checksum = str(file.attrs["content_sha256"])
    return ShardSummary(tables, path.stat().st_size, checksum)


class MappedShard:
    """A shard's voxels, read through the page cache: memory is bounded by what is asked for."""

    def __init__(self, path: Path) -> None:
        names = [f"{kind}/{part}" for kind in ("sites", "lattice") for part in ("offsets", "index", "values")]
        with h5py.File(path, "r") as file:
            places = {n: (file[n].id.get_offset(), file[n].dtype, file[n].shape) for n in names}
        contents = np.memmap(path, dtype=np.uint8, mode="r")
        self._arrays = {
            name: np.ndarray(shape, dtype, contents, offset) if offset is not None else np.empty(shape, dtype)
            for name, (offset, dtype, shape) in places.items()
        }

    def voxels(self, kind: str, image: int) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices and values of one image; ``kind`` is ``sites`` or ``lattice``."""
        start, stop = self._arrays[f"{kind}/offsets"][image : image + 2]
        return self._arrays[f"{kind}/index"][start:stop], self._arrays[f"{kind}/values"][start:stop]
