"""What sections of the configuration are made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


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
