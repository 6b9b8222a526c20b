"""RMPE's network: a spatial transformer around any single-person network, and a frozen copy of that for its training.

Paper: H. Fang, S. Xie, Y. Tai, C. Lu, "RMPE: Regional Multi-person Pose Estimation", ICCV 2017, arXiv 1612.00137.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, Self, cast, get_args

from torch import Tensor, nn

from lightning_pose_zoo.geometry import invert_affine
from lightning_pose_zoo.networks.fastpose import FastPoseNetwork
from lightning_pose_zoo.networks.hrnet import HRNetNetwork, HRNetVariant
from lightning_pose_zoo.networks.simple_baseline import SimpleBaselineNetwork
from lightning_pose_zoo.networks.spatial_transformer import SpatialTransformer, warp
from lightning_pose_zoo.networks.stacked_hourglass import StackedHourglassNetwork

__all__ = ["AlphaPoseNetwork", "Estimator", "warp_back"]

Estimator = Literal["fastpose", "simple_baseline", "stacked_hourglass", "hrnet"]


class AlphaPoseNetwork(nn.Module):
    """Spatial transformer, single-person network, and the inverse transformer.

    Attributes:
        stride: Pixels of the input per cell of the maps.
        parallel: The copy of the single-person network that trains the transformer and never changes, always in
            evaluation mode; None without one. Nothing but the training loss calls it.
        transformer: None where crops are looked at as they are.
        estimator: The single-person network.

    Args:
        num_keypoints: K.
        estimator: Which single-person network.
        backbone: Its backbone: a ResNet of timm for ``fastpose``, any timm model for ``simple_baseline``, the variant
            for ``hrnet``; None for the published one.
        pretrained: Start the backbones from timm's ImageNet weights, downloaded at first use.
        stacks: How many hourglasses a ``stacked_hourglass`` has.
        channels: Of the upsampling layers, or of the hourglasses (one number); None for the published ones.
        transformer: Backbone of the spatial transformer, any timm model; None for no transformer.
        parallel: Keep a frozen copy of the single-person network beside a transformer.

    Raises:
        ValueError: Where there is no such network, or an argument is none of its own.
    """

    def __init__(
        self,
        num_keypoints: int,
        estimator: Estimator = "fastpose",
        backbone: str | None = None,
        pretrained: bool = False,
        stacks: int = 8,
        channels: Sequence[int] | None = None,
        transformer: str | None = "resnet18",
        parallel: bool = True,
    ) -> None:
        super().__init__()
        single = _single_person_network(num_keypoints, estimator, backbone, pretrained, stacks, channels)
        self.stride = int(single.stride)  # type: ignore[arg-type]
        self.parallel = None
        if transformer is not None and parallel:
            self.parallel = copy.deepcopy(single).requires_grad_(False).eval()
        self.transformer = None if transformer is None else SpatialTransformer(transformer, pretrained)
        self.estimator = single

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but the frozen copy, which stays in evaluation mode."""
        super().train(mode)
        if self.parallel is not None:
            self.parallel.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Predict one map per keypoint, where the keypoint is in the crop.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            (B, K, h, w); (B, S, K, h, w) for S hourglasses.
        """
        if self.transformer is None:
            plain: Tensor = self.estimator(images)
            return plain
        windows = self.transformer(images)
        return warp_back(self.estimator(warp(images, windows)), invert_affine(windows))


def warp_back(maps: Tensor, inverse: Tensor) -> Tensor:
    """Bring maps that were found in windows back to the crop; outside of the window they are at their minimum.

    0 would say "unlikely" in heatmaps alone, not in logits.

    Args:
        maps: (B, ..., K, h, w).
        inverse: (B, 2, 3), of the windows, in units of half a map.

    Returns:
        The same shape, float32.
    """
    maps = maps.float()
    least = maps.detach().amin(dim=(-2, -1), keepdim=True)
    return warp((maps - least).flatten(1, -3), inverse).reshape(maps.shape) + least


def _single_person_network(
    num_keypoints: int,
    estimator: str,
    backbone: str | None,
    pretrained: bool,
    stacks: int,
    channels: Sequence[int] | None,
) -> nn.Module:
    """Build the network that finds one person."""
    if estimator == "fastpose":
        return FastPoseNetwork(num_keypoints, backbone or "resnet50", pretrained, channels or (256, 128))
    if estimator == "simple_baseline":
        widths = tuple(channels or (256, 256, 256))
        return SimpleBaselineNetwork(
            num_keypoints, backbone or "resnet50", pretrained, widths, backbone_stride=4 * 2 ** len(widths)
        )
    if estimator == "hrnet":
        return HRNetNetwork(num_keypoints, cast("HRNetVariant", backbone or "w32"), pretrained)
    if estimator == "stacked_hourglass":
        widths = tuple(channels or (256,))
        if len(widths) != 1 or backbone is not None:
            raise ValueError(f"an hourglass has one number of channels and no backbone, not {widths} and {backbone}.")
        return StackedHourglassNetwork(num_keypoints, stacks, channels=widths[0])
    raise ValueError(f"estimator is '{estimator}'; there are {', '.join(get_args(Estimator))}.")
