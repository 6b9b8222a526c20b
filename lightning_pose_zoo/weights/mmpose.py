"""Checkpoints of mmpose for HRNet and for ResNets with transposed convolutions.

The trunk is ``backbone`` as here; the head is ``head`` in mmpose 1.x and ``keypoint_head`` in 0.x. They were trained on
R, G, B with ImageNet's mean and deviation.
"""

from __future__ import annotations

__all__ = ["rename"]

_HEADS = ("keypoint_head.", "head.")
# Buffers of the preparation of pictures, and losses with state.
_UNUSED = ("data_preprocessor.", "head.loss_module.")


def rename(key: str) -> str | None:
    """Name an entry as our networks do: the head's layers have no prefix."""
    if key.startswith(_UNUSED):
        return None
    head = next((head for head in _HEADS if key.startswith(head)), "")
    return key.removeprefix(head)
