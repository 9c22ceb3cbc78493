"""The table of ionic radii against pymatgen's."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from voxtal.representations.ionic_radii import DEFAULT_RADIUS, ionic_radii
from voxtal.representations.reasons import Unencodable


def test_radii_are_pymatgens_for_every_element():
    """Maps would have other widths than the published ones."""
    from pymatgen.core import Element

    numbers = np.arange(1, 119)
    tabulated = [list(Element.from_Z(int(number)).ionic_radii.values()) for number in numbers]
    expected = [np.mean([float(r) for r in radii]) if radii else DEFAULT_RADIUS for radii in tabulated]
    assert np.allclose(ionic_radii(numbers), expected, rtol=1e-9)


@pytest.mark.parametrize("numbers", [[0], [119], [8, 200]])
def test_what_is_no_element_is_refused(numbers):
    """A wrong number would take the radius of another element."""
    with pytest.raises(Unencodable, match="element without a radius"):
        ionic_radii(np.array(numbers))


def test_encoding_imports_nothing_heavy():
    """A rank of voxelize would spend seconds and a hundred megabytes on pymatgen."""
    heavy = "{'pymatgen', 'torch', 'skimage', 'matplotlib', 'scipy'}"
    code = f"import sys, voxtal.representations.density; assert not {heavy} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
