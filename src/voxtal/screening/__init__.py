"""Which generated structures count: uniqueness, novelty, metrics, hull."""
