"""The voxel data sets on disk: folders of shards and an index, all plain uncompressed HDF5.

``shard-00000.h5``: a fixed block of ``structures_per_shard`` rows of the structure set, the same bytes
whichever rank wrote it. Of these rows s were encoded and b could not be. Every shard has

=====================  ===================  ==============================================================
dataset                shape, type          meaning
=====================  ===================  ==============================================================
``rows``               (s,) int64           row of each structure in the structure set
``ids``                (s,) bytes (UTF-8)   its id
``cells``              (s, 3, 3) float32    its cell as encoded: rows, angstrom
``bad/rows``           (b,) int64           row of each structure without voxels
``bad/ids``            (b,) bytes (UTF-8)   its id
``bad/reasons``        (b,) bytes (UTF-8)   why
=====================  ===================  ==============================================================

A shard of **sites and lattice voxels** (CCDCGAN), with m sites images altogether:

=====================  ===================  ==============================================================
``image_structure``    (m,) int64           structure (0 to s - 1) of each sites image, rising
``image_numbers``      (m,) uint8           atomic number of each sites image, rising within a structure
``sites/offsets``      (m + 1,) int64       sites image i has the voxels offsets[i]:offsets[i + 1]
``sites/index``        (v,) uint16, uint32  flat index in the (G, G, G) image, rising within an image
``sites/values``       (v,) float16         value of the voxel
``lattice/offsets``    (s + 1,) int64       the same for the (N, N, N) lattice image of each structure
``lattice/index``      (w,) uint16, uint32
``lattice/values``     (w,) float16
``atoms/offsets``      (m + 1,) int64       sites image i shows the atoms offsets[i]:offsets[i + 1]
``atoms/positions``    (a, 3) float32       Cartesian coordinates in the box, angstrom
=====================  ===================  ==============================================================

A shard of **density maps** (ICSG3D):

=====================  ===================  ==============================================================
``density``            (s, N, N, N) uint16  density map M in units of its ``density_unit``
``density_unit``       (s,) float32         1/65535 of the map's maximum
``species/offsets``    (s + 1,) int64       species map i has the voxels offsets[i]:offsets[i + 1]
``species/index``      (v,) uint16, uint32  flat index in the (N, N, N) map, rising
``species/numbers``    (v,) uint8           atomic number there; elsewhere 0
``atoms/offsets``      (s + 1,) int64       structure i has the atoms offsets[i]:offsets[i + 1]
``atoms/numbers``      (a,) uint8           their atomic numbers
``atoms/frac_coords``  (a, 3) float32       and fractional coordinates, the smallest of each axis 0
=====================  ===================  ==============================================================

The binary map is where the species map is not 0, the coordinate grid follows from the cell: neither is stored.

Attributes of a shard: ``schema``, ``settings`` (JSON), ``inputs_sha256`` (of the rows it was made from),
``content_sha256`` (of its datasets).

``index.h5``: published last, by rank 0; without it there is no data set. The datasets ``rows``, ``ids``, ``bad/*``
and, for sites, ``image_structure`` and ``image_numbers`` of all shards joined (structures counted on), and

=====================  ===================  ==============================================================
``shards/structures``  (k + 1,) int64       shard j has the structures structures[j]:structures[j + 1]
``shards/images``      (k + 1,) int64       and the sites images images[j]:images[j + 1] (sites only)
``shards/bytes``       (k,) int64           size of its file
``shards/sha256``      (k,) bytes           checksum of its file
=====================  ===================  ==============================================================

Half precision is right to 5e-4 of a voxel's value, which moves a decoded atom by 1e-4 angstrom, and saves a
third of the file. A density map is stored whole, since few of its voxels are zero; steps of 1/65535 of its maximum are
finer than half precision where the atoms are, and NumPy converts them faster.
Indices take two bytes where the grid has at most 65,536 points.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from voxtal.config import DensityConfig, VoxelsConfig
from voxtal.structures.structure_set import StructureSet

INDEX_NAME = "index.h5"
VALUE_TYPE = np.dtype("<f2")
LEVEL_TYPE = np.dtype("<u2")
MAX_LEVEL = 65535

UNREADABLE = (OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)
"""What reading a missing or damaged HDF5 file raises: a flipped bit may change the type or the size of what is read."""

Settings = VoxelsConfig | DensityConfig


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.h5"


def index_type(size: int) -> np.dtype:
    """Type of flat indices into a (size, size, size) image."""
    return np.dtype("<u2") if size**3 <= 1 << 16 else np.dtype("<u4")


def settings_json(settings: Settings) -> str:
    return json.dumps(settings.model_dump(), sort_keys=True)


def settings_difference(stored: str, wanted: Settings) -> str:
    """What differs, key by key, or nothing: ``voxels.sites_grid is 64 there and 32 now``."""
    section = "density" if isinstance(wanted, DensityConfig) else "voxels"
    there, now = json.loads(stored), wanted.model_dump()
    keys = [key for key in {**now, **there} if there.get(key) != now.get(key)]
    return ", ".join(f"{section}.{key} is {there.get(key)} there and {now.get(key)} now" for key in keys)


def inputs_sha256(block: StructureSet) -> str:
    """Checksum of what voxels depend on: ids, numbers, coordinates and cells, not the labels."""
    names = ("offsets", "numbers", "frac_coords", "cells")
    return arrays_sha256({"ids": encode_text(block.ids), **{name: getattr(block, name) for name in names}})


def arrays_sha256(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def encode_text(values: np.ndarray | list[str]) -> np.ndarray:
    """Strings as UTF-8 of fixed length: plain arrays, with nothing of HDF5's heap in the file."""
    encoded = [str(value).encode() for value in values]
    return np.array(encoded, dtype=f"S{max([1, *map(len, encoded)])}")


def decode_text(values: np.ndarray) -> np.ndarray:
    return np.array([value.decode() for value in values], dtype=np.str_)
