"""Top-down methods whose network gives one heatmap per keypoint."""

from __future__ import annotations

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.errors import DatasetError, SettingsError
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
            raise SettingsError(
                f"the network's maps have one cell for {stride} pixels, the codec's one for {self.codec.stride}; "
                f"set the codec's stride to {stride}."
            )
        self.network = network

    def losses(self, batch: PoseBatch) -> dict[str, Tensor]:
        """Return the loss over the heatmaps of a batch of crops."""
        size = (batch["image"].shape[-2], batch["image"].shape[-1])
        targets = self.codec.encode(batch["keypoints"], batch["visibility"], size)
        return {"heatmap": self.loss(self._maps(batch["image"]), targets)}

    def _maps(self, images: Tensor) -> Tensor:
        """Return the network's maps (B, K, h, w) of crops, checked for the size that the codec counts on."""
        return self._fitting(self.network(self.normalized(images)), images)

    def _fitting(self, maps: Tensor, images: Tensor) -> Tensor:
        """Return maps (..., h, w) as they are, checked that they have a cell for every ``codec.stride`` pixels."""
        height, width = int(images.shape[-2]), int(images.shape[-1])
        if (maps.shape[-2], maps.shape[-1]) != (height / self.codec.stride, width / self.codec.stride):
            raise DatasetError(
                f"crops of {height}x{width} give maps of {maps.shape[-2]}x{maps.shape[-1]}, which is not one cell for "
                f"{self.codec.stride} pixels; give an image_size whose sides are multiples of 32."
            )
        return maps

    def heatmaps(self, images: Tensor) -> Tensor:
        """Return heatmaps (B, K, h, w) float32 of crops (B, 3, H, W), uint8 or normalised.

        Raises:
            DatasetError: Where a side of the crops is no multiple of what the network divides it by.
        """
        heatmaps: Tensor = self.loss.to_heatmaps(self._maps(images))
        return heatmaps

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Find the keypoints of crops.

        Args:
            images: (B, 3, H, W), RGB uint8, or float where normalised already.

        Returns:
            Keypoints (B, K, 2) in pixels of the crops, and their scores (B, K).
        """
        keypoints, scores = self.codec.decode(self.heatmaps(images))
        return keypoints, scores

    def protocol(self) -> str:
        """Say how maps are made and read; see ``methods.top_down.evaluation_protocol``."""
        return f"{'flip test' if self.flip_test else 'no flip test'}, {self.codec}"

    def estimate(self, batch: PoseBatch) -> Poses:
        """Find one person in each crop of a batch."""
        if self.flip_test:
            keypoints, scores = self.codec.decode(self._test_maps(batch["image"]))
        else:
            keypoints, scores = self(batch["image"])
        return poses_from_crops(keypoints, scores, batch)

    def _test_maps(self, images: Tensor) -> Tensor:
        """Return the heatmaps (B, K, h, w) that poses are read off, averaged with the mirrored crops' where asked."""
        if not self.flip_test:
            return self.heatmaps(images)
        permutation = self.skeleton.flip_permutation
        return flip_averaged(self.heatmaps, lambda maps: self.codec.unflip(maps, permutation), images)
