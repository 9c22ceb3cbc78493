"""Networks by name and preset, and the record from which they are built again."""

from __future__ import annotations

from typing import Any

from torch import nn

from voxtal.models.atoms import AtomsAutoencoder, CellAutoencoder
from voxtal.models.autoencoder import (
    fast_autoencoder,
    paper_lattice_autoencoder,
    paper_sites_autoencoder,
)
from voxtal.models.cgcnn import laptop_cgcnn, paper_cgcnn
from voxtal.models.constraint import paper_constraint, token_constraint
from voxtal.models.crystal_flow import CrystalFlow
from voxtal.models.elements import ElementNetwork
from voxtal.models.gan import DenseDiscriminator, DenseGenerator, PaperDiscriminator, PaperGenerator
from voxtal.models.ions_vae import IonsVAE
from voxtal.models.peaks_unet import laptop_unet
from voxtal.models.unet import paper_unet
from voxtal.models.vae import PaperVAE

ARCHITECTURES: dict[str, Any] = {
    "paper-lattice-ae": paper_lattice_autoencoder,
    "paper-sites-ae": paper_sites_autoencoder,
    "laptop-lattice-ae": fast_autoencoder,
    "laptop-sites-ae": fast_autoencoder,
    "atoms-lattice-ae": CellAutoencoder,
    "atoms-sites-ae": AtomsAutoencoder,
    "paper-constraint": paper_constraint,
    "laptop-constraint": token_constraint,
    "paper-generator": PaperGenerator,
    "laptop-generator": DenseGenerator,
    "paper-discriminator": PaperDiscriminator,
    "laptop-discriminator": DenseDiscriminator,
    "paper-unet": paper_unet,
    "laptop-unet": laptop_unet,
    "paper-vae": PaperVAE,
    "laptop-vae": IonsVAE,
    "flow-generator": CrystalFlow,
    "analogue-elements": ElementNetwork,
    "paper-cgcnn": paper_cgcnn,
    "laptop-cgcnn": laptop_cgcnn,
}
"""``preset-role``, or ``kind-role`` for those that both presets may use -> what builds the network."""


def build(architecture: str, **sizes: Any) -> nn.Module:
    """A freshly initialised network of :data:`ARCHITECTURES`."""
    return ARCHITECTURES[architecture](**sizes)


def record(architecture: str, sizes: dict[str, Any], module: nn.Module, **facts: Any) -> dict[str, Any]:
    """What ``best.pt`` holds: enough for :func:`restore`, and facts that later stages need."""
    weights = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
    return {"architecture": architecture, "sizes": sizes, "weights": weights, "facts": facts}


def restore(saved: dict[str, Any]) -> nn.Module:
    """The network of a :func:`record`, in evaluation mode."""
    module = build(saved["architecture"], **saved["sizes"])
    module.load_state_dict(saved["weights"])
    return module.eval()
