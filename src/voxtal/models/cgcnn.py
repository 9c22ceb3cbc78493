"""CGCNN: from the atom graph of a crystal to a property (ICSG3D, section Crystal-Property Prediction).

Equations are those of C. J. Court et al., J. Chem. Inf. Model. 60, 4518 (2020), doi:10.1021/acs.jcim.0c00464, who take
them from T. Xie and J. C. Grossman, Phys. Rev. Lett. 120, 145301 (2018), doi:10.1103/PhysRevLett.120.145301.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxtal.models.atom_graphs import AtomGraph, AtomGraphs
from voxtal.models.scaling import Scaled
from voxtal.models.tokens import ElementEmbedding
from voxtal.representations.neighbours import NEAREST
from voxtal.units import ATOMIC_NUMBERS

BEYOND = {"paper-cgcnn": 1.0, "laptop-cgcnn": 1.1}
"""How much farther than the 12th an atom's neighbours may be (voxtal.representations.neighbours)."""
_AT_ONCE = 256
"""Crystals whose property is predicted together."""
_LONGEST, _SPACING = 8.0, 0.2
"""Angstrom, of the published Gaussians."""
_HIDDEN = 128
"""Width of the first of the two published dense layers."""


class CGCNN(Scaled):
    """A network with a linear output, in units of the training targets' mean and standard deviation.

    A second output, where there is one, is the logit of the property not being zero: where most crystals are metals,
    how large a band gap is and whether there is one are two questions. Mean and deviation are then those of the others.

    Parameters
    ----------
    body
        Maps an :class:`AtomGraph` to features (atoms, width): what one property's network hands on to another's.
    head
        Maps a graph and those features to (batch, 1) or (batch, 2).
    """

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def outputs(self, graph: AtomGraph) -> Tensor:
        """Standardised property and logit of its not being zero, (batch, 1 or 2)."""
        return self.head(graph, self.body(graph))

    def forward(self, graph: AtomGraph) -> Tensor:
        """Property (batch,), in the targets' unit."""
        outputs = self.outputs(graph)
        amount = outputs[:, 0] * self.scale + self.mean
        return amount if outputs.shape[1] == 1 else amount * (outputs[:, 1] > 0)


@torch.no_grad()
def predict(network: CGCNN, graphs: AtomGraphs, rows: Tensor) -> Tensor:
    """What the network gives for the crystals at ``rows`` (n,) of ``graphs``: (n,), in its targets' unit."""
    return torch.cat([network(graphs.batch(some)) for some in rows.split(_AT_ONCE)])


def paper_cgcnn(width: int, layers: int, outputs: int = 1) -> CGCNN:
    """The published network: a linear layer, a convolution, the mean over atoms, two dense layers.

    Where the paper is silent as its authors' code: 64 features, 128 in the first dense layer, softplus before it and
    after. Its normalisation by the statistics of whatever batch an atom is predicted in is left out, as in eq. 9.
    """
    return CGCNN(_PublishedBody(width, layers), _PublishedHead(width, outputs))


def laptop_cgcnn(width: int, layers: int, outputs: int = 1) -> CGCNN:
    """Gated convolutions over normalised features, with dense layers between; see docs/icsg3d.md."""
    return CGCNN(_Body(width, layers), _Head(width, outputs))


class GaussianExpansion(nn.Module):
    """Distances (edges,) as Gaussians (edges, features) at 0 to ``longest`` angstrom, ``spacing`` apart and wide.

    exp(-(d - mu)^2 / spacing^2), as T. Xie and J. C. Grossman have it.
    """

    centres: Tensor

    def __init__(self, longest: float, spacing: float) -> None:
        super().__init__()
        self.register_buffer("centres", torch.arange(round(longest / spacing) + 1) * spacing)
        self.spacing = spacing

    @property
    def features(self) -> int:
        return len(self.centres)

    def forward(self, distances: Tensor) -> Tensor:
        return torch.exp(-(((distances[:, None] - self.centres) / self.spacing) ** 2))


class PublishedConvolution(nn.Module):
    """v_i + sum_j sigma(z_ij W + b) * g(z_ij W_s) with z_ij = v_i || v_j || e_ij (eqs. 8 and 9); g is the softplus.

    The products of W with v_i and v_j are taken once for each atom, not once for each edge.
    """

    def __init__(self, width: int, edge_features: int) -> None:
        super().__init__()
        self.centre = nn.Linear(width, 2 * width, bias=False)
        self.other = nn.Linear(width, 2 * width, bias=False)
        self.edge = nn.Linear(edge_features, 2 * width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))
        bound = (6 / (4 * width + edge_features)) ** 0.5  # Glorot's for W and W_s together, as published
        for part in (self.centre, self.other, self.edge):
            nn.init.uniform_(part.weight, -bound, bound)

    def forward(self, graph: AtomGraph, x: Tensor, edges: Tensor) -> Tensor:
        z = self.centre(x).index_select(0, graph.centres) + self.other(x).index_select(0, graph.others)
        gate, core = (z + self.edge(edges)).chunk(2, dim=1)
        return x + graph.gathered(torch.sigmoid(gate + self.bias) * F.softplus(core) * graph.weights[:, None])


class _PublishedBody(nn.Module):
    table: Tensor

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.register_buffer("table", published_features())
        self.linear = nn.Linear(self.table.shape[1], width)
        self.expansion = GaussianExpansion(_LONGEST, _SPACING)
        self.convolutions = nn.ModuleList(PublishedConvolution(width, self.expansion.features) for _ in range(layers))

    def forward(self, graph: AtomGraph) -> Tensor:
        x, edges = self.linear(self.table[graph.numbers]), self.expansion(graph.distances)
        for convolution in self.convolutions:
            x = convolution(graph, x, edges)
        return x


class _PublishedHead(nn.Module):
    """Eq. 10 and the two dense layers."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(nn.Softplus(), nn.Linear(width, _HIDDEN), nn.Softplus(), nn.Linear(_HIDDEN, outputs))

    def forward(self, graph: AtomGraph, x: Tensor) -> Tensor:
        return self.dense(graph.mean(x))


class _Body(nn.Module):
    """Convolutions and dense layers in turns, each added to what there was before."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.element = ElementEmbedding(width)
        self.expansion = GaussianExpansion(_LONGEST, _SPACING)
        self.convolutions = nn.ModuleList(_Convolution(width, self.expansion.features) for _ in range(layers))

    def forward(self, graph: AtomGraph) -> Tensor:
        x, edges = self.element(graph.numbers), self.expansion(graph.distances)
        for convolution in self.convolutions:
            x = convolution(graph, x, edges)
        return x


class _Convolution(nn.Module):
    """Eqs. 8 and 9 over normalised features, with SiLU for the softplus, and two dense layers on each atom."""

    def __init__(self, width: int, edge_features: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.centre, self.other = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width, bias=False)
        self.edge = nn.Linear(edge_features, 2 * width, bias=False)
        self.mixed = nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, graph: AtomGraph, x: Tensor, edges: Tensor) -> Tensor:
        y = self.before(x)
        z = self.centre(y).index_select(0, graph.centres) + self.other(y).index_select(0, graph.others)
        gate, core = (z + self.edge(edges)).chunk(2, dim=1)
        messages = torch.sigmoid(gate) * F.silu(core) * graph.weights[:, None]
        x = x + self.mixed(graph.gathered(messages) / NEAREST**0.5)
        return x + self.layers(self.between(x))


class _Head(nn.Module):
    """A dense layer on each atom, the mean over atoms (eq. 10), and one on the crystal."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.atoms = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU())
        self.crystal = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs))

    def forward(self, graph: AtomGraph, x: Tensor) -> Tensor:
        return self.crystal(graph.mean(self.atoms(x)))


def published_features() -> Tensor:
    """(119, 93) zeros and ones that tell the elements apart, as Xie and Grossman's table of atom features has them.

    Group (18), period (9), number of valence electrons (12) and block (4); and the interval, of ten equal ones, of the
    electronegativity, covalent radius (pm), logarithm of the first ionisation energy (eV), electron affinity (eV) and
    logarithm of the molar volume (cm^3). Values are those of pymatgen and ASE; what is not known lies in none.
    """
    from ase.data import covalent_radii
    from pymatgen.core import Element

    rows = torch.zeros(ATOMIC_NUMBERS, 93)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is not known
        for z in range(1, 104):
            element = Element.from_Z(z)
            parts = [
                _one_of(element.group, 0.5, 18.5, 18),
                _one_of(element.row, 0.5, 9.5, 9),
                _one_of(element.X, 0.5, 4.0, 10),
                _one_of(100 * covalent_radii[z], 25, 250, 10),
                _one_of(_valence_electrons(z, element.group, element.block), 0.5, 12.5, 12),
                _one_of(math.log(element.ionization_energies[0]), 1.3, 3.3, 10),
                _one_of(element.electron_affinity, -3.0, 3.7, 10),
                _one_of("spdf".index(element.block), -0.5, 3.5, 4),
                _one_of(math.log(element.molar_volume or math.nan), 1.5, 4.3, 10),
            ]
            rows[z] = torch.cat(parts)
    return rows


def _one_of(value: float | None, low: float, high: float, n: int) -> Tensor:
    """(n,) a one in the interval that ``value`` lies in, or the nearest one; zeros where it is not known."""
    out = torch.zeros(n)
    if value is not None and not math.isnan(value):
        out[min(max(int((float(value) - low) / (high - low) * n), 0), n - 1)] = 1
    return out


def _valence_electrons(z: int, group: int, block: str) -> int:
    """Outside the noble gas core and full inner shells; of more than 12, as most lanthanides have, 12."""
    if z == 2:
        return 2
    if block == "f":
        return min(z - (54 if z < 87 else 86), 12)
    return group - 10 if block == "p" else group
