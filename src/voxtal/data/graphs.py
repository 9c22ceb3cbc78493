"""``graphs.h5``: the crystal graphs of a round's structures, with what later stages need to decode others like them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from voxtal.errors import UserError
from voxtal.representations.crystal_graph import GraphLayout
from voxtal.runs import atomic_path

SCHEMA = "voxtal-crystal-graphs-1"


@dataclass(frozen=True)
class GraphSet:
    """Crystal graphs of one data set.

    Attributes
    ----------
    layout
        Where the codes lie.
    rows
        (n,) row of each graph's structure in the round's structure set.
    graphs
        (n, side, side) float32.
    presence_threshold
        An element whose code has a smaller root mean square is absent: half the smallest of a present one.
    fingerprint
        Hash of the voxels and the encoders that made them.
    """

    layout: GraphLayout
    rows: np.ndarray
    graphs: np.ndarray
    presence_threshold: float
    fingerprint: str

    def write(self, path: Path) -> None:
        """Write to ``path`` atomically."""
        with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["schema"] = SCHEMA
            file.attrs["lattice_latent"] = self.layout.lattice_latent
            file.attrs["sites_latent"] = self.layout.sites_latent
            file.attrs["presence_threshold"] = self.presence_threshold
            file.attrs["fingerprint"] = self.fingerprint
            file["elements"] = np.asarray(self.layout.elements, dtype=np.uint8)
            file["rows"] = self.rows
            file["graphs"] = self.graphs

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
                    tuple(int(z) for z in file["elements"][:]),
                    int(file.attrs["lattice_latent"]),
                    int(file.attrs["sites_latent"]),
                )
                return cls(
                    layout,
                    file["rows"][:stop],
                    file["graphs"][:stop],
                    float(file.attrs["presence_threshold"]),
                    str(file.attrs["fingerprint"]),
                )
        except (OSError, KeyError) as error:
            raise UserError(f"{path} cannot be read: {error}. Delete it and run `voxtal encode`.") from None
