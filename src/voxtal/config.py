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
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from voxtal.config_base import GeneratorConfig, ModelConfig, Section, one_or_more
from voxtal.config_base import ObjectiveConfig as ObjectiveConfig
from voxtal.config_icsg3d import DensityConfig, UNetConfig, VAEConfig
from voxtal.errors import UserError
from voxtal.presets import PRESETS

CONFIG_NAME = "voxtal.toml"

Generator = Literal["ccdcgan", "flow", "analogue", "icsg3d"]
ICSG3D = "icsg3d"
"""The generator of density maps: a VAE, whose maps a UNet decodes."""
GENERATORS: tuple[str, ...] = tuple(name for name in get_args(Generator) if name != ICSG3D)
"""Those whose codes the autoencoders decode; each is trained under its own name."""
Representation = Literal["sites", "density"]


class StructuresConfig(Section):
    """Where round 0's structures come from, and which of them are kept."""

    source: Annotated[tuple[str, ...], BeforeValidator(one_or_more)] = Field(default=("hypothetical",), min_length=1)
    """``hypothetical`` (prototypes filled with the system's elements), or what ``voxtal import`` takes: a path or a
    list of paths. The first structure of each id counts."""
    unlabelled_source: Annotated[tuple[str, ...], BeforeValidator(one_or_more)] = ()
    """More of them, whose labels cannot be compared with those of ``source`` and are left out."""
    max_atoms: int = Field(default=20, ge=1, le=118)
    """In the ``cell``."""
    max_length_angstrom: float = Field(default=10.0, gt=0)
    exclude_noble_gases: bool = False
    classes: Annotated[tuple[Literal["AB", "ABX3", "Heusler"], ...], BeforeValidator(one_or_more)] = ()
    """ICSG3D's classes of crystals, those alone: binaries AB, perovskites ABX3, Heuslers ABX2. None: every formula."""
    only_cubic: bool = True
    """Of ``classes`` cubic crystals alone, as published."""
    cell: Literal["primitive", "conventional"] = "primitive"
    """Which cell of a crystal is kept. ICSG3D's are conventional ones of up to 40 atoms."""
    labels: Literal["calculator", "source"] = "calculator"
    """``calculator``: each structure is relaxed for a few steps and labelled by ``relax.calculator``. ``source``: as it
    is in the source, with the formation energy and every other number there."""
    split: Literal["composition", "random"] = "composition"
    """``composition``: all structures of one reduced formula are on one side. ``random``: each is on its own, and
    polymorphs of what is trained on are among the held-out ones."""
    heldout_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of structures that are only reported on."""
    validation_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of structures that no model trains on either; they choose the constraint's best weights."""
    max_formation_energy_ev_per_atom: float = 1.0
    """Structures with higher labels are not trained on."""
    withhold: tuple[str, ...] = ()
    """Phases kept out of training to see whether they are found again: ``"Co2Hf 227"``, formula and
    international space group number."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.heldout_fraction + self.validation_fraction >= 1:
            raise ValueError("heldout_fraction and validation_fraction together must be below 1")
        if self.labels == "source" and self.source == ("hypothetical",):
            raise ValueError('labels = "source" needs files; hypothetical structures carry no labels')
        return self


class VoxelsConfig(Section):
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


class AutoencoderConfig(ModelConfig):
    latent: int = Field(ge=1)
    network: Literal["voxels", "atoms"]
    """``voxels``: convolutions over the voxels. ``atoms``: dense layers over what the voxels show, the atoms of an
    element, which the network knows, or the cell."""


class GANConfig(GeneratorConfig):
    noise: int = Field(ge=1)
    """Length of the generator's Gaussian input."""


class LayeredConfig(GeneratorConfig):
    layers: int = Field(ge=1)


class CGCNNConfig(ModelConfig):
    """Property networks (reference: ICSG3D, section Crystal-Property Prediction)."""

    layers: int = Field(ge=1)
    """Graph convolutions."""
    log10: tuple[str, ...] = ("bulk_modulus", "shear_modulus", "dielectric_constant")
    """Properties that are learned as their decimal logarithm; values that have none are left out."""


class TrainConfig(Section):
    precision: Literal["auto", "float32", "bf16"]
    """Of convolutions; ``auto``: bf16 on GPUs that have instructions for it, else float32."""
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
    separated_steps: int = Field(default=0, ge=0)
    """Steps of each element's own sites autoencoder, which starts from the one of all elements (the paper's
    "separated"); 0: that one is all there is ("combined")."""
    unet: UNetConfig
    vae: VAEConfig
    constraint: ModelConfig
    ccdcgan: GANConfig
    flow: LayeredConfig
    analogue: LayeredConfig
    cgcnn: CGCNNConfig


class GenerateConfig(Section):
    n: int = Field(default=500, ge=1)
    """Attempts per round."""
    generator: Generator
    """``ccdcgan``: the GAN of crystal graphs. ``flow``: a composition, then flow matching over the tokens of its graph.
    ``analogue``: new elements in the arrangement of a known crystal (docs/generating.md). ``icsg3d``: density maps by
    the VAE, decoded by the UNet (docs/icsg3d.md)."""
    flow_steps: int = Field(default=50, ge=1)
    """Of ``flow``, from noise to codes."""


class ScreenConfig(Section):
    select: int = Field(default=20, ge=1)
    """Candidates handed to the calculator per round."""
    min_contact: float = Field(default=0.7, ge=0, le=1)
    """Candidates with two atoms closer than this share of the sum of their close-packed radii are not selected."""
    diversity: float = Field(default=0.5, ge=0, le=1)
    """0: select by the objectives' predictions alone; 1: by distance in latent space alone."""


class RelaxConfig(Section):
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


class HullConfig(Section):
    """Which phases the candidates compete with besides the run's own."""

    competing: tuple[str, ...] = ()
    """JSON files of pymatgen entries, beside ``voxtal.toml``; ``mp`` stands for the Materials Project."""
    competing_method: str | None = None
    """Fingerprint of the method of entries that do not tell it themselves."""


class Config(Section):
    """All of ``voxtal.toml``."""

    preset: Literal["laptop", "paper"] = "laptop"
    system: str | None = None
    """Chemical system that is generated, such as ``Co-Hf``; none means every element in the data."""
    seed: int = 0
    representation: Annotated[tuple[Representation, ...], BeforeValidator(one_or_more)] = Field(
        default=("sites",), min_length=1
    )
    """What structures are voxelized into: ``sites`` (and lattice) voxels for CCDCGAN, ``density`` (and species) maps
    for ICSG3D, or a list of both. If not given, maps alone where ``generate.generator`` is ``icsg3d``."""
    structures: StructuresConfig = StructuresConfig()
    voxels: VoxelsConfig
    density: DensityConfig
    train: TrainConfig
    generate: GenerateConfig
    screen: ScreenConfig = ScreenConfig()
    relax: RelaxConfig = RelaxConfig()
    hull: HullConfig = HullConfig()

    @property
    def generator(self) -> GeneratorConfig:
        """The chosen generator's section."""
        name = self.generate.generator
        chosen: GeneratorConfig = getattr(self.train, "vae" if name == ICSG3D else name)
        return chosen

    @property
    def voxelized(self) -> tuple[Representation, ...]:
        """What structures are voxelized into: ``representation``, and if not given what the generator is trained on."""
        if "representation" not in self.model_fields_set and self.generate.generator == ICSG3D:
            return ("density",)
        return self.representation


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
        if part.isdigit():  # a place in a list of tables
            continue
        field = model.model_fields.get(part)
        kind = None if field is None else next(iter(get_args(field.annotation)), field.annotation)
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        model = kind
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
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {_toml_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
