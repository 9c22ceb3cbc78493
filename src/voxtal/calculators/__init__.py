"""One interface from a structure to a labelled result."""
