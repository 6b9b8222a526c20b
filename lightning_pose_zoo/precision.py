"""Which precision a processor is quick in."""

from __future__ import annotations

import platform

import torch
from lightning.pytorch.accelerators import Accelerator, CPUAccelerator

__all__ = ["computes_bfloat16_slowly"]

# With AVX-512 bfloat16 is at least as fast as float32; with less, each product is converted to and fro.
_SLOW_IN_BFLOAT16 = ("DEFAULT", "NO AVX", "AVX2")


def computes_bfloat16_slowly(accelerator: str | Accelerator) -> bool:
    """Tell whether bfloat16 is done by software where training runs: on an x86 processor without AVX-512.

    Args:
        accelerator: As for Lightning's Trainer.
    """
    if accelerator == "auto":
        on_cpu = not torch.accelerator.is_available()
    else:
        on_cpu = accelerator == "cpu" or isinstance(accelerator, CPUAccelerator)
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return on_cpu and x86 and torch.backends.cpu.get_cpu_capability() in _SLOW_IN_BFLOAT16
