"""Top-down methods whose network gives one heatmap per keypoint."""

from __future__ import annotations

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.losses import HeatmapLoss, HeatmapMSE
from lightning_pose_zoo.methods.base import PoseModule
from lightning_pose_zoo.methods.flip_test import flip_averaged
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.methods.top_down import poses_from_crops
from lightning_pose_zoo.skeletons import SkeletonLike
from lightning_pose_zoo.structures import PoseBatch, Poses

__all__ = ["HeatmapMethod"]


class HeatmapMethod(PoseModule):
    """A network from crops to heatmaps, trained against Gaussians and read at their peaks.

    Args:
        skeleton: What the keypoints are.
        codec: How keypoints become heatmaps and back; the published ``msra`` by default.
        loss: What is minimised; the published mean squared error by default.
        flip_test: In evaluation average the maps with those of the mirrored crop.
        optimizer: Called with the parameters.
        lr_scheduler: Called with the optimizer.
        normalization: What the network's weights expect of pixels.
        channels_last: Keep the network in channels-last order.
    """

    def __init__(
        self,
        skeleton: SkeletonLike,
        codec: HeatmapCodec | None,
        loss: HeatmapLoss | None,
        flip_test: bool,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None,
        normalization: Normalization | None,
        channels_last: bool,
    ) -> None:
        super().__init__(skeleton, optimizer, lr_scheduler, normalization, channels_last)
        self.codec = codec or HeatmapCodec("msra")
        self.loss = loss or HeatmapMSE()
        self.flip_test = flip_test

    def _use(self, network: nn.Module, stride: int) -> None:
        """Take a network, checking that its maps are as fine as the codec's."""
        if stride != self.codec.stride:
            raise ValueError(
                f"the network's maps have one cell for {stride} pixels, the codec's one for {self.codec.stride}; "
                f"set the codec's stride to {stride}."
            )
        self.network = network

    def losses(self, batch: PoseBatch) -> dict[str, Tensor]:
        """Return the loss over the heatmaps of a batch of crops."""
        size = (batch["image"].shape[-2], batch["image"].shape[-1])
        targets = self.codec.encode(batch["keypoints"], batch["visibility"], size)
        return {"heatmap": self.loss(self.network(self.normalized(batch["image"])), targets)}

    def heatmaps(self, images: Tensor) -> Tensor:
        """Return heatmaps (B, K, h, w) float32 of crops (B, 3, H, W), uint8 or normalised."""
        maps: Tensor = self.loss.to_heatmaps(self.network(self.normalized(images)))
        return maps

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Find the keypoints of crops.

        Args:
            images: (B, 3, H, W), RGB uint8, or float where normalised already.

        Returns:
            Keypoints (B, K, 2) in pixels of the crops, and their scores (B, K).
        """
        keypoints, scores = self.codec.decode(self.heatmaps(images))
        return keypoints, scores

    def estimate(self, batch: PoseBatch) -> Poses:
        """Find one person in each crop of a batch."""
        if not self.flip_test:
            return poses_from_crops(*self(batch["image"]), batch)
        permutation = self.skeleton.flip_permutation
        maps = flip_averaged(self.heatmaps, lambda maps: self.codec.unflip(maps, permutation), batch["image"])
        return poses_from_crops(*self.codec.decode(maps), batch)
