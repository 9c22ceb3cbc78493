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
    def of(cls, config: TrainConfig, local_rank: int = 0) -> Arithmetic:
        """From ``train.device`` (``auto``: the rank's own of the node's GPUs, else the CPU) and ``train.precision``."""
        name = config.device
        if name == "auto":
            gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
            name = f"cuda:{local_rank % gpus}" if gpus else "cpu"
        try:
            device = torch.device(name)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"train.device = {config.device!r} cannot be used: {str(error).splitlines()[0]}") from None
        precision = config.precision
        if precision == "auto":
            precision = "bf16" if _computes_bf16(device) else "float32"
        return cls(device, precision)

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def place(self, module: nn.Module) -> nn.Module:
        """``module`` on the device; convolutions run faster with channels last."""
        module = module.to(self.device)
        dimensions = {parameter.dim() for parameter in module.parameters()}
        if 5 in dimensions:
            module = module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        elif 4 in dimensions:
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return module


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch has none
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))
