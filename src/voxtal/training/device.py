"""Where and in which arithmetic networks run."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from voxtal.config import TrainConfig
from voxtal.errors import UserError


@dataclass(frozen=True)
class Arithmetic:
    """A device and the precision of the convolutions on it; losses and optimizers stay in float32."""

    device: torch.device
    precision: str

    @classmethod
    def of(cls, config: TrainConfig) -> Arithmetic:
        """From ``train.device`` (``auto``: the first GPU, else the CPU) and ``train.precision``."""
        name = config.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"train.device = {config.device!r} cannot be used: {str(error).splitlines()[0]}") from None
        return cls(device, config.precision)

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def place(self, module: nn.Module) -> nn.Module:
        """``module`` on the device; 3D convolutions run several times faster with channels last."""
        module = module.to(self.device)
        if any(parameter.dim() == 5 for parameter in module.parameters()):
            module = module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        return module
