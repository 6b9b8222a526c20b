"""The flip test: a picture and its mirror image are both looked at, and their maps averaged."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

__all__ = ["flip_averaged"]


def flip_averaged(predict: Callable[[Tensor], Tensor], unflip: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Average the maps of pictures and of their mirror images.

    Args:
        predict: Pictures (B, 3, H, W) to maps (B, K, h, w).
        unflip: Maps of mirrored pictures to maps of the pictures, left and right exchanged.
        images: (B, 3, H, W).

    Returns:
        (B, K, h, w).
    """
    return 0.5 * (predict(images) + unflip(predict(images.flip(-1))))
