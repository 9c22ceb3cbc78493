"""``graphs.h5``: the crystal graphs of a round's structures, with what later stages need to decode others like them.

On disk and in memory are the codes, of the elements that are there only: a graph with room for every element is zero
but for three or four of its 118 codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from voxtal.errors import UserError
from voxtal.representations.crystal_graph import GraphLayout
from voxtal.representations.ragged import entries_of, offsets_of
from voxtal.runs import atomic_path

SCHEMA = "voxtal-crystal-graphs-2"


@dataclass(frozen=True)
class GraphSet:
    """Crystal graphs of n structures, which have m sites images altogether.

    Attributes
    ----------
    layout
        Where the codes lie in a graph.
    rows
        (n,) row of each graph's structure in the round's structure set.
    lattice
        (n, lattice_latent) float32: code of each cell.
    offsets
        (n + 1,) int64: structure i has the images ``offsets[i]:offsets[i + 1]``.
    numbers, sites
        (m,) uint8 atomic number, rising within a structure, and (m, sites_latent) float32 code of each image.
    presence_threshold
        An element whose code has a smaller root mean square is absent: half the smallest of a present one.
    separated
        Atomic numbers, rising, of the elements that have a sites autoencoder of their own.
    fingerprint
        Hash of the voxels and the encoders that made them.
    """

    layout: GraphLayout
    rows: np.ndarray
    lattice: np.ndarray
    offsets: np.ndarray
    numbers: np.ndarray
    sites: np.ndarray
    presence_threshold: float
    separated: tuple[int, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.rows)

    def dense(self, which: slice | np.ndarray = slice(None)) -> np.ndarray:
        """The graphs (k, side, side; float32) of the structures at ``which``: a slice, a mask (n,), or numbers (k,)."""
        chosen = np.arange(len(self))[which]
        images = entries_of(self.offsets, chosen)
        owner = np.repeat(np.arange(len(chosen)), np.diff(self.offsets)[chosen])
        sites = np.zeros((len(chosen), len(self.layout.elements), self.layout.sites_latent), dtype=np.float32)
        sites[owner, np.searchsorted(self.layout.elements, self.numbers[images])] = self.sites[images]
        return self.layout.pack(self.lattice[chosen], sites)

    def write(self, path: Path) -> None:
        """Write to ``path`` atomically; the same graphs give the same bytes."""
        with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["schema"] = SCHEMA
            file.attrs["lattice_latent"] = self.layout.lattice_latent
            file.attrs["sites_latent"] = self.layout.sites_latent
            file.attrs["presence_threshold"] = self.presence_threshold
            file.attrs["fingerprint"] = self.fingerprint
            arrays = {
                "elements": np.asarray(self.layout.elements, dtype=np.uint8),
                "separated": np.asarray(self.separated, dtype=np.uint8),
                "rows": self.rows,
                "lattice": self.lattice,
                "offsets": self.offsets,
                "numbers": self.numbers,
                "sites": self.sites,
            }
            for name, values in arrays.items():
                file.create_dataset(name, data=values, track_times=False)

    @classmethod
    def read(cls, path: Path, stop: int | None = None) -> GraphSet:
        """Read a set, or only its first ``stop`` graphs; UserError where there is none."""
        if not path.is_file():
            raise UserError(f"No crystal graphs at {path}; make them with `voxtal encode`.")
        try:
            with h5py.File(path, "r") as file:
                if file.attrs.get("schema") != SCHEMA:
                    raise UserError(f"{path} does not hold crystal graphs ({SCHEMA}); run `voxtal encode` again.")
                layout = GraphLayout(
                    tuple(file["elements"][:].tolist()),
                    int(file.attrs["lattice_latent"]),
                    int(file.attrs["sites_latent"]),
                )
                offsets = file["offsets"][: None if stop is None else stop + 1]
                return cls(
                    layout,
                    file["rows"][:stop],
                    file["lattice"][:stop],
                    offsets,
                    file["numbers"][: offsets[-1]],
                    file["sites"][: offsets[-1]],
                    float(file.attrs["presence_threshold"]),
                    tuple(file["separated"][:].tolist()),
                    str(file.attrs["fingerprint"]),
                )
        except (OSError, KeyError) as error:
            raise UserError(f"{path} cannot be read: {error}. Delete it and run `voxtal encode`.") from None


def joined(parts: Sequence[GraphSet]) -> GraphSet:
    """One set of several, at least one, that the same encoders made."""
    return GraphSet(
        parts[0].layout,
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.lattice for part in parts]),
        offsets_of(np.concatenate([np.diff(part.offsets) for part in parts])),
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.sites for part in parts]),
        min(part.presence_threshold for part in parts),
        parts[0].separated,
        parts[0].fingerprint,
    )
