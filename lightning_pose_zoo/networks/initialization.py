"""First values of layers that no pretrained weights cover."""

from __future__ import annotations

from torch import nn

__all__ = ["initialize_head"]


def initialize_head(*modules: nn.Module, std: float = 0.001) -> None:
    """Draw convolutions from N(0, std), set biases to 0 and batch norms to 1 and 0.

    The published top-down heads start so (HRNet and Simple Baselines repositories).
    """
    for layer in nn.ModuleList(modules).modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
