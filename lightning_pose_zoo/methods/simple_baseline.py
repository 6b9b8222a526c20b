"""Simple Baselines: a classification backbone, three transposed convolutions, one heatmap per keypoint."""

from __future__ import annotations

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.losses import HeatmapLoss
from lightning_pose_zoo.methods.heatmap_method import HeatmapMethod
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.networks import SimpleBaselineNetwork
from lightning_pose_zoo.skeletons import SkeletonLike

__all__ = ["SimpleBaseline"]


class SimpleBaseline(HeatmapMethod):
    """Top-down pose estimation with a plain network.

    Paper: B. Xiao, H. Wu, Y. Wei, "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018,
    arXiv 1804.06208.

    Differs from the paper: any timm backbone fits; the ResNets stride in the 3x3 convolution, not in the 1x1 one; the
    schedule is the recipe's; tracking is not part of this class.

    Args:
        skeleton: What the keypoints are: a name such as ``coco17``, a YAML file or a definition. Under LightningCLI it
            comes from the data.
        backbone: Any timm model with feature maps; ``resnet50``, ``resnet101`` and ``resnet152`` in the paper.
        pretrained: Start from timm's ImageNet weights, downloaded at first use (the paper does).
        deconv_channels: Channels of each transposed convolution.
        backbone_stride: The stage of the backbone that is read, by its pixels per cell: 32, the last one of a ResNet,
            as published; 16 with two transposed convolutions is quicker and learns faster on small crops.
        weights: A checkpoint to start from: of this package or of another project; see docs/weights.md.
        codec: How keypoints become heatmaps and back; ``HeatmapCodec("msra")``, as published, by default.
        loss: ``HeatmapMSE``, as published, by default; ``HeatmapCrossEntropy`` learns better from random weights.
        flip_test: In evaluation average the maps with those of the mirrored crop.
        optimizer: Called with the parameters; Adam at 1e-3 by default.
        lr_scheduler: Called with the optimizer; none by default. The paper drops the rate at epochs 90 and 120 of 140.
        normalization: What the weights expect of pixels; RGB with ImageNet's mean and deviation by default.
        channels_last: Keep the network in channels-last order, which is faster with mixed precision.
    """

    network: SimpleBaselineNetwork

    def __init__(
        self,
        skeleton: SkeletonLike = "coco17",
        backbone: str = "resnet50",
        pretrained: bool = False,
        deconv_channels: tuple[int, ...] = (256, 256, 256),
        backbone_stride: int = 32,
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
        keypoints = self.skeleton.num_keypoints
        network = SimpleBaselineNetwork(
            keypoints, backbone, pretrained and weights is None, deconv_channels, backbone_stride=backbone_stride
        )
        self._use(network, network.stride)
        self._start_from(weights)
