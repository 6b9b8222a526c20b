"""OpenPose: everybody in a picture at once, by confidence maps of the parts and affinity fields of the limbs."""

from __future__ import annotations

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import functional as F

from lightning_pose_zoo.association.paf import PartGrouping
from lightning_pose_zoo.codecs.body_parts import body_parts
from lightning_pose_zoo.codecs.heatmap import HeatmapTargets
from lightning_pose_zoo.codecs.paf import PartAffinityCodec
from lightning_pose_zoo.losses import HeatmapMSE, stage_losses
from lightning_pose_zoo.methods.base import PoseModule
from lightning_pose_zoo.methods.bottom_up import poses_from_pictures
from lightning_pose_zoo.methods.exported_pictures import OpenPoseGraph
from lightning_pose_zoo.methods.flip_test import flip_averaged
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.networks.openpose import OpenPoseMaps, OpenPoseNetwork, OpenPoseVariant
from lightning_pose_zoo.skeletons import SkeletonLike
from lightning_pose_zoo.structures import PoseBatch, Poses, person_images

__all__ = ["OpenPose"]


class OpenPose(PoseModule):
    """Bottom-up pose estimation: the time for a picture hardly depends on how many people are in it.

    The network predicts where parts of bodies are, whosever they are, and for each limb a field of vectors along it.
    Parts are joined to persons where the fields say so (``association.paf``). COCO's 17 keypoints get a neck inside of
    the method, the middle of both shoulders; poses have the 17 again. Training needs whole pictures (``samples:
    pictures`` of a data module), and leaves out what their ``ignore`` covers.

    Papers: Z. Cao, T. Simon, S.-E. Wei, Y. Sheikh, "Realtime Multi-Person 2D Pose Estimation using Part Affinity
    Fields", CVPR 2017, arXiv 1611.08050 (``v1``); Z. Cao, G. Hidalgo, T. Simon, S.-E. Wei, Y. Sheikh, "OpenPose:
    Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields", TPAMI 2019, arXiv 1812.08008 (``v2``).

    Differs from the papers: all layers learn at one rate; peaks are read at the maps' resolution and placed between the
    cells, where the paper enlarges the maps eight times; a second peak is looked for beside each; one scale; all limbs
    are joined by falling score, not limb by limb; hidden layers start from He's values.

    Attributes:
        parts: The parts and limbs that the network finds.

    Args:
        skeleton: What the keypoints are: a name such as ``coco17`` or ``body25``, a YAML file or a definition. Under
            LightningCLI it comes from the data.
        variant: ``v1``, six stages of fields and maps; ``v2``, four stages of fields and two of maps, dense; both as
            released, without batch norm. ``v1_bn`` and ``v2_bn`` with it, which learn from random weights.
        stages: How many of fields and of maps; [6, 6] for ``v1``, [4, 2] for ``v2`` by default.
        channels: Width of the stages; 128 in the papers.
        backbone: ``vgg19``, its first ten convolutions, as published; or any timm model with feature maps at the
            codec's stride.
        pretrained: Start the backbone from timm's ImageNet weights, downloaded at first use.
        weights: A checkpoint to start from: of this package or of another project; see docs/weights.md.
        codec: How persons become maps and fields; ``PartAffinityCodec("center")`` at stride 8 by default. Released
            weights were trained with ``PartAffinityCodec("openpose")``.
        grouping: How persons are put together; ``PartGrouping()`` by default.
        flip_test: In evaluation average maps and fields with those of the mirrored picture.
        optimizer: Called with the parameters; SGD at 4e-5 with momentum 0.9 and weight decay 5e-4 by default.
        lr_scheduler: Called with the optimizer; none by default. The released code takes a third of the rate every
            136,106 batches of 10.
        normalization: What the weights expect of pixels; BGR, (x - 128) / 256, as released, by default.
        channels_last: Keep the network in channels-last order, which is faster with mixed precision.
    """

    network: OpenPoseNetwork
    samples = "pictures"

    def __init__(
        self,
        skeleton: SkeletonLike = "coco17",
        variant: OpenPoseVariant = "v1",
        stages: tuple[int, int] | None = None,
        channels: int = 128,
        backbone: str = "vgg19",
        pretrained: bool = False,
        weights: str | None = None,
        codec: PartAffinityCodec | None = None,
        grouping: PartGrouping | None = None,
        flip_test: bool = False,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(
            parameters, lr=4e-5, momentum=0.9, weight_decay=5e-4
        ),
        lr_scheduler: LRSchedulerCallable | None = None,
        normalization: Normalization | None = None,
        channels_last: bool = False,
    ) -> None:
        released = Normalization((128 / 255,) * 3, (256 / 255,) * 3, "bgr")
        super().__init__(skeleton, optimizer, lr_scheduler, normalization or released, channels_last)
        self.parts = body_parts(self.skeleton)
        self.limbs = self.parts.skeleton.limbs
        self.codec = codec or PartAffinityCodec()
        self.grouping = grouping or PartGrouping()
        self.loss = HeatmapMSE("sum")
        self.flip_test = flip_test
        self.network = OpenPoseNetwork(
            self.parts.skeleton.num_keypoints, len(self.limbs), variant, stages, channels, backbone, self.codec.stride,
            pretrained,
        )  # fmt: skip
        self._start_from(weights)

    def stage_maps(self, images: Tensor) -> OpenPoseMaps:
        """Return fields and maps of all stages; pictures are filled up to a multiple of the stride with grey.

        Args:
            images: (B, 3, H, W), RGB uint8, or float where normalised already.
        """
        pixels = self.normalized(images)
        stride = self.codec.stride
        rest = [-int(side) % stride for side in (pixels.shape[-1], pixels.shape[-2])]
        maps: OpenPoseMaps = self.network(F.pad(pixels, (0, rest[0], 0, rest[1])) if any(rest) else pixels)
        return maps

    def losses(self, batch: PoseBatch) -> dict[str, Tensor]:
        """Return the loss of each stage: ``fields1``, ``fields2``, ..., ``maps1``, ...

        Half the squared error, summed over maps and cells, mean over pictures; what is ignored counts nothing.
        """
        fields, heatmaps = self.stage_maps(batch["image"])
        height, width = (int(side) * self.codec.stride for side in fields.shape[-2:])
        parts, seen = self.parts.from_keypoints(batch["keypoints"], batch["visibility"])
        targets = self.codec.encode(parts, seen, person_images(batch), self.limbs, len(fields), (height, width))
        counted = self._counted(batch, (height, width))
        losses: dict[str, Tensor] = {}
        for name, stages, target in (("fields", fields, targets.fields), ("maps", heatmaps, targets.heatmaps)):
            aim = HeatmapTargets(target * counted, target.new_ones(target.shape[:2]))
            shown = [maps.float() * counted for maps in stages.unbind(dim=1)]
            losses |= stage_losses(self.loss, shown, [aim] * len(shown), name)
        return losses

    def _counted(self, batch: PoseBatch, size: tuple[int, int]) -> Tensor:
        """Return which part of each cell counts, (B, 1, h, w): nothing of what is ignored, nor of grey filling."""
        images = batch["image"]
        height, width = int(images.shape[-2]), int(images.shape[-1])
        if "ignore" in batch:
            counted = (~batch["ignore"]).float()[:, None]
        else:
            counted = images.new_ones(len(images), 1, height, width, dtype=torch.float32)
        counted = F.pad(counted, (0, size[1] - width, 0, size[0] - height))
        return F.avg_pool2d(counted, self.codec.stride)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the maps that persons are put together from.

        Args:
            images: (B, 3, H, W), RGB uint8, or float where normalised already.

        Returns:
            Confidence maps (B, J + 1, h, w), the background last, and fields (B, 2 C, h, w), of the last stage.
        """
        fields, heatmaps = self.stage_maps(images)
        return heatmaps[:, -1].float(), fields[:, -1].float()

    def graph(self) -> OpenPoseGraph:
        """Return what is exported."""
        return OpenPoseGraph(self)

    def protocol(self) -> str:
        """Say how maps are made and read; see ``methods.top_down.evaluation_protocol``."""
        return f"{'flip test' if self.flip_test else 'no flip test'}, {self.codec}, {self.grouping.matching} matching"

    def estimate(self, batch: PoseBatch) -> Poses:
        """Find everybody in the pictures of a batch; pictures in their order, in each the surest person first."""
        images = batch["image"]
        count = self.parts.skeleton.num_keypoints

        def both(pictures: Tensor) -> Tensor:
            return torch.cat(self(pictures), dim=1)

        maps = flip_averaged(both, self._unflip, images) if self.flip_test else both(images)
        heatmaps, fields = maps[:, :count], maps[:, count + 1 :]
        found = self.grouping(heatmaps, fields, self.limbs, self.codec.sigma, self.codec.field_shift)
        keypoints = self.parts.to_keypoints(self.codec.to_pixels(found.cells))
        scores = self.parts.to_keypoints(found.part_scores)
        return poses_from_pictures(keypoints, scores, found.scores, found.rows, batch)

    def _unflip(self, maps: Tensor) -> Tensor:
        """Turn maps and fields of mirrored pictures into those of the pictures."""
        count = self.parts.skeleton.num_keypoints
        permutation = [*self.parts.skeleton.flip_permutation, count]
        heatmaps = maps[:, : count + 1].flip(-1)[:, permutation]
        return torch.cat([heatmaps, self.codec.unflip(maps[:, count + 1 :], *self.parts.mirrored_limbs)], dim=1)
