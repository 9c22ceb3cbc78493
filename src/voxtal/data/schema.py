"""The voxel data set on disk: a folder of shards and an index, all plain uncompressed HDF5.

``shard-00000.h5``: a fixed block of ``structures_per_shard`` rows of the structure set, the same bytes
whichever rank wrote it. Of these rows s were encoded, into m sites images altogether, and b could not be.

=====================  ===================  ==============================================================
dataset                shape, type          meaning
=====================  ===================  ==============================================================
``rows``               (s,) int64           row of each structure in the structure set
``ids``                (s,) bytes (UTF-8)   its id
``image_structure``    (m,) int64           structure (0 to s - 1) of each sites image, rising
``image_numbers``      (m,) uint8           atomic number of each sites image, rising within a structure
``sites/offsets``      (m + 1,) int64       sites image i has the voxels offsets[i]:offsets[i + 1]
``sites/index``        (v,) uint16, uint32  flat index in the (G, G, G) image, rising within an image
``sites/values``       (v,) float16         value of the voxel
``lattice/offsets``    (s + 1,) int64       the same for the (N, N, N) lattice image of each structure
``lattice/index``      (w,) uint16, uint32
``lattice/values``     (w,) float16
``bad/rows``           (b,) int64           row of each structure without voxels
``bad/ids``            (b,) bytes (UTF-8)   its id
``bad/reasons``        (b,) bytes (UTF-8)   why
=====================  ===================  ==============================================================

Attributes of a shard: ``schema``, ``settings`` (JSON), ``inputs_sha256`` (of the rows it was made from),
``content_sha256`` (of its datasets).

``index.h5``: published last, by rank 0; without it there is no data set. The datasets ``rows``, ``ids``,
``image_structure``, ``image_numbers`` and ``bad/*`` of all shards joined (structures counted on), and

=====================  ===================  ==============================================================
``shards/structures``  (k + 1,) int64       shard j has the structures structures[j]:structures[j + 1]
``shards/images``      (k + 1,) int64       and the sites images images[j]:images[j + 1]
``shards/bytes``       (k,) int64           size of its file
``shards/sha256``      (k,) bytes           its ``content_sha256``
=====================  ===================  ==============================================================

Half precision is right to 5e-4 of a voxel's value, which moves a decoded atom by 1e-4 angstrom, and saves a
third of the file. Indices take two bytes where the grid has at most 65,536 points.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from voxtal.config import VoxelsConfig
from voxtal.structures.structure_set import StructureSet

SHARD_SCHEMA = "voxtal-voxel-shard-1"
INDEX_SCHEMA = "voxtal-voxels-1"
INDEX_NAME = "index.h5"
VALUE_TYPE = np.dtype("<f2")


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.h5"


def index_type(size: int) -> np.dtype:
    """Type of flat indices into a (size, size, size) image."""
    return np.dtype("<u2") if size**3 <= 1 << 16 else np.dtype("<u4")


def settings_json(settings: VoxelsConfig) -> str:
    return json.dumps(settings.model_dump(), sort_keys=True)


def settings_difference(stored: str, wanted: VoxelsConfig) -> str:
    """What differs, key by key, or nothing: ``voxels.sites_grid is 64 there and 32 now``."""
    there, now = json.loads(stored), wanted.model_dump()
    keys = [key for key in {**now, **there} if there.get(key) != now.get(key)]
    return ", ".join(f"voxels.{key} is {there.get(key)} there and {now.get(key)} now" for key in keys)


def inputs_sha256(block: StructureSet) -> str:
    """Checksum of what voxels depend on: ids, numbers, coordinates and cells, not the labels."""
    names = ("offsets", "numbers", "frac_coords", "cells")
    return arrays_sha256({"ids": encode_text(block.ids), **{name: getattr(block, name) for name in names}})


def arrays_sha256(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def encode_text(values: np.ndarray | list[str]) -> np.ndarray:
    """Strings as UTF-8 of fixed length: plain arrays, with nothing of HDF5's heap in the file."""
    encoded = [str(value).encode() for value in values]
    return np.array(encoded, dtype=f"S{max([1, *map(len, encoded)])}")


def decode_text(values: np.ndarray) -> np.ndarray:
    return np.array([value.decode() for value in values], dtype=np.str_)
