"""What a method does to raw pixels before its network sees them; a property of the weights, not of the data."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["Normalization"]


class Normalization(nn.Module):
    """Turns uint8 RGB pictures into what a network was trained on.

    Args:
        mean: Subtracted from each channel after scaling to 0..1, in the network's channel order; ImageNet's by default.
        std: Divides each channel after that.
        channel_order: ``rgb``, or ``bgr`` for weights that were trained on OpenCV's order.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        channel_order: Literal["rgb", "bgr"] = "rgb",
    ) -> None:
        super().__init__()
        self.channel_order = channel_order
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def extra_repr(self) -> str:
        """Show the settings when a module is printed, and in checkpoints."""
        mean, std = ([round(value, 6) for value in buffer.flatten().tolist()] for buffer in (self.mean, self.std))
        return f"mean={mean}, std={std}, channel_order={self.channel_order}"

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values, exactly."""
        mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
        return {"mean": mean, "std": std, "channel_order": self.channel_order}

    def forward(self, images: Tensor) -> Tensor:
        """Normalise (B, 3, H, W) uint8 RGB pictures; floating ones are taken as normalised already."""
        if images.is_floating_point():
            return images
        if self.channel_order == "bgr":
            images = images.flip(1)
        return (images.to(self.mean.dtype) / 255 - self.mean) / self.std
