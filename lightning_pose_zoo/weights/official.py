"""Checkpoints of the HRNet and Simple Baselines repositories.

Both name the trunk's entries as torchvision and timm do, without a prefix, beside ``deconv_layers`` and
``final_layer``. The Simple Baselines repository trained on OpenCV's channel order (B, G, R) with mean and deviation
given in the order of R, G, B; HRNet's trained on R, G, B.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["recognizes", "rename", "set_channel_order"]

_HEADS = ("deconv_layers.", "final_layer.")


def recognizes(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict is named as these repositories name theirs."""
    return "conv1.weight" in state and "final_layer.weight" in state


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the entries as our networks do: the trunk is ``backbone``."""
    return {key if key.startswith(_HEADS) else f"backbone.{key}": value for key, value in state.items()}


def set_channel_order(method: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Let a method hand its network the channels in the order that the weights were trained on."""
    method.normalization.channel_order = "bgr" if any(key.startswith("deconv_layers.") for key in state) else "rgb"  # type: ignore[union-attr]
