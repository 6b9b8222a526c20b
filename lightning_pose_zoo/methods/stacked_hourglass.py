"""Stacked Hourglass: several networks in a row, each trained to find the keypoints and each seeing the last one's."""

from __future__ import annotations

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.losses import HeatmapLoss, stage_losses
from lightning_pose_zoo.methods.heatmap_method import HeatmapMethod
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.networks import HourglassStem, StackedHourglassNetwork
from lightning_pose_zoo.skeletons import SkeletonLike
from lightning_pose_zoo.structures import PoseBatch

__all__ = ["StackedHourglass"]


class StackedHourglass(HeatmapMethod):
    """Top-down pose estimation with hourglasses in a row and a loss on the maps of each.

    Paper: A. Newell, K. Yang, J. Deng, "Stacked Hourglass Networks for Human Pose Estimation", ECCV 2016,
    arXiv 1603.06937.

    Differs from the paper: targets are drawn where the keypoints are, not at whole cells; peaks are read by Taylor
    expansion, not by a quarter of a cell; keypoints without a label do not count, where the paper asks for maps of
    zeros; half the squared error, as everywhere in this package; the schedule is the recipe's.

    Attributes:
        read_stage: The hourglass that poses are read from, counted from 0; -1, the last one, as published. Another one
            shows what the later ones add.

    Args:
        skeleton: What the keypoints are: a name such as ``mpii16``, a YAML file or a definition. Under LightningCLI it
            comes from the data.
        stacks: How many hourglasses, 1 to 8; 8 in the paper.
        stem: Whose first layers: ``newell`` and ``princeton``, the authors', are the same; ``bearpaw``, of the
            pytorch-pose repository, widens one residual earlier.
        blocks: Residuals in each place of an hourglass.
        channels: Of the features; 256 in the paper.
        weights: A checkpoint to start from: of this package or of another project; see docs/weights.md.
        codec: How keypoints become heatmaps and back; ``HeatmapCodec("center", sigma=1)`` by default.
        loss: On each hourglass; ``HeatmapMSE`` by default, ``HeatmapCrossEntropy(sigma=1)`` learns better from random
            weights in a short time.
        flip_test: In evaluation average the maps with those of the mirrored crop.
        optimizer: Called with the parameters; RMSprop at 2.5e-4 by default.
        lr_scheduler: Called with the optimizer; none by default. The paper drops the rate once, by five.
        normalization: What the weights expect of pixels; RGB in 0..1, nothing subtracted, by default.
        channels_last: Keep the network in channels-last order, which is faster with mixed precision.
    """

    network: StackedHourglassNetwork

    def __init__(
        self,
        skeleton: SkeletonLike = "mpii16",
        stacks: int = 8,
        stem: HourglassStem = "newell",
        blocks: int = 1,
        channels: int = 256,
        weights: str | None = None,
        codec: HeatmapCodec | None = None,
        loss: HeatmapLoss | None = None,
        flip_test: bool = True,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.RMSprop(parameters, lr=2.5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        normalization: Normalization | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__(
            skeleton,
            codec or HeatmapCodec("center", sigma=1.0),
            loss,
            flip_test,
            optimizer,
            lr_scheduler,
            normalization or Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
            channels_last,
        )
        network = StackedHourglassNetwork(self.skeleton.num_keypoints, stacks, stem, blocks, channels)
        self._use(network, network.stride)
        self.read_stage = -1
        self._start_from(weights)

    def stage_maps(self, images: Tensor) -> Tensor:
        """Return the maps of each hourglass, (B, S, K, h, w), as the loss sees them.

        Args:
            images: (B, 3, H, W), RGB uint8, or float where normalised already.
        """
        return super()._maps(images)

    def losses(self, batch: PoseBatch) -> dict[str, Tensor]:
        """Return the loss of each hourglass: ``stack1``, ``stack2``, ..."""
        size = (batch["image"].shape[-2], batch["image"].shape[-1])
        targets = self.codec.encode(batch["keypoints"], batch["visibility"], size)
        stages = self.stage_maps(batch["image"]).unbind(dim=1)
        return stage_losses(self.loss, stages, [targets] * len(stages), "stack")

    def _maps(self, images: Tensor) -> Tensor:
        return self.stage_maps(images)[:, self.read_stage]
