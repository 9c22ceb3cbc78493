"""How calculations are run."""
