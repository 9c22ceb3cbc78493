"""voxtal: inverse design of inorganic crystals on clusters."""

__version__ = "0.1.0"
