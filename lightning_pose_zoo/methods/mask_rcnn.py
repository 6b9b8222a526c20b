"""Mask R-CNN for keypoints: persons are found first, then the keypoints of each, by one network."""

from __future__ import annotations

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from lightning_pose_zoo.codecs.region_heatmap import RegionHeatmapCodec
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.methods.base import PoseModule
from lightning_pose_zoo.methods.bottom_up import poses_from_pictures
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.networks.feature_pyramid import BatchNorm
from lightning_pose_zoo.networks.mask_rcnn import MaskRCNNLayout, MaskRCNNNetwork
from lightning_pose_zoo.networks.region_heads import FoundRegions, HeadSizes, RegionSettings
from lightning_pose_zoo.skeletons import SkeletonLike
from lightning_pose_zoo.structures import PoseBatch, Poses, person_images

__all__ = ["MaskRCNN"]

_LEAST_SIDE = 1.0  # pixels of the box of somebody to learn from
_MASK = 0.5


class MaskRCNN(PoseModule):
    """Finds the boxes of persons, and in each box the keypoints and, if asked for, the person's mask.

    A network proposes regions, decides of each whether it is a person, corrects its box, and gives a map of each
    keypoint over it, whose cells compete (softmax). Training needs whole pictures (``samples: pictures`` of a data
    module). Nobody is made background of what their ``ignore`` covers.

    Paper: K. He, G. Gkioxari, P. Dollár, R. Girshick, "Mask R-CNN", ICCV 2017, arXiv 1703.06870.

    Differs from the paper: torchvision's network, the boxes' loss included; pictures are fitted into one size of the
    data module, where the paper brings their shorter side to 800 pixels; persons without a labelled keypoint are
    ignored by the data modules, where the paper learns their boxes.

    Args:
        skeleton: What the keypoints are: a name such as ``coco17``, a YAML file or a definition. Under LightningCLI it
            comes from the data.
        backbone: A ResNet of torchvision (``resnet50``, ``resnet101``, ...), or any timm model with stages of stride
            4, 8, 16 and 32, such as ``convnext_tiny``.
        pretrained: Start the backbone from ImageNet's weights, downloaded at first use.
        weights: A checkpoint to start from: of this package, torchvision or detectron2; see docs/weights.md.
        masks: Predict masks too. They are learnt of whoever has one in ``mask`` of the batch.
        layout: ``torchvision`` or ``detectron2``, whose network it is in the details; detectron2's weights need the
            latter.
        batch_norm: What batch norm of the backbone does. ``frozen``: it stays as it came, and with ``pretrained`` or
            ``weights`` the stem and first stage of a ResNet of torchvision do not learn either, as published.
            ``frozen_eps0``: likewise with nothing added to the variance, which torchvision's published weights need.
            ``trained``: for random weights, and batches of several pictures.
        heads: How large the network is beside its backbone; ``HeadSizes()``, as published, by default.
        regions: How many regions are looked at, and which count; ``RegionSettings()``, as published, by default.
        codec: How maps are read; ``RegionHeatmapCodec()``, whose scores are probabilities, by default.
        optimizer: Called with the parameters; SGD at 0.02, the paper's for 16 pictures, with momentum 0.9 and weight
            decay 1e-4, by default.
        lr_scheduler: Called with the optimizer; none by default. The paper takes a tenth of the rate at two thirds and
            eight ninths of the training.
        normalization: What the weights expect of pixels; ImageNet's mean and deviation by default.
        channels_last: Keep the network in channels-last order, which is faster with mixed precision.
    """

    network: MaskRCNNNetwork
    samples = "pictures"

    def __init__(
        self,
        skeleton: SkeletonLike = "coco17",
        backbone: str = "resnet50",
        pretrained: bool = False,
        weights: str | None = None,
        masks: bool = False,
        layout: MaskRCNNLayout = "torchvision",
        batch_norm: BatchNorm = "frozen",
        heads: HeadSizes | None = None,
        regions: RegionSettings | None = None,
        codec: RegionHeatmapCodec | None = None,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(
            parameters, lr=0.02, momentum=0.9, weight_decay=1e-4
        ),
        lr_scheduler: LRSchedulerCallable | None = None,
        normalization: Normalization | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__(skeleton, optimizer, lr_scheduler, normalization, channels_last)
        self.heads = heads or HeadSizes()
        self.regions = regions or RegionSettings()
        self.codec = codec or RegionHeatmapCodec()
        self.masks = masks
        published = batch_norm != "trained" and (pretrained or weights is not None)
        self.network = MaskRCNNNetwork(
            self.skeleton.num_keypoints, backbone, layout, masks, batch_norm, self.heads, self.regions, pretrained,
            published,
        )  # fmt: skip
        self._start_from(weights)

    def losses(self, batch: PoseBatch) -> dict[str, Tensor]:
        """Return the losses ``objectness``, ``proposals``, ``classes``, ``boxes``, ``keypoints`` and ``masks``.

        Raises:
            DatasetError: Where the batch has no boxes.
        """
        pixels, sizes = self._pixels(batch)
        return self.network.losses(pixels, _targets(batch, sizes, self.masks), self.codec, sizes)

    def _pixels(self, batch: PoseBatch) -> tuple[Tensor, list[tuple[int, int]]]:
        """Return what of the pictures is filled by any of them, and the size of each.

        Filling is 0 after normalisation, as in the public trainings, up to a multiple of the network's stride.
        """
        pixels = self.normalized(batch["image"])
        height, width = int(pixels.shape[-2]), int(pixels.shape[-1])
        sizes = [(height, width)] * len(pixels)
        if "content" in batch:
            content = batch["content"].clamp(min=1)
            sizes = [(min(int(row[0]), height), min(int(row[1]), width)) for row in content.tolist()]
            rows = torch.arange(height, device=pixels.device)[:, None] < content[:, 0, None, None]
            columns = torch.arange(width, device=pixels.device) < content[:, 1, None, None]
            pixels = torch.where((rows & columns)[:, None], pixels, 0)
        bottom, right = (max(size[axis] for size in sizes) for axis in (0, 1))
        pixels = pixels[..., :bottom, :right]
        rest = [-side % self.network.stride for side in (right, bottom)]
        return F.pad(pixels, (0, rest[0], 0, rest[1])), sizes

    def forward(self, images: Tensor) -> FoundRegions:
        """Find persons, with the maps that their keypoints are read from.

        Args:
            images: (B, 3, H, W), RGB uint8, or float where normalised already.
        """
        return self._find(PoseBatch(image=images))

    def _find(self, batch: PoseBatch) -> FoundRegions:
        found: FoundRegions = self.network(*self._pixels(batch))
        return found

    def protocol(self) -> str:
        """Say how persons are found; see ``methods.top_down.evaluation_protocol``."""
        regions = self.regions
        return f"no flip test, at most {regions.most} persons above {regions.min_score:g}"

    def estimate(self, batch: PoseBatch) -> Poses:
        """Find everybody in the pictures of a batch; pictures in their order, in each the surest person first."""
        return self._poses(self._find(batch), batch)

    def estimate_with_masks(self, batch: PoseBatch) -> tuple[Poses, Tensor]:
        """Find everybody, and the pixels that each covers.

        Returns:
            The poses, and (P, H, W) bool in pixels of ``batch["image"]``.

        Raises:
            ValueError: Where the method was built without masks.
        """
        found = self._find(batch)
        if found.masks is None:
            raise ValueError("this MaskRCNN predicts no masks; build it with masks=True.")
        size = (int(batch["image"].shape[-2]), int(batch["image"].shape[-1]))
        pasted = paste_masks_in_image(found.masks[:, None], found.boxes, size)[:, 0]
        return self._poses(found, batch), pasted > _MASK

    def _poses(self, found: FoundRegions, batch: PoseBatch) -> Poses:
        keypoints, scores = self.codec.decode(found.keypoint_logits, found.boxes)
        return poses_from_pictures(keypoints, scores, found.scores, found.rows, batch, found.boxes)


def _targets(batch: PoseBatch, sizes: list[tuple[int, int]], masks: bool) -> list[dict[str, Tensor]]:
    """Sort the people of a batch by picture; those whose box is empty inside of the picture are left out."""
    if "box" not in batch:
        raise DatasetError(
            "MaskRCNN learns boxes, but the batch has no 'box': (N, 4), x0, y0, x1, y1 in pixels of 'image'."
        )
    owners = person_images(batch)
    targets = []
    for row, (height, width) in enumerate(sizes):
        boxes = batch["box"].float()
        limits = boxes.new_tensor([width, height, width, height])
        boxes = boxes.clamp(min=0).minimum(limits)
        there = (owners == row) & (boxes[:, 2:] - boxes[:, :2] >= _LEAST_SIDE).all(dim=1)
        target = {
            "boxes": boxes[there],
            "labels": there.new_ones(int(there.sum()), dtype=torch.int64),
            "keypoints": batch["keypoints"][there].float(),
            "visibility": batch["visibility"][there],
        }
        if masks and "mask" in batch:
            target["masks"] = batch["mask"][there]
        if "ignore" in batch:
            target["ignore"] = batch["ignore"][row]
        targets.append(target)
    return targets
