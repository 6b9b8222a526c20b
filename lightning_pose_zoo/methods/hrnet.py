"""HRNet: high-resolution maps from beginning to end."""

from __future__ import annotations

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.losses import HeatmapLoss
from lightning_pose_zoo.methods.heatmap_method import HeatmapMethod
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.networks import HRNetNetwork, HRNetVariant
from lightning_pose_zoo.skeletons import SkeletonLike

__all__ = ["HRNet"]


class HRNet(HeatmapMethod):
    """Top-down pose estimation with a network that keeps its resolution.

    Paper: K. Sun, B. Xiao, D. Liu, J. Wang, "Deep High-Resolution Representation Learning for Human Pose Estimation",
    CVPR 2019, arXiv 1902.09212.

    Differs from the paper: the schedule is the recipe's; the w18 variants are timm's, not among the paper's pose
    networks.

    Args:
        skeleton: What the keypoints are: a name such as ``coco17``, a YAML file or a definition. Under LightningCLI it
            comes from the data.
        variant: Channels of the finest branch: w32 or w48 in the paper; w18, and w18_small_v2 and w18_small with fewer
            blocks.
        pretrained: Start from timm's ImageNet weights, downloaded at first use (the paper does).
        paper_init: Without these, draw all convolutions from N(0, 0.001), as published; false leaves them as timm draws
            them, which learns faster from random weights.
        weights: A checkpoint to start from: of this package or of another project; see docs/weights.md.
        codec: How keypoints become heatmaps and back; ``HeatmapCodec("msra")``, as published, by default.
        loss: ``HeatmapMSE``, as published, by default; ``HeatmapCrossEntropy`` learns better from random weights.
        flip_test: In evaluation average the maps with those of the mirrored crop.
        optimizer: Called with the parameters; Adam at 1e-3 by default.
        lr_scheduler: Called with the optimizer; none by default. The paper drops the rate at epochs 170 and 200 of 210.
        normalization: What the weights expect of pixels; RGB with ImageNet's mean and deviation by default.
        channels_last: Keep the network in channels-last order, which is faster with mixed precision.
    """

    network: HRNetNetwork

    def __init__(
        self,
        skeleton: SkeletonLike = "coco17",
        variant: HRNetVariant = "w32",
        pretrained: bool = False,
        paper_init: bool = True,
        weights: str | None = None,
        codec: HeatmapCodec | None = None,
        loss: HeatmapLoss | None = None,
        flip_test: bool = True,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
        normalization: Normalization | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__(skeleton, codec, loss, flip_test, optimizer, lr_scheduler, normalization, channels_last)
        network = HRNetNetwork(self.skeleton.num_keypoints, variant, pretrained and weights is None, paper_init)
        self._use(network, network.stride)
        self._start_from(weights)
