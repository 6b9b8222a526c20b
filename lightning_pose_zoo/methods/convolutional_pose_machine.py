"""Convolutional Pose Machines: belief maps that each stage refines, with a map of where the person is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lightning_pose_zoo.codecs import HeatmapCodec, HeatmapTargets
from lightning_pose_zoo.losses import HeatmapLoss, HeatmapMSE, stage_losses
from lightning_pose_zoo.methods.heatmap_method import HeatmapMethod
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.methods.scale_test import check_scales, scale_averaged
from lightning_pose_zoo.methods.top_down import poses_from_crops
from lightning_pose_zoo.networks import ConvolutionalPoseMachineNetwork, CPMVariant, center_maps
from lightning_pose_zoo.skeletons import SkeletonLike
from lightning_pose_zoo.structures import PoseBatch, Poses

__all__ = ["ConvolutionalPoseMachine"]


class ConvolutionalPoseMachine(HeatmapMethod):
    """Top-down pose estimation in stages, with a loss on the maps of each.

    The first stage sees the picture alone and is trained to find everybody's keypoints (``others_keypoints`` of a
    batch, where it has them); the later ones are shown where the person is and find that person's.

    Paper: S.-E. Wei, V. Ramakrishna, T. Kanade, Y. Sheikh, "Convolutional Pose Machines", CVPR 2016,
    arXiv 1602.00134.

    Differs from the paper: keypoints without a label do not count, where the paper asks for maps of zeros; all layers
    learn at one rate; crops are padded with black, not grey; peaks are read by Taylor expansion; maps are averaged with
    those of the mirrored crop, and over the paper's seven scales only where ``test_scales`` has them; the VGG network's
    first values are drawn, not ImageNet's.

    Attributes:
        read_stage: The stage that poses are read from, counted from 0; -1, the last one, as published. Another one
            shows what the later ones add.

    Args:
        skeleton: What the keypoints are: a name such as ``mpii16``, a YAML file or a definition. Under LightningCLI it
            comes from the data.
        variant: ``original`` or ``vgg``, as released, without batch norm; ``original_bn`` and ``vgg_bn`` with it, which
            learn from random weights; ``mmpose``, that package's: the original with batch norm, other pooling, and no
            map for the background (its weights need ``center_map: false`` too).
        stages: How many; 6 in the paper.
        channels: Width of trunk and stages; 128 in the paper.
        center_map: Show the later stages where the person is: in the middle of its box, or of the crop where a batch
            has no boxes.
        weights: A checkpoint to start from: of this package or of another project; see docs/weights.md.
        codec: How keypoints become maps and back; ``HeatmapCodec("center", stride=8, sigma=0.875)``, the paper's 7
            pixels, by default.
        loss: On each stage; ``HeatmapMSE("sum")``, as published, by default. ``HeatmapCrossEntropy(sigma=0.875)``
            learns better from random weights.
        flip_test: In evaluation average the maps with those of the mirrored crop.
        test_scales: In evaluation average the maps over the crop in these sizes; 0.7 to 1.3 in steps of 0.1 in the
            paper, which takes seven times as long.
        optimizer: Called with the parameters; SGD at 8e-5 with momentum 0.9 and weight decay 5e-4 by default.
        lr_scheduler: Called with the optimizer; none by default. The released code takes a third of the rate every
            136,106 batches of 16.
        normalization: What the weights expect of pixels; by default BGR, (x - 128) / 256, as released, and for
            ``mmpose`` RGB with ImageNet's mean and deviation.
        channels_last: Keep the network in channels-last order, which is faster with mixed precision.
    """

    network: ConvolutionalPoseMachineNetwork

    def __init__(
        self,
        skeleton: SkeletonLike = "mpii16",
        variant: CPMVariant = "original",
        stages: int = 6,
        channels: int = 128,
        center_map: bool = True,
        weights: str | None = None,
        codec: HeatmapCodec | None = None,
        loss: HeatmapLoss | None = None,
        flip_test: bool = True,
        test_scales: tuple[float, ...] = (1.0,),
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(
            parameters, lr=8e-5, momentum=0.9, weight_decay=5e-4
        ),
        lr_scheduler: LRSchedulerCallable | None = None,
        normalization: Normalization | None = None,
        channels_last: bool = False,
    ) -> None:
        released = Normalization((128 / 255,) * 3, (256 / 255,) * 3, "bgr")
        super().__init__(
            skeleton,
            codec or HeatmapCodec("center", stride=8, sigma=0.875),
            loss or HeatmapMSE("sum"),
            flip_test,
            optimizer,
            lr_scheduler,
            normalization or (Normalization() if variant == "mmpose" else released),
            channels_last,
        )
        network = ConvolutionalPoseMachineNetwork(self.skeleton.num_keypoints, variant, stages, channels, center_map)
        self._use(network, network.stride)
        self.center_map = center_map
        self.read_stage = -1
        self.test_scales = check_scales(test_scales)
        self._start_from(weights)

    def stage_maps(self, images: Tensor) -> Tensor:
        """Return the maps of each stage, (B, T, K + 1, h, w), the background last, as the loss sees them.

        Args:
            images: (B, 3, H, W), RGB uint8, or float where normalised already; or (B, 4, H, W) float with the map of
                the person's middle as the fourth channel.
        """
        return super()._maps(images)

    def losses(self, batch: PoseBatch) -> dict[str, Tensor]:
        """Return the loss of each stage: ``stage1``, ``stage2``, ..."""
        size = (batch["image"].shape[-2], batch["image"].shape[-1])
        person = self.codec.encode(batch["keypoints"], batch["visibility"], size)
        everybody = self._with_others(person, cast("Mapping[str, Tensor]", batch), size)
        stages = self.stage_maps(self._images(batch)).unbind(dim=1)
        later = self._with_background(person)
        targets = [self._with_background(everybody)] + [later] * (len(stages) - 1)
        return stage_losses(self.loss, stages, targets, "stage")

    def _with_others(
        self, targets: HeatmapTargets, batch: Mapping[str, Tensor], size: tuple[int, int]
    ) -> HeatmapTargets:
        """Add the peaks of all other persons in the crops, as far as the batch has them."""
        if "others_keypoints" not in batch or batch["others_keypoints"].shape[1] == 0:
            return targets
        count, others = batch["others_keypoints"].shape[:2]
        theirs = self.codec.encode(
            batch["others_keypoints"].flatten(0, 1), batch["others_visibility"].flatten(0, 1), size
        )
        peaks = theirs.heatmaps.unflatten(0, (count, others)).sum(dim=1)
        return HeatmapTargets((targets.heatmaps + peaks).clamp(max=1), targets.weights)

    def _with_background(self, targets: HeatmapTargets) -> HeatmapTargets:
        """Add the map of where no keypoint is; it counts where anything of the person is labelled."""
        if not self.network.has_background:
            return targets
        heatmaps, weights = targets
        background = 1 - heatmaps.amax(dim=1, keepdim=True)
        labelled = weights.amax(dim=1, keepdim=True)
        background = background * labelled[..., None, None]
        return HeatmapTargets(torch.cat([heatmaps, background], dim=1), torch.cat([weights, labelled], dim=1))

    def _images(self, batch: PoseBatch) -> Tensor:
        """Return a batch's crops, with the map of each person's middle where the batch has boxes."""
        if not self.center_map or "box" not in batch:
            return batch["image"]
        images, boxes = self.normalized(batch["image"]), batch["box"]
        middles = (boxes[:, :2] + boxes[:, 2:]).to(images.dtype) / 2
        return torch.cat([images, center_maps(middles, (images.shape[-2], images.shape[-1]))], dim=1)

    def _maps(self, images: Tensor) -> Tensor:
        return self.stage_maps(images)[:, self.read_stage, : self.skeleton.num_keypoints]

    def protocol(self) -> str:
        """Say how maps are made and read, and at which scales, where that is not the crop's own alone."""
        if self.test_scales == (1.0,):
            return super().protocol()
        return f"scales {', '.join(f'{scale:g}' for scale in self.test_scales)}, {super().protocol()}"

    def estimate(self, batch: PoseBatch) -> Poses:
        """Find one person in each crop of a batch, the one in the middle of the box."""
        if self.test_scales == (1.0,):
            return super().estimate({**batch, "image": self._images(batch)})
        images = self.normalized(batch["image"])
        maps = scale_averaged(lambda scaled: self._maps_at(scaled, batch), images, self.test_scales, self.codec)
        return poses_from_crops(*self.codec.decode(maps), batch)

    def _maps_at(self, images: Tensor, batch: PoseBatch) -> Tensor:
        """Return the heatmaps of a batch's resized crops; the person's middle moves, and is shown as wide as ever."""
        resized: PoseBatch = {**batch, "image": images}
        if "box" in batch:
            x, y = images.shape[-1] / batch["image"].shape[-1], images.shape[-2] / batch["image"].shape[-2]
            resized["box"] = batch["box"] * batch["box"].new_tensor([x, y, x, y])
        return self._test_maps(self._images(resized))
