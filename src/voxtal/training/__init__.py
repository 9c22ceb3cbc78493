"""Losses, steps, the training loop and its checkpoints."""
