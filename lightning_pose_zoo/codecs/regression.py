"""Coordinates in units of a box, as networks regress them; encoded and decoded in batch on the device.

========== ============================ ===================================================================
convention of a box from the top left   whose
========== ============================ ===================================================================
``center`` (x + 0.5) / w - 0.5          DeepPose: 0 is the box's middle, a keypoint inside is in -0.5..0.5
``mmpose`` x / w                        mmpose's regression heads: a keypoint inside is in 0..1
========== ============================ ===================================================================

Both axes are divided by their own side, so that a box of any aspect becomes the same square.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["RegressionCodec", "RegressionConvention", "RegressionTargets"]

RegressionConvention = Literal["center", "mmpose"]


class RegressionTargets(NamedTuple):
    """What a network that regresses coordinates is trained on.

    Attributes:
        coordinates: (..., 2) float32, units of the box; zeros where the weight is 0.
        weights: (...) float32, 1 where the keypoint is labelled.
    """

    coordinates: Tensor
    weights: Tensor


class RegressionCodec(nn.Module):
    """Turns keypoints into coordinates in units of a box, and back.

    A keypoint is regressed in the crop itself (``encode``, ``decode``), or as its displacement from the middle of a
    square around an earlier guess (``encode_displacement``, ``decode_displacement``). The second inverse scales and
    adds nothing, because what it gives is added to the guess; it is the same for both conventions.

    Args:
        convention: Where the crop's zero is: ``center``, or ``mmpose`` for that project's weights.

    Raises:
        ValueError: Where the convention is unknown.
    """

    def __init__(self, convention: RegressionConvention = "center") -> None:
        super().__init__()
        if convention not in ("center", "mmpose"):
            raise ValueError(f"unknown convention of coordinates '{convention}'; choose center or mmpose.")
        self.convention = convention

    def extra_repr(self) -> str:
        """Show the settings when a module is printed."""
        return f"convention={self.convention}"

    def encode(self, keypoints: Tensor, visibility: Tensor, size: tuple[int, int]) -> RegressionTargets:
        """Write keypoints in units of their crop.

        Args:
            keypoints: (N, K, 2), pixels of the crop; they may lie outside.
            visibility: (N, K); keypoints of 0 do not count, whatever their place.
            size: Height and width of the crop in pixels.
        """
        labelled = visibility > 0
        sides = keypoints.new_tensor([size[1], size[0]])
        units = keypoints / sides if self.convention == "mmpose" else (keypoints + 0.5) / sides - 0.5
        return RegressionTargets(torch.where(labelled[..., None], units, 0.0), labelled.to(keypoints.dtype))

    def decode(self, outputs: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Read keypoints and their scores.

        Args:
            outputs: (N, K, 2), units of the crop.
            size: Height and width of the crop in pixels.

        Returns:
            Keypoints (N, K, 2) float32 in pixels of the crop, and scores (N, K); see ``scores``.
        """
        outputs = outputs.float()
        sides = outputs.new_tensor([size[1], size[0]])
        keypoints = outputs * sides if self.convention == "mmpose" else (outputs + 0.5) * sides - 0.5
        return keypoints, self.scores(keypoints, size)

    def scores(self, keypoints: Tensor, size: tuple[int, int]) -> Tensor:
        """Return 1 for keypoints inside the crop and 0 for those outside, where nothing can have been seen of them.

        A regressed coordinate says nothing of how certain it is.

        Args:
            keypoints: (N, K, 2), pixels of the crop.
            size: Height and width of the crop in pixels.
        """
        limits = keypoints.new_tensor([size[1] - 0.5, size[0] - 0.5])
        return ((keypoints >= -0.5) & (keypoints <= limits)).all(dim=-1).to(keypoints.dtype)

    def encode_displacement(
        self, keypoints: Tensor, visibility: Tensor, centers: Tensor, sides: Tensor
    ) -> RegressionTargets:
        """Write keypoints as displacements from the middles of squares, in units of their sides.

        Args:
            keypoints: (..., 2), pixels.
            visibility: (...).
            centers: (..., 2) of the squares, pixels.
            sides: (...) of the squares, pixels.
        """
        labelled = visibility > 0
        units = (keypoints - centers) / sides[..., None]
        return RegressionTargets(torch.where(labelled[..., None], units, 0.0), labelled.to(keypoints.dtype))

    def decode_displacement(self, outputs: Tensor, sides: Tensor) -> Tensor:
        """Return the displacements (..., 2) in pixels of outputs (..., 2) in units of squares with ``sides`` (...)."""
        return outputs.float() * sides[..., None]
