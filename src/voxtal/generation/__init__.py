"""From latent graphs to structures."""
