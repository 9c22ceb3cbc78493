"""Constants shared by many modules. Lengths in angstrom, energies in eV."""

MIN_DISTANCE_ANGSTROM = 0.5
"""Shortest interatomic distance of a valid structure (CCDCGAN and ICSG3D alike)."""

MIN_VOLUME_ANGSTROM3 = 0.1
"""Smallest cell volume of a valid structure (CDVAE's structural validity)."""

ATOMIC_NUMBERS = 119
"""Length of a table by atomic number; none has the number 0."""
