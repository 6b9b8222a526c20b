"""Mask R-CNN for keypoints, with torchvision's parts and torchvision's names of entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from lightning_pose_zoo.codecs.region_heatmap import RegionHeatmapCodec
from lightning_pose_zoo.networks.feature_pyramid import BatchNorm, FeaturePyramid
from lightning_pose_zoo.networks.region_heads import FoundRegions, HeadSizes, PersonHeads, RegionSettings
from lightning_pose_zoo.networks.region_proposals import Anchors, PersonProposals, Targets

__all__ = ["MaskRCNNLayout", "MaskRCNNNetwork"]

MaskRCNNLayout = Literal["torchvision", "detectron2"]
"""Details in which the two public networks differ. ``detectron2``: bottlenecks halve the map in their first
convolution, anchors are not rounded, regions are cut out by the middles of pixels with as many points as they cover,
and the loss of boxes is squared up to 0.5."""


class MaskRCNNNetwork(nn.Module):
    """A feature pyramid, proposals of regions, and heads that look at each region.

    Args:
        keypoints: K.
        backbone: A ResNet of torchvision by name, or a model of timm with stages of stride 4, 8, 16 and 32.
        layout: Whose network it is in the details.
        masks: Predict masks too.
        batch_norm: Whether batch norm in the backbone is trained.
        sizes: How large it is beside the backbone; as published by default.
        regions: How many regions are looked at.
        pretrained: Start the backbone from ImageNet's weights, downloaded at first use.
        freeze: Do not train the stem and the first stage of a ResNet of torchvision.

    Raises:
        ValueError: Where there is no such backbone, or it lacks a stage.
    """

    stride = 32

    def __init__(
        self,
        keypoints: int,
        backbone: str = "resnet50",
        layout: MaskRCNNLayout = "torchvision",
        masks: bool = False,
        batch_norm: BatchNorm = "frozen",
        sizes: HeadSizes | None = None,
        regions: RegionSettings | None = None,
        pretrained: bool = False,
        freeze: bool = False,
    ) -> None:
        super().__init__()
        if layout not in ("torchvision", "detectron2"):
            raise ValueError(f"layout is '{layout}'; there are 'torchvision' and 'detectron2'.")
        sizes, regions = sizes or HeadSizes(), regions or RegionSettings()
        other = layout == "detectron2"
        self.backbone = FeaturePyramid(backbone, pretrained, batch_norm, sizes.pyramid, other, freeze)
        anchors = Anchors(sizes.anchors, rounded=not other)
        self.rpn = PersonProposals(sizes.pyramid, anchors, regions.train_proposals, regions.test_proposals)
        self.roi_heads = PersonHeads(sizes, regions, keypoints, masks, 0.5 if other else 1 / 9, other)

    def forward(self, images: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> FoundRegions:
        """Find persons.

        Args:
            images: (B, 3, H, W), normalised, 0 where filled up; H and W multiples of 32.
            sizes: Height and width of each picture in its upper left corner; all of it by default.
        """
        features, pictures = self._looked_at(images, sizes)
        proposals, _ = self.rpn(pictures, features)
        return self.roi_heads.find(features, proposals, pictures.image_sizes)

    def losses(
        self,
        images: Tensor,
        targets: Targets,
        codec: RegionHeatmapCodec,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses ``objectness``, ``proposals``, ``classes``, ``boxes``, ``keypoints`` and ``masks``.

        Args:
            images: As for ``forward``.
            targets: Who is in each picture, in pixels of ``images``; none of their boxes is empty.
            codec: Finds the cells of keypoints.
            sizes: As for ``forward``.
        """
        features, pictures = self._looked_at(images, sizes)
        proposals, losses = self.rpn(pictures, features, targets)
        of_regions: dict[str, Tensor] = self.roi_heads.losses(features, proposals, targets, codec)
        return losses | of_regions

    def _looked_at(
        self, images: Tensor, sizes: Sequence[tuple[int, int]] | None
    ) -> tuple[dict[str, Tensor], ImageList]:
        whole = (int(images.shape[-2]), int(images.shape[-1]))
        return self.backbone(images), ImageList(images, list(sizes or [whole] * len(images)))
