"""Presets: the defaults that a configuration file overrides. docs/presets.md says what they are for."""

from __future__ import annotations

from typing import Any

_NOT_PUBLISHED = {
    "flow": {"width": 192, "layers": 5, "steps": 12_000, "batch_size": 128, "learning_rate": 1e-3},
    "analogue": {"width": 96, "layers": 3, "steps": 4000, "batch_size": 128, "learning_rate": 2e-3},
}
"""Generators that the paper does not have: the same with both presets."""

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "voxels": {
            "sites_grid": 64,
            "box_angstrom": 15.0,
            "sites_sigma_angstrom": 0.26,
            "lattice_grid": 32,
            "lattice_sigma_angstrom": 0.26,
            "placement": "paper",
        },
        "density": {"geometry": "orthogonal"},
        "train": {
            "precision": "float32",
            "warm_start": False,
            "separated_steps": 2_500,
            "lattice_ae": {
                "network": "voxels",
                "width": 64,
                "latent": 25,
                "steps": 50_000,
                "batch_size": 32,
                "learning_rate": 1e-4,
            },
            "sites_ae": {
                "network": "voxels",
                "width": 64,
                "latent": 200,
                "steps": 200_000,
                "batch_size": 32,
                "learning_rate": 1e-4,
            },
            "unet": {"width": 32, "levels": 4, "steps": 0, "batch_size": 10, "learning_rate": 3e-6},
            "vae": {
                "width": 16,
                "latent": 256,
                "alpha": 1.0,
                "beta": 5e-4,
                "steps": 0,
                "batch_size": 20,
                "learning_rate": 1e-4,
            },
            "constraint": {"width": 8, "steps": 40_000, "batch_size": 128, "learning_rate": 2e-4},
            "ccdcgan": {
                "width": 128,
                "noise": 800,
                "steps": 40_000,
                "batch_size": 128,
                "learning_rate": 2e-4,
            },
            "cgcnn": {"width": 64, "layers": 1, "steps": 8400, "batch_size": 256, "learning_rate": 1e-3},
            **_NOT_PUBLISHED,
        },
        "generate": {"generator": "ccdcgan"},
    },
    "laptop": {
        "voxels": {
            "sites_grid": 32,
            "box_angstrom": 15.0,
            "sites_sigma_angstrom": 0.5,
            "lattice_grid": 16,
            "lattice_sigma_angstrom": 1.0,
            "placement": "compact",
        },
        "density": {"geometry": "true"},
        "train": {
            "precision": "auto",
            "lattice_ae": {
                "network": "atoms",
                "width": 64,
                "latent": 25,
                "steps": 4000,
                "batch_size": 128,
                "learning_rate": 2e-3,
            },
            "sites_ae": {
                "network": "atoms",
                "width": 256,
                "latent": 200,
                "steps": 4000,
                "batch_size": 128,
                "learning_rate": 3e-3,
            },
            "unet": {"width": 16, "levels": 3, "steps": 400, "batch_size": 8, "learning_rate": 3e-3},
            "vae": {
                "width": 128,
                "latent": 64,
                "alpha": 0.0,
                "beta": 5e-3,
                "rotations": 0,
                "steps": 4000,
                "batch_size": 64,
                "learning_rate": 2e-3,
            },
            "constraint": {"width": 128, "steps": 1500, "batch_size": 64, "learning_rate": 1e-3},
            "ccdcgan": {
                "width": 256,
                "noise": 16,
                "steps": 4000,
                "batch_size": 64,
                "learning_rate": 1e-3,
            },
            "cgcnn": {"width": 64, "layers": 3, "steps": 10_000, "batch_size": 64, "learning_rate": 2e-3},
            **_NOT_PUBLISHED,
        },
        "generate": {"generator": "ccdcgan"},
    },
}
