"""What sections of the configuration are made of."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class ModelConfig(Section):
    """Size and optimisation of one network."""

    width: int = Field(ge=1)
    """Channels of the first (widest-resolution) convolution."""
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)


class ObjectiveConfig(Section):
    """What is asked of one property: a term ``weight * exp(s)`` of the generator's loss (eq. 2; docs/objectives.md)."""

    property: str = Field(pattern=r"^[^/]+$")
    """A numeric column of the structure set."""
    weight: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    """omega of eq. 2; 0: the property is predicted but not asked for."""
    goal: Literal["low", "high"] | None = None
    target: float | None = Field(default=None, allow_inf_nan=False)
    range: tuple[float, float] | None = None
    scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """By how much the property has to change, in its own unit, for s to change by one: for energies 1 eV."""

    @model_validator(mode="after")
    def _one_goal(self) -> ObjectiveConfig:
        asked = [name for name in ("goal", "target", "range") if getattr(self, name) is not None]
        if len(asked) != 1:
            raise ValueError(f"give one of goal, target and range, not {' and '.join(asked) or 'none'}")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError("a range is [lowest, highest], and the highest is more than the lowest")
        return self


class GeneratorConfig(ModelConfig):
    objectives: tuple[ObjectiveConfig, ...] = Field(
        default=(ObjectiveConfig(property="formation_energy", goal="low"),), min_length=1
    )
    """What generated crystals are to be; the published formation energy alone if not given."""

    @model_validator(mode="after")
    def _each_property_once(self) -> GeneratorConfig:
        names = [objective.property for objective in self.objectives]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"more than one objective for {', '.join(twice)}; give each property one")
        return self
