"""Heatmaps that are read at their mean instead of their peak (integral regression)."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_pose_zoo.codecs.heatmap import HeatmapCodec, HeatmapTargets

__all__ = ["IntegralCodec", "IntegralTargets"]


class IntegralTargets(HeatmapTargets):
    """Heatmaps and weights, and where the keypoints are.

    Attributes:
        cells: (N, K, 2) float32, x and y in cells; 0 where the weight is.
    """

    cells: Tensor


class IntegralCodec(HeatmapCodec):
    """Reads a keypoint at the mean of its map, each cell weighted by its value; for ``SymmetricIntegralLoss``.

    Sun et al., "Integral Human Pose Regression", ECCV 2018, arXiv 1711.08229. Targets are those of the convention
    ``center``; the loss looks at their places alone.

    Args:
        stride: Pixels of the crop per cell of the map.
        sigma: Standard deviation of the Gaussian targets in cells, for losses that compare maps.
    """

    def __init__(self, stride: int = 4, sigma: float = 2.0) -> None:
        super().__init__("center", stride, sigma)

    @torch.no_grad()
    def encode(self, keypoints: Tensor, visibility: Tensor, size: tuple[int, int]) -> IntegralTargets:
        """Draw the targets of a batch; see ``HeatmapCodec.encode``. They tell the keypoints' places too."""
        targets = IntegralTargets(*super().encode(keypoints, visibility, size))
        cells = self.to_cells(keypoints.float(), self.map_size(size))
        targets.cells = torch.where(targets.weights[..., None] > 0, cells, 0.0)
        return targets

    @torch.no_grad()
    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Read the keypoints off a batch of maps.

        Args:
            heatmaps: (N, K, h, w); what is below 0 counts as 0.

        Returns:
            Keypoints (N, K, 2) float32 in pixels of the crop, and scores (N, K): the value of each map's peak. The
            keypoint of a map without a positive value is the middle of the crop.
        """
        maps = heatmaps.float().clamp(min=0)
        height, width = int(maps.shape[-2]), int(maps.shape[-1])
        scores = maps.amax(dim=(-2, -1))
        # Even maps have their mean in the middle; a trace of it decides where there is nothing else.
        maps = maps + 1e-12
        total = maps.sum(dim=(-2, -1))
        x = (maps.sum(dim=-2) * torch.arange(width, device=maps.device)).sum(dim=-1) / total
        y = (maps.sum(dim=-1) * torch.arange(height, device=maps.device)).sum(dim=-1) / total
        return self.to_pixels(torch.stack([x, y], dim=-1), (height, width)), scores
