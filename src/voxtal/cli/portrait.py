"""One structure, its voxels as they are stored, and what decoding makes of them: the panels of ``voxtal view``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voxtal.config import DensityConfig, VoxelsConfig
from voxtal.data.layouts import layout_of
from voxtal.errors import UserError
from voxtal.reports.view_panels import Cloud, Crystal, ElementStyle, Panel, View
from voxtal.representations.density import DensityGrid, placed_sites
from voxtal.representations.density_decoding import decode_density
from voxtal.representations.placement import cell_parameters, place
from voxtal.representations.reasons import Undecodable
from voxtal.representations.sites import SitesGrid
from voxtal.representations.voxels import decode_structure, dense
from voxtal.structures.structure_set import REASON, StructureSet

if TYPE_CHECKING:
    from voxtal.generation.decode import Decoded
    from voxtal.structures.filters import Arrays

LATTICE_COLOUR = (0.36, 0.45, 0.68)
SYMPREC_ANGSTROM = 0.01


@dataclass(frozen=True)
class Portrait:
    """What is drawn, and what is printed beside it: names and values."""

    view: View
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class _Encoded:
    """A structure's voxels.

    Attributes
    ----------
    frac_coords, cell
        (n, 3), (3, 3): the structure in the cell and the orientation that decoding gives back.
    panels
        Of the voxels.
    count
        How many there are, in words.
    decode
        Makes the crystal that they show.
    back
        Fractional coordinates and cell of a decoded crystal to its coordinates about the structure's own origin.
    """

    frac_coords: np.ndarray
    cell: np.ndarray
    panels: tuple[Panel, ...]
    count: str
    decode: Callable[[], Arrays]
    back: Callable[[np.ndarray, np.ndarray], np.ndarray]


def portrait(
    structures: StructureSet,
    what: str,
    settings: VoxelsConfig | DensityConfig,
    networks: Callable[[], Decoded] | None = None,
) -> Portrait:
    """Encode and decode a structure, and compare.

    Parameters
    ----------
    structures
        A set that holds this structure alone.
    what
        What it is, for the heading.
    settings
        Of the sites and lattice voxels, or of the density maps.
    networks
        Makes what comes back of its sites and lattice voxels through trained autoencoders.

    Raises
    ------
    UserError
        The structure has no voxels; the message says why.
    """
    original = structures.arrays(0)
    made = layout_of(settings).encode(structures, settings)
    if made.reasons:
        raise UserError(f"{structures.ids[0]} ({what}) has no voxels: {_recorded(structures) or made.reasons[0]}.")
    if isinstance(settings, DensityConfig):
        encoded, placement = _density(original, made.arrays, settings), "paper"
    else:
        encoded, placement = _sites(original, made.arrays, settings), settings.placement
    shown = _crystal(original[0], encoded.frac_coords, encoded.cell)
    panels = [Panel("Structure", _cell_note(encoded.cell), encoded.cell, shown), *encoded.panels]
    outcomes = [("Decoded", "decoded", encoded.decode)]
    if networks is not None:
        outcomes.append(("Decoded after the networks", "decoded after the networks", lambda: _arrays(networks())))
    verdicts = []
    for title, name, decode in outcomes:
        decoded, verdict = _judged(original, decode, placement)
        verdicts.append((name, verdict))
        if decoded is None:
            panels.append(Panel(title, verdict, encoded.cell))
        else:
            moved = _moved(decoded, encoded.back(*decoded[1:]), original[0], encoded.frac_coords)
            panels.append(Panel(title, verdict, decoded[2], _crystal(decoded[0], moved, decoded[2])))
    formula, group = structures.structure(0).composition.reduced_formula, _space_group(original)
    lengths, angles = cell_parameters(original[2])
    facts = [
        ("formula", formula),
        ("space group", group),
        ("cell", f"{_joined(lengths, 3)} Å, {_joined(angles, 2)} degrees"),
        ("atoms", str(len(original[0]))),
        ("voxels", encoded.count),
        *verdicts,
    ]
    subtitle = f"{structures.ids[0]}, {what}, space group {group}"
    return Portrait(View(formula, subtitle, tuple(panels), _styles(panels)), facts)


def _recorded(structures: StructureSet) -> str:
    """Why an attempt became no valid structure, as it was recorded when it was generated."""

    return str(structures.provenance[REASON][0]) if REASON in structures.provenance else ""


def _sites(original: Arrays, arrays: dict[str, np.ndarray], settings: VoxelsConfig) -> _Encoded:
    from ase.data import chemical_symbols
    from ase.data.colors import jmol_colors

    _, frac_coords, cell = original
    positions, placed = place(frac_coords, cell, settings.box_angstrom, settings.placement)
    # The origin goes where an atom there would go, in the image whose cell lies nearest to the middle of the box.
    pair = place(np.vstack([frac_coords[:1], np.zeros(3)]), cell, settings.box_angstrom, settings.placement)[0]
    corner = positions[0] + pair[1] - pair[0]
    away = np.linalg.solve(placed.T, settings.box_angstrom / 2 - corner - placed.sum(axis=0) / 2)
    corner = corner + np.rint(away) @ placed
    offsets, numbers = arrays["sites/offsets"], arrays["image_numbers"].tolist()
    images = {
        z: _dense(arrays, "sites", slice(offsets[i], offsets[i + 1]), settings.sites_grid)
        for i, z in enumerate(numbers)
    }
    lattice = _dense(arrays, "lattice", slice(None), settings.lattice_grid)
    spacing = SitesGrid.of(settings).spacing * np.eye(3)
    clouds = tuple(
        Cloud(chemical_symbols[z], _visible(jmol_colors[z]), image, -corner, spacing) for z, image in images.items()
    )
    n, m = settings.sites_grid, settings.lattice_grid
    middle = Cloud("lattice voxel", LATTICE_COLOUR, lattice, np.zeros(3), np.eye(3) / m)
    counts = len(arrays["sites/index"]), len(arrays["lattice/index"])
    return _Encoded(
        np.linalg.solve(placed.T, (positions - corner).T).T,
        placed,
        (
            Panel(
                "Sites voxels",
                f"{n}³ for each element, in a box of {settings.box_angstrom:g} Å\n{counts[0]:,} voxels are not zero",
                placed,
                clouds=clouds,
            ),
            Panel(
                "Lattice voxel",
                f"{m}³, in edges of the cell\n{counts[1]:,} are not zero",
                np.eye(3),
                clouds=(middle,),
                physical=False,
            ),
        ),
        f"{counts[0]} of {len(images)} x {n}^3 (sites), {counts[1]} of {m}^3 (lattice)",
        lambda: decode_structure(images, lattice, settings),
        lambda frac, found: frac - np.linalg.solve(found.T, corner),
    )


def _dense(arrays: dict[str, np.ndarray], kind: str, part: slice, size: int) -> np.ndarray:
    return dense(arrays[f"{kind}/index"][part], arrays[f"{kind}/values"][part].astype(np.float32), size)


def _density(original: Arrays, arrays: dict[str, np.ndarray], settings: DensityConfig) -> _Encoded:
    from ase.data import chemical_symbols
    from ase.data.colors import jmol_colors

    _, frac_coords, cell = original
    grid = DensityGrid.of(settings)
    n = grid.size
    sites, _ = placed_sites(frac_coords, cell, grid)
    placed = place(frac_coords, cell, 1.0, "paper")[1]
    turned = frac_coords * (-1.0 if np.linalg.det(cell) < 0 else 1.0)
    shift = turned[0] - sites[0]
    box_cell = arrays["cells"][0].astype(np.float64)
    density = arrays["density"][0].astype(np.float32) * arrays["density_unit"][0]
    species = np.zeros(n**3, dtype=np.uint8)
    species[arrays["species/index"]] = arrays["species/numbers"]
    species = species.reshape(density.shape)
    clouds = tuple(
        Cloud(
            chemical_symbols[z],
            _visible(jmol_colors[z]),
            np.where(species == z, density, 0),
            (grid.centres[0] + shift) @ box_cell,
            grid.step * box_cell,
        )
        for z in np.unique(species[species > 0]).tolist()
    )
    ions = len(arrays["species/index"])

    def decode() -> Arrays:
        found = decode_density(density, species, box_cell, grid)
        return found.numbers, found.frac_coords, found.cell

    note = (
        f"{n}³ voxels, {grid.margin:.0%} beyond the cell\n{ions:,} are in ions, density up to {density.max():.2g} e/Å³"
    )
    return _Encoded(
        turned,
        placed,
        (Panel("Density in ions, by species", note, box_cell, clouds=clouds),),
        f"{ions} of {n}^3 in ions, density up to {density.max():.4g} electrons/Å³",
        decode,
        lambda frac, _: frac + shift,
    )


def _arrays(decoded: Decoded) -> Arrays:
    if decoded.reason:
        raise Undecodable(decoded.reason)
    return decoded.numbers, decoded.frac_coords, decoded.cell


def _judged(original: Arrays, decode: Callable[[], Arrays], placement: str) -> tuple[Arrays | None, str]:
    """What is decoded, if anything, and how it compares with the original."""
    from voxtal.screening.roundtrip import compare

    try:
        decoded = decode()
    except Undecodable as error:
        return None, f"not decoded: {error}"
    trip = compare(original, decoded, placement)
    if trip.failure:
        return decoded, "matches loosely only" if trip.cdvae else f"differs: {trip.failure}"
    return decoded, f"matches, RMS {trip.site_rms:.2g} Å"


def _moved(decoded: Arrays, frac_coords: np.ndarray, numbers: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """``frac_coords`` (m, 3) of a decoded crystal, moved as a whole onto the atoms (n, 3) ``wanted``.

    The origin of a crystal means nothing, and that of a decoded one depends on a cell that is not quite the same.
    """
    steps = wanted - frac_coords[:, None]
    steps -= np.rint(steps)
    lengths = np.where(decoded[0][:, None] == numbers, np.linalg.norm(steps @ decoded[2], axis=2), np.inf)
    nearest = lengths.argmin(axis=1)
    found = np.isfinite(lengths.min(axis=1))
    return frac_coords + steps[found, nearest[found]].mean(axis=0) if found.any() else frac_coords


def _crystal(numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray) -> Crystal:
    from ase.data import chemical_symbols

    return Crystal(tuple(chemical_symbols[z] for z in numbers), frac_coords, cell)


def _styles(panels: Iterable[Panel]) -> dict[str, ElementStyle]:
    """Of every element that a panel shows, in the order of atomic numbers."""
    from ase.data import atomic_numbers, covalent_radii
    from ase.data.colors import jmol_colors

    shown = {symbol for panel in panels if panel.crystal is not None for symbol in panel.crystal.symbols}
    numbers = sorted(atomic_numbers[symbol] for symbol in shown)
    symbols = {number: symbol for symbol, number in atomic_numbers.items()}
    return {symbols[z]: ElementStyle(_visible(jmol_colors[z]), float(covalent_radii[z])) for z in numbers}


def _visible(colour: np.ndarray) -> tuple[float, float, float]:
    """A colour that can be told from the white page: hydrogen's is white."""
    red, green, blue = (float(c) for c in np.minimum(colour, 0.9))
    return red, green, blue


def _space_group(arrays: Arrays) -> str:
    import spglib

    numbers, frac_coords, cell = arrays
    crystal = cell.tolist(), frac_coords.tolist(), numbers.tolist()
    return spglib.get_spacegroup(crystal, symprec=SYMPREC_ANGSTROM) or "unknown"


def _cell_note(cell: np.ndarray) -> str:
    lengths, angles = cell_parameters(cell)
    return f"{_joined(lengths, 2)} Å\n{_joined(angles, 1)}°"


def _joined(values: np.ndarray, digits: int) -> str:
    return " ".join(f"{value:.{digits}f}" for value in values)
