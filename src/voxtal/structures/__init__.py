"""Structures in, structures kept: importers, filters, prototypes, validity, matching."""
