"""Batch scripts of the stages, filled in for a site, and the Slurm that they are handed to."""
