"""Gaussian heatmaps: one map per keypoint, encoded and decoded in batch on the device.

Four conventions are named, because weights only work with the one that they were trained with:

========== ======================= ============================ ===================================
convention cell g of stride s is   target                       decoding
========== ======================= ============================ ===================================
``center`` (g + 0.5) s - 0.5       exact, whole map             as ``dark``, by one cell at most
``msra``   g s                     centre rounded to a cell,    a quarter cell towards the higher
                                   cut off at three sigma       neighbour
``dark``   g s                     exact, whole map             Taylor expansion of the blurred log
                                                                map (Zhang et al., "Distribution-
                                                                Aware Coordinate Representation",
                                                                CVPR 2020, arXiv 1910.06278)
``udp``    g (W - 1) / (w - 1)     exact, cut off at three      the same with single-cell differences
                                   sigma                        (Huang et al., "The Devil Is in the
                                                                Details", CVPR 2020, arXiv 1911.07524)
========== ======================= ============================ ===================================

``msra`` is what the HRNet and Simple Baselines repositories do. ``center`` is exact in every step and the one to train
with from random weights.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_pose_zoo.codecs.peaks import dark_offset, dark_udp_offset, map_peaks, quarter_offset

__all__ = ["HeatmapCodec", "HeatmapConvention", "HeatmapTargets", "occlusion_targets"]

HeatmapConvention = Literal["center", "msra", "dark", "udp"]


class HeatmapTargets(NamedTuple):
    """What a heatmap network is trained on.

    Attributes:
        heatmaps: (N, K, h, w) float32, peak 1 (``msra``) or nearly so; zeros where the weight is 0.
        weights: (N, K) float32, 1 where the keypoint is labelled and its Gaussian reaches into the map.
    """

    heatmaps: Tensor
    weights: Tensor


def occlusion_targets(targets: HeatmapTargets, visibility: Tensor) -> HeatmapTargets:
    """Return what maps of hidden keypoints are trained on: a Gaussian where a keypoint is hidden, zeros where seen.

    Args:
        targets: Of the keypoints, hidden or not, as ``HeatmapCodec.encode`` draws them.
        visibility: (N, K); 1 where a keypoint is labelled but hidden. Those of 0 keep weight 0.

    Returns:
        Heatmaps (N, K, h, w) and weights (N, K), the same as of ``targets``.
    """
    hidden = (visibility == 1).to(targets.heatmaps)
    return HeatmapTargets(targets.heatmaps * hidden[..., None, None], targets.weights)


class HeatmapCodec(nn.Module):
    """Turns keypoints into Gaussian heatmaps and heatmaps into keypoints.

    Args:
        convention: How cells relate to pixels, how targets are drawn and maps are read; see the module's table.
        stride: Pixels of the crop per cell of the map.
        sigma: Standard deviation of the Gaussian in cells (2 at 256x192, 3 at 384x288 in the published recipes).
    """

    def __init__(self, convention: HeatmapConvention = "center", stride: int = 4, sigma: float = 2.0) -> None:
        super().__init__()
        if convention not in ("center", "msra", "dark", "udp"):
            raise ValueError(f"unknown heatmap convention '{convention}'; choose center, msra, dark or udp.")
        if stride < 1 or sigma <= 0:
            raise ValueError(f"stride is {stride} and sigma {sigma}; both must be positive.")
        self.convention = convention
        self.stride = stride
        self.sigma = sigma
        # 11 cells at sigma 2 and 17 at sigma 3, as published with DARK.
        self.blur_kernel = 2 * int(2.5 * sigma + 0.5) + 1

    def extra_repr(self) -> str:
        """Show the settings when a module is printed."""
        return f"convention={self.convention}, stride={self.stride}, sigma={self.sigma}"

    def map_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the maps for a crop of the given height and width in pixels."""
        return size[0] // self.stride, size[1] // self.stride

    def to_cells(self, keypoints: Tensor, map_size: tuple[int, int]) -> Tensor:
        """Map (..., 2) pixels of the crop to cells of maps of the given height and width."""
        if self.convention == "center":
            return (keypoints + 0.5) / self.stride - 0.5
        return keypoints / self._pixels_per_cell(keypoints, map_size)

    def to_pixels(self, cells: Tensor, map_size: tuple[int, int]) -> Tensor:
        """Map (..., 2) cells of maps of the given height and width to pixels of the crop."""
        if self.convention == "center":
            return (cells + 0.5) * self.stride - 0.5
        return cells * self._pixels_per_cell(cells, map_size)

    def _pixels_per_cell(self, like: Tensor, map_size: tuple[int, int]) -> Tensor:
        height, width = map_size
        if self.convention != "udp":
            return like.new_full((2,), self.stride)
        return like.new_tensor([(width * self.stride - 1) / (width - 1), (height * self.stride - 1) / (height - 1)])

    @torch.no_grad()
    def encode(self, keypoints: Tensor, visibility: Tensor, size: tuple[int, int]) -> HeatmapTargets:
        """Draw the targets of a batch.

        Args:
            keypoints: (N, K, 2), pixels of the crop.
            visibility: (N, K); keypoints of 0 get weight 0.
            size: Height and width of the crop in pixels.

        Returns:
            Heatmaps (N, K, h, w) and weights (N, K), float32.
        """
        height, width = self.map_size(size)
        cells = self.to_cells(keypoints.float(), (height, width))
        reach = 3 * self.sigma
        # Truncation towards zero, not rounding down: what int() does to the published code's numbers.
        rounded = (cells + 0.5).trunc()
        center = rounded if self.convention == "msra" else cells
        window = center if self.convention in ("msra", "udp") else cells
        if self.convention == "udp":
            window = rounded
        limit = cells.new_tensor([width, height])
        low, high = (window - reach), (window + reach + 1)
        if self.convention in ("msra", "udp"):
            low, high = low.trunc(), high.trunc()
        inside = ((low < limit) & (high >= 0)).all(dim=-1)
        weights = ((visibility > 0) & inside).float()
        axes = []
        for axis, length in ((0, width), (1, height)):
            grid = torch.arange(length, device=cells.device, dtype=torch.float32)
            profile = torch.exp(-((grid - center[..., axis, None]) ** 2) / (2 * self.sigma**2))
            if self.convention in ("msra", "udp"):
                profile = profile * ((grid - window[..., axis, None]).abs() <= reach)
            axes.append(profile)
        heatmaps = (axes[1] * weights[..., None])[..., :, None] * axes[0][..., None, :]
        return HeatmapTargets(heatmaps, weights)

    @torch.no_grad()
    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Read the keypoints off a batch of maps.

        Args:
            heatmaps: (N, K, h, w).

        Returns:
            Keypoints (N, K, 2) float32 in pixels of the crop, and scores (N, K): the value of each map's peak. A map
            without a positive value says nothing: its keypoint is cell (0, 0) and its score not positive.
        """
        heatmaps = heatmaps.float()
        size = (heatmaps.shape[-2], heatmaps.shape[-1])
        cells, scores = map_peaks(heatmaps)
        peak = torch.where(scores[..., None] > 0, cells, torch.zeros_like(cells))
        if self.convention == "msra":
            offset = quarter_offset(heatmaps, peak)
        elif self.convention == "udp":
            offset = dark_udp_offset(heatmaps, peak, self.blur_kernel)
        else:
            offset = dark_offset(heatmaps, peak, self.blur_kernel)
        if self.convention == "center":
            # On flat maps the published step can leave the picture.
            offset = offset.clamp(-1, 1)
        offset = torch.where(scores[..., None] > 0, offset, torch.zeros_like(offset))
        return self.to_pixels(peak.float() + offset, size), scores

    def unflip(self, heatmaps: Tensor, permutation: list[int]) -> Tensor:
        """Turn the maps of mirrored crops into maps of the crops.

        With cells at g s (``msra``, ``dark``) a mirrored map lies three quarters of a cell beside the right one; the
        published code shifts it by one cell, and so does this.

        Args:
            heatmaps: (N, K, h, w), of mirrored crops.
            permutation: For every keypoint the index of its mirror image.

        Returns:
            (N, K, h, w).
        """
        maps = heatmaps.flip(-1)[:, permutation]
        if self.convention in ("msra", "dark"):
            maps = torch.cat([maps[..., :1], maps[..., :-1]], dim=-1)
        return maps
