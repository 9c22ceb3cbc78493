"""Properties of crystals by the trained CGCNNs of a round: ICSG3D predicts eight of each candidate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from voxtal.models.atom_graphs import atom_graphs
from voxtal.models.build import restore
from voxtal.models.cgcnn import BEYOND, CGCNN, predict
from voxtal.runs import RoundPaths
from voxtal.structures.structure_set import ENERGY_PER_ATOM, FORMATION_ENERGY, StructureSet
from voxtal.training.checkpoint import load
from voxtal.training.objectives import PROPERTY_NETWORK, cgcnn_of, property_of, training_command
from voxtal.training.trainer import is_whole

BAND_GAP, REFRACTIVE_INDEX, DIELECTRIC_CONSTANT = "band_gap", "refractive_index", "dielectric_constant"
PUBLISHED_PROPERTIES = (
    FORMATION_ENERGY,
    ENERGY_PER_ATOM,
    BAND_GAP,
    "bulk_modulus",
    "shear_modulus",
    "poisson_ratio",
    REFRACTIVE_INDEX,
    DIELECTRIC_CONSTANT,
)
"""The eight of ICSG3D's table 1, as voxtal calls the columns; any other numeric column can be trained too."""
ZERO_GAP_EV = 0.05
"""Band gaps predicted below this are zero: a network with a linear output never says 0 exactly."""


@dataclass(frozen=True)
class PropertyNetwork:
    """A trained network and how its output is read.

    Attributes
    ----------
    log10
        Whether it predicts the logarithm of the property.
    beyond
        Which neighbours it sees (voxtal.representations.neighbours).
    """

    network: CGCNN
    log10: bool
    beyond: float


def trained_properties(paths: RoundPaths) -> list[str]:
    """Properties whose CGCNN has been trained to its end in this round; the published ones first, in their order."""
    folders = paths.train(PROPERTY_NETWORK).parent.glob(f"{PROPERTY_NETWORK}*")
    names = [property_of(folder.name, PROPERTY_NETWORK) for folder in sorted(folders) if is_whole(folder)]
    return sorted(filter(None, names), key=lambda name: (*PUBLISHED_PROPERTIES, name).index(name))


def load_property_networks(
    paths: RoundPaths, properties: Iterable[str], device: torch.device | str
) -> dict[str, PropertyNetwork]:
    """The trained CGCNN of each property, on a device.

    Raises
    ------
    UserError
        One has not been trained, or its file is damaged.
    """
    out = {}
    for name in properties:
        saved = load(paths.train(cgcnn_of(name)) / "best.pt", training_command(name, PROPERTY_NETWORK))
        network = restore(saved).to(device)
        out[name] = PropertyNetwork(network, saved["facts"]["log10"], BEYOND[saved["architecture"]])  # type: ignore[arg-type]
    return out


def predict_properties(
    structures: StructureSet, networks: Mapping[str, PropertyNetwork], device: torch.device | str
) -> dict[str, np.ndarray]:
    """Each property (n,) of n valid structures, in the unit of the column that it was trained on.

    Where the predicted band gap is zero, refractive index and dielectric constant are NaN, as published: a metal has
    neither in this sense. Without a network of the band gap they stand as predicted.
    """
    if not len(structures):
        return {name: np.empty(0) for name in networks}
    graphs = {
        beyond: atom_graphs(structures, beyond, device) for beyond in {network.beyond for network in networks.values()}
    }
    rows = torch.arange(len(structures))
    out = {}
    for name, network in networks.items():
        values = predict(network.network, graphs[network.beyond], rows).double().cpu().numpy()
        out[name] = 10**values if network.log10 else values
    if BAND_GAP in out:
        metals = out[BAND_GAP] < ZERO_GAP_EV
        out |= {
            name: np.where(metals, np.nan, out[name]) for name in (REFRACTIVE_INDEX, DIELECTRIC_CONSTANT) if name in out
        }
    return out
