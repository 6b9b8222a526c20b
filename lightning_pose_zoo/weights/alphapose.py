"""Checkpoints of the AlphaPose repository: FastPose, whose ResNet is called ``preact`` there.

They saw R, G, B in 0..1, less the mean of B, G and R in this order, and no deviation.
"""

from __future__ import annotations

__all__ = ["rename"]


def rename(key: str) -> str | None:
    """Name an entry as ``AlphaPoseNetwork`` does; its transformer and the frozen copy are in no such file."""
    head, _, rest = key.partition(".")
    return f"estimator.backbone.{rest}" if head == "preact" else f"estimator.{key}"
