"""Hypothetical structures from prototypes, and the names of systems and phases."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from voxtal.errors import UserError
from voxtal.structures.contacts import atomic_volume
from voxtal.structures.prototypes import (
    HypotheticalResult,
    hypothetical_structures,
    matches_phase,
    parse_system,
    prototype_compounds,
    with_spacegroup,
)
from voxtal.structures.validity import why_invalid


@pytest.fixture(scope="module")
def cobalt_hafnium() -> HypotheticalResult:
    return hypothetical_structures("Co-Hf", max_atoms=20, max_length=10.0)


def test_counts_add_up(cobalt_hafnium: HypotheticalResult) -> None:
    """The table that the user sees must account for every structure tried."""
    result = cobalt_hafnium
    assert result.tried == len(result.structures) + sum(result.dropped.values())
    assert result.made > 250
    assert len(result.structures) > 200


def test_structures_are_sensible(cobalt_hafnium: HypotheticalResult) -> None:
    """Training on structures outside of the voxel box or with absurd contacts spoils the models."""
    structures = cobalt_hafnium.structures
    volume = {27: atomic_volume("Co"), 72: atomic_volume("Hf")}
    for i in range(len(structures)):
        numbers, frac_coords, cell = structures.arrays(i)
        assert why_invalid(numbers, frac_coords, cell) is None
        assert len(numbers) <= (20 if len(set(numbers.tolist())) > 1 else 8)
        assert np.linalg.norm(cell, axis=1).max() <= 10.0
        assert abs(np.linalg.det(cell)) == pytest.approx(sum(volume[int(z)] for z in numbers))


def test_ids_are_unique_and_plain(cobalt_hafnium: HypotheticalResult) -> None:
    """Ids become file names and keys of every later stage."""
    ids = cobalt_hafnium.structures.ids.tolist()
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"(Co-Hf|Co|Hf)/[A-Za-z0-9_]+/[A-Za-z0-9-]+", i) for i in ids)
    assert Counter(i.split("/")[0] for i in ids).keys() == {"Co", "Hf", "Co-Hf"}


def test_known_phases_are_there(cobalt_hafnium: HypotheticalResult) -> None:
    """The quickstart withholds B2 CoHf and C15 Co2Hf; they must exist to be withheld."""
    structures = cobalt_hafnium.structures
    for phase, structure_id in [
        ("HfCo 221", "AB_cP2_221"),
        ("Co2Hf 227", "cF24_227"),
        ("Co 194", "A_hP2_194"),
    ]:
        found = [i for i, s in zip(structures.ids, structures, strict=True) if matches_phase(s, phase)]
        assert any(structure_id in i for i in found), phase


def test_volume_rule_is_near_to_experiment() -> None:
    """Within 10% of the measured cells, so that a few steps of relaxation are enough."""
    assert atomic_volume("Co") + atomic_volume("Hf") == pytest.approx(3.164**3, rel=0.1)
    assert 2 * atomic_volume("Co") + atomic_volume("Hf") == pytest.approx(6.899**3 / 8, rel=0.1)


def test_order_of_elements_does_not_matter(cobalt_hafnium: HypotheticalResult) -> None:
    """The same system written differently is the same data set, and a second call gives it again."""
    again = hypothetical_structures("Hf-Co", max_atoms=20, max_length=10.0)
    assert again.structures.ids.tolist() == cobalt_hafnium.structures.ids.tolist()
    assert np.array_equal(again.structures.cells, cobalt_hafnium.structures.cells)


def test_ternary_holds_its_subsystems() -> None:
    """A ternary hull needs its binaries and elements."""
    result = hypothetical_structures("Ca-Ti-O", max_atoms=6, max_length=8.0)
    systems = {i.split("/")[0] for i in result.structures.ids}
    assert systems == {"Ca", "O", "Ti", "Ca-O", "Ca-Ti", "O-Ti", "Ca-O-Ti"}
    assert any(matches_phase(s, "CaTiO3 221") for s in result.structures)


@pytest.mark.parametrize("system", ["", "Co-", "Co-Xx", "Co Hf", "Co-Co", "co-Hf", "D-O"])
def test_malformed_systems(system: str) -> None:
    """A typo is told before any work is done."""
    with pytest.raises(UserError):
        parse_system(system)


def test_ordered_derivatives_of_prototypes() -> None:
    """A shipped generator would know two elements of a crystal at most; or derivatives would break the symmetry."""
    compounds = prototype_compounds()
    assert len(compounds) > 500
    assert len(set(compounds.ids.tolist())) == len(compounds)
    assert min(len(set(compounds.arrays(i)[0].tolist())) for i in range(len(compounds))) == 2
    rows = [i for i, name in enumerate(compounds.ids.tolist()) if name.startswith("AB3_cF16_225_a_bc-")]
    formulas = {compounds.structure(i).composition.anonymized_formula for i in rows}
    assert formulas == {"AB3", "ABC2"}  # D0_3 and, of it, L2_1
    assert {with_spacegroup(compounds.structure(i)) for i in rows} == {225}


def test_nearest_element_is_named() -> None:
    """The message helps."""
    with pytest.raises(UserError, match="'Hf'"):
        parse_system("Co-hf")


def test_element_without_volume() -> None:
    """Nothing is invented for elements that never were weighed."""
    with pytest.raises(UserError, match="At"):
        atomic_volume("At")


@pytest.mark.parametrize("phase", ["Co2Hf", "227", "Co2Hf 0", "Co2Hf 231", "Zz2 227", "Co2Hf Fd-3m", "Co2Hf 227 x"])
def test_malformed_phases(phase: str) -> None:
    """A phase that can never match would be withheld in name only."""
    structure = Structure(Lattice.cubic(3), ["Co"], [[0, 0, 0]])
    with pytest.raises(UserError):
        matches_phase(structure, phase)


def test_phases() -> None:
    """Formula in any order and multiple; the space group tells polymorphs apart; small noise does not."""
    b2 = Structure(Lattice.cubic(3.16), ["Co", "Hf"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert with_spacegroup(b2) == 221
    assert matches_phase(b2 * (2, 1, 1), "Hf2Co2 221")
    assert not matches_phase(b2, "CoHf 225")
    assert not matches_phase(b2, "Co2Hf 221")
    noisy = b2.copy()
    noisy.perturb(0.02, seed=0)
    assert matches_phase(noisy, "CoHf 221")
