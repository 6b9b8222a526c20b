"""Checkpoints of mmpose for HRNet, and for ResNets with transposed convolutions or with regressed coordinates.

The trunk is ``backbone`` as here; the head is ``head`` in mmpose 1.x and ``keypoint_head`` in 0.x. They were trained on
R, G, B with ImageNet's mean and deviation.
"""

from __future__ import annotations

__all__ = ["rename", "rename_regression"]

_HEADS = ("keypoint_head.", "head.")
# Buffers of the preparation of pictures, and losses with state.
_UNUSED = ("data_preprocessor.", "head.loss_module.")


def rename(key: str) -> str | None:
    """Name an entry as our networks do: the head's layers have no prefix."""
    if key.startswith(_UNUSED):
        return None
    head = next((head for head in _HEADS if key.startswith(head)), "")
    return key.removeprefix(head)


def rename_regression(key: str) -> str | None:
    """Name an entry of a network that regresses coordinates ("DeepPose" in mmpose) as our first stage does."""
    own = rename(key)
    if own is None:
        return None
    return f"stages.0.head.{own.removeprefix('fc.')}" if own.startswith("fc.") else f"stages.0.{own}"
