"""Where and in which arithmetic networks run."""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits
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


def device_name(device: torch.device) -> str:
    """What a person calls the device: the GPU's name, or the processor's with the threads that compute."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")  # Linux
    found = re.search(r"^model name\s*: *(.+)$", cpuinfo.read_text() if cpuinfo.is_file() else "", re.MULTILINE)
    return f"{found[1] if found else platform.machine()}, threads: {torch.get_num_threads()}"


def keep_freed_memory() -> None:
    """Have glibc keep for the next step what one frees.

    By itself it gives large blocks back to the system, which zeroes every page that it hands out again: a tenth of the
    GAN's step on two ranks.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Of malloc.h."""


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for PyTorch and NumPy: what sums come to would depend on how many share them.

    Blocks are shared out to ranks, so that nothing is lost where there is a rank for each core.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def threads_for(modules: Iterable[nn.Module]) -> Iterator[None]:
    """All threads for networks that convolve, one for others.

    Steps of the others are so short that threads mostly wait for each other: a hundred times as long as they compute
    where another program has one of the cores.
    """
    convolve = any(parameter.dim() > 3 for module in modules for parameter in module.parameters())
    with nullcontext() if convolve else one_thread():
        yield


def _computes_bf16(device: torch.device) -> bool:
    """Of processors none: gradients of 3D convolutions in bf16 came out as 1e34, now and then, where one has
    instructions for it (torch 2.13, AVX512-BF16), and others take 50 times as long."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
