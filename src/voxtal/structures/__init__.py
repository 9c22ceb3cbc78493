"""Structures in, structures kept: importers, filters, prototypes, validity, matching."""

import os

# spglib's C code writes to stderr whenever it tightens its own tolerance; it does so by itself and goes on.
os.environ.setdefault("SPGLIB_WARNING", "OFF")
