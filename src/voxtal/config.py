"""The one configuration of a run: TOML on disk, pydantic models in memory, presets in between.

A preset is a set of defaults; the file overrides the preset and ``--set`` overrides the file.
Unknown keys are refused, with the nearest right one.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from voxtal.errors import UserError

CONFIG_NAME = "voxtal.toml"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StructuresConfig(_Section):
    """Where round 0's structures come from, and which of them are kept."""

    source: str = "hypothetical"
    """``hypothetical`` (prototypes filled with the system's elements) or a path that ``voxtal import`` takes."""
    max_atoms: int = Field(default=20, ge=1, le=118)
    max_length_angstrom: float = Field(default=10.0, gt=0)
    heldout_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of structures that no model trains on; reproduction is reported for them apart."""
    max_formation_energy_ev_per_atom: float = 1.0
    """Structures that stay higher than this after their short relaxation are not trained on."""
    withhold: tuple[str, ...] = ()
    """Phases kept out of training to see whether they are found again: ``"Co2Hf 227"``, formula and
    international space group number."""


class VoxelsConfig(_Section):
    """Grids of the sites and lattice voxels (reference: CCDCGAN, section Representation)."""

    sites_grid: int = Field(ge=8, le=256)
    box_angstrom: float = Field(gt=0)
    sites_sigma_angstrom: float = Field(gt=0)
    lattice_grid: int = Field(ge=8, le=256)
    lattice_sigma_angstrom: float = Field(gt=0)
    cutoff: float = Field(default=0.02, gt=0, lt=1)
    """Contributions of an atom below this are zero."""
    placement: Literal["compact", "paper"]
    """``paper``: one cell's atoms as listed. ``compact``: Niggli cell, atoms as nearest images about the one
    that leaves the smallest extent, so that none reaches out of the box."""
    structures_per_shard: int = Field(default=512, ge=1)


class DensityConfig(_Section):
    """Grid of the density, species and coordinate maps (reference: ICSG3D, section Methods)."""

    grid: int = Field(default=32, ge=8, le=128)
    margin: float = Field(default=0.25, ge=0, le=1)
    """Share of an edge by which the box extends the cell on every side (the paper's epsilon)."""
    geometry: Literal["true", "orthogonal"]
    """``orthogonal``: cells as if their angles were 90 degrees, as published. ``true``: distances in the cell."""
    structures_per_shard: int = Field(default=256, ge=1)


class ModelConfig(_Section):
    """Size and optimisation of one network."""

    width: int = Field(ge=1)
    """Channels of the first (widest-resolution) convolution."""
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)


class AutoencoderConfig(ModelConfig):
    latent: int = Field(ge=1)


class GANConfig(ModelConfig):
    noise: int = Field(ge=1)
    """Length of the generator's Gaussian input."""
    energy_weight: float = Field(default=0.1, ge=0)
    """omega of eq. 2: weight of exp(E_f) in the generator's loss."""


class TrainConfig(_Section):
    precision: Literal["auto", "float32", "bf16"]
    """Of convolutions; ``auto``: bf16 where the device has instructions for it, else float32. A processor without them
    takes 50 times as long for bf16."""
    device: str = "auto"
    gradient_compression: Literal["none", "fp16"] = "none"
    """``fp16``: gradients travel between ranks in half precision."""
    checkpoint_every_steps: int = Field(default=200, ge=1)
    warm_start: bool = True
    """Start a round's autoencoders from the previous round's best ones."""
    warm_start_fraction: float = Field(default=0.5, gt=0, le=1)
    """Share of ``steps`` that a warm-started model trains for."""
    lattice_ae: AutoencoderConfig
    sites_ae: AutoencoderConfig
    constraint: ModelConfig
    ccdcgan: GANConfig


class GenerateConfig(_Section):
    n: int = Field(default=500, ge=1)
    """Attempts per round."""


class ScreenConfig(_Section):
    select: int = Field(default=20, ge=1)
    """Candidates handed to the calculator per round."""
    min_contact: float = Field(default=0.7, ge=0, le=1)
    """Candidates with two atoms closer than this share of the sum of their close-packed radii are not selected."""
    diversity: float = Field(default=0.5, ge=0, le=1)
    """0: select by predicted formation energy alone; 1: by distance in latent space alone."""


class RelaxConfig(_Section):
    calculator: str = "chgnet"
    options: dict[str, Any] = {}
    """The calculator's own options; it checks them."""
    label_max_steps: int = Field(default=12, ge=0)
    """Optimizer steps for round 0's training structures."""
    candidate_max_steps: int = Field(default=60, ge=0)
    """Optimizer steps for candidates, elements and withheld phases."""
    fmax_ev_per_angstrom: float = Field(default=0.1, gt=0)
    backend: Literal["local", "slurm-array", "fireworks"] = "local"
    """``local``: worker processes of this machine. ``slurm-array``: tasks of an array job. ``fireworks``: workflows on
    a LaunchPad."""
    workers: int = Field(default=0, ge=0)
    """Calculations at once on a machine; 0 means as many as ``cores`` allow."""
    cores: int = Field(default=1, ge=1)
    """Of each calculation."""
    array_tasks: int = Field(default=16, ge=1)
    """Of ``slurm-array``; fewer where there are fewer calculations."""
    site: str = "generic"
    """Site file of ``slurm-array``."""
    launchpad: str | None = None
    """File that describes the LaunchPad of ``fireworks``; FireWorks' own configuration if not given."""
    close_at: float = Field(default=1.0, gt=0, le=1)
    """Share of a round's candidates that have to end before the round closes; the others are left out of it."""


class HullConfig(_Section):
    """Which phases the candidates compete with besides the run's own."""

    competing: tuple[str, ...] = ()
    """JSON files of pymatgen entries, beside ``voxtal.toml``; ``mp`` stands for the Materials Project."""
    competing_method: str | None = None
    """Fingerprint of the method of entries that do not tell it themselves."""


class Config(_Section):
    """All of ``voxtal.toml``."""

    preset: Literal["laptop", "paper"] = "laptop"
    system: str | None = None
    """Chemical system that is generated, such as ``Co-Hf``; none means every element in the data."""
    seed: int = 0
    structures: StructuresConfig = StructuresConfig()
    voxels: VoxelsConfig
    density: DensityConfig
    train: TrainConfig
    generate: GenerateConfig = GenerateConfig()
    screen: ScreenConfig = ScreenConfig()
    relax: RelaxConfig = RelaxConfig()
    hull: HullConfig = HullConfig()


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
            "lattice_ae": {"width": 64, "latent": 25, "steps": 50_000, "batch_size": 32, "learning_rate": 1e-4},
            "sites_ae": {"width": 64, "latent": 200, "steps": 200_000, "batch_size": 32, "learning_rate": 1e-4},
            "constraint": {"width": 8, "steps": 40_000, "batch_size": 128, "learning_rate": 2e-4},
            "ccdcgan": {
                "width": 128,
                "noise": 800,
                "steps": 40_000,
                "batch_size": 128,
                "learning_rate": 2e-4,
            },
        },
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
            "lattice_ae": {"width": 16, "latent": 25, "steps": 1500, "batch_size": 32, "learning_rate": 2e-3},
            "sites_ae": {"width": 32, "latent": 200, "steps": 1400, "batch_size": 32, "learning_rate": 3e-3},
            "constraint": {"width": 64, "steps": 800, "batch_size": 64, "learning_rate": 1e-3},
            "ccdcgan": {
                "width": 256,
                "noise": 16,
                "steps": 4000,
                "batch_size": 64,
                "learning_rate": 1e-3,
            },
        },
    },
}


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read ``voxtal.toml`` and apply ``--set section.key=value`` overrides.

    Raises
    ------
    UserError
        No such file, not TOML, an unknown key (named with the nearest right one) or a wrong value.
    """
    if not path.is_file():
        raise UserError(
            f"No configuration at {path}. Work in a run directory that holds {CONFIG_NAME}, or name one with --run DIR."
        )
    return build_config(read_toml(path), overrides, origin=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The tree of a TOML file.

    Raises
    ------
    UserError
        Not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None


def build_config(tree: Mapping[str, Any], overrides: Iterable[str] = (), origin: str = "configuration") -> Config:
    """Merge preset, file tree and overrides into a validated :class:`Config`."""
    merged_file = _merge(tree, _parse_overrides(overrides))
    preset = merged_file.get("preset", "laptop")
    if str(preset) not in PRESETS:
        raise UserError(f"{origin}: preset = {preset!r} is unknown; presets are {', '.join(sorted(PRESETS))}.")
    try:
        return Config.model_validate(_merge(PRESETS[preset], merged_file))
    except ValidationError as error:
        raise UserError(explain(error, Config, origin)) from None


def write_config(path: Path, tree: Mapping[str, Any]) -> None:
    """Write a (two- or three-level) tree of plain values as TOML."""
    path.write_text(_to_toml(tree), encoding="utf-8")


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def _parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for item in overrides:
        dotted, separator, text = item.partition("=")
        if not separator or not dotted.strip():
            raise UserError(f"--set {item!r}: write it as section.key=value, for example --set generate.n=200.")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        nested: Any = value
        for part in reversed(dotted.strip().split(".")):
            nested = {part: nested}
        tree = _merge(tree, nested)
    return tree


def explain(error: ValidationError, root: type[BaseModel], origin: str) -> str:
    """What is wrong in a file that ``root`` describes, one line a problem, unknown keys with the nearest right one."""
    lines = []
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]]
        dotted = ".".join(location)
        if problem["type"] == "extra_forbidden":
            known = _keys_at(root, location[:-1])
            near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
            elsewhere = [k for k in _all_keys(root) if k.split(".")[-1] == location[-1]]
            hint = near[0] if near else (elsewhere[0] if elsewhere else None)
            advice = f"did you mean {hint!r}?" if hint else f"known keys here: {', '.join(known)}."
            lines.append(f"{origin}: unknown key {dotted!r}; {advice}")
        else:
            lines.append(f"{origin}: {dotted} = {problem.get('input')!r}: {problem['msg']}.")
    return "\n".join(lines)


def _model_at(root: type[BaseModel], location: list[str]) -> type[BaseModel] | None:
    model = root
    for part in location:
        field = model.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        model = field.annotation
    return model


def _keys_at(root: type[BaseModel], location: list[str]) -> list[str]:
    model = _model_at(root, location)
    return list(model.model_fields) if model else []


def _all_keys(root: type[BaseModel], location: tuple[str, ...] = ()) -> list[str]:
    out = []
    for key in _keys_at(root, list(location)):
        below = _all_keys(root, (*location, key)) if _model_at(root, [*location, key]) else []
        out += below or [".".join((*location, key))]
    return out


def _to_toml(tree: Mapping[str, Any], prefix: str = "") -> str:
    plain = {k: v for k, v in tree.items() if not isinstance(v, Mapping)}
    lines = [f"{key} = {_toml_value(value)}" for key, value in plain.items() if value is not None]
    for key, value in tree.items():
        if isinstance(value, Mapping):
            name = f"{prefix}{key}"
            lines += ["", f"[{name}]", _to_toml(value, prefix=f"{name}.").strip()]
    return "\n".join(lines).strip() + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
