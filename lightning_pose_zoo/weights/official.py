"""Checkpoints of the HRNet and Simple Baselines repositories.

Both name the trunk's entries as torchvision and timm do, without a prefix, beside ``deconv_layers`` and
``final_layer``. The Simple Baselines repository trained on OpenCV's channel order (B, G, R) with mean and deviation
given in the order of R, G, B, and so are the ``pose_resnet`` files of the HRNet repository; HRNet's own saw R, G, B.
"""

from __future__ import annotations

__all__ = ["rename"]

_HEADS = ("deconv_layers.", "final_layer.")


def rename(key: str) -> str | None:
    """Name an entry as our networks do: the trunk is ``backbone``."""
    return key if key.startswith(_HEADS) else f"backbone.{key}"
