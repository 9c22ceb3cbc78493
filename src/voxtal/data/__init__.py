"""Voxel data sets on disk and in batches."""
