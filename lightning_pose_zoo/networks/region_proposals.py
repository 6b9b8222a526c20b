"""Regions where somebody may be, and what of a pyramid lies in a region; for ``networks.mask_rcnn``.

Regions and what is reckoned with them are float32 under every precision: coordinates of large pictures do not fit into
half precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import roi_align

from lightning_pose_zoo.networks.feature_pyramid import STRIDES

__all__ = ["Anchors", "PersonProposals", "PyramidRoIAlign", "Targets", "leave_out_ignored"]

Targets = Sequence[dict[str, Tensor]]
"""For each picture: ``boxes`` (n, 4) pixels, ``labels`` (n,) int64 of ones, ``keypoints`` (n, K, 2) pixels,
``visibility`` (n, K), and where they are known ``masks`` (n, H, W) bool and ``ignore`` (H, W) bool."""

_RATIOS = (0.5, 1.0, 2.0)  # height to width
# Of the published networks: intersection over union of an anchor with a person, or with none, the number that a
# picture's loss is taken over, and how many of these at most are persons.
_PERSON, _NOBODY, _SAMPLED, _SHARE = 0.7, 0.3, 256, 0.5
_NMS = 0.7
_MOST_IGNORED = 0.5


class Anchors(AnchorGenerator):
    """Boxes around every cell of every level, in float32.

    Args:
        sizes: Square root of the area of the anchors of each level, pixels.
        rounded: Round their sides to whole pixels, as torchvision does.
    """

    def __init__(self, sizes: Sequence[int], rounded: bool = True) -> None:
        self.rounded = rounded
        super().__init__(tuple((size,) for size in sizes), (_RATIOS,) * len(sizes))

    def generate_anchors(
        self,
        scales: Sequence[int],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        """Return the anchors around the origin, (n, 4)."""
        if self.rounded:
            rounded: Tensor = super().generate_anchors(scales, aspect_ratios, dtype, device or torch.device("cpu"))
            return rounded
        sides = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()[:, None]
        sizes = torch.as_tensor(scales, dtype=dtype, device=device)[None]
        widths, heights = (sizes / sides).flatten(), (sizes * sides).flatten()
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2

    def forward(self, image_list: ImageList, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the anchors of each picture, (n, 4) float32, level after level."""
        # Only shape, type and device of the maps are looked at.
        maps = [level.new_empty(1, dtype=torch.float32).expand(level.shape) for level in feature_maps]
        anchors: list[Tensor] = super().forward(image_list, maps)
        return anchors


class PersonProposals(RegionProposalNetwork):
    """Proposes regions. Anchors over what is ignored are trained neither as persons nor as background.

    Args:
        channels: Of the pyramid.
        anchors: The boxes that proposals start from.
        train: How many are kept before and after suppression in training; before suppression of each level.
        test: The same in evaluation.
    """

    def __init__(self, channels: int, anchors: Anchors, train: tuple[int, int], test: tuple[int, int]) -> None:
        before, after = ({"training": train[stage], "testing": test[stage]} for stage in (0, 1))
        head = RPNHead(channels, anchors.num_anchors_per_location()[0])
        super().__init__(anchors, head, _PERSON, _NOBODY, _SAMPLED, _SHARE, before, after, _NMS)

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: Targets | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Propose regions, and take the losses where targets are given.

        Args:
            images: Pictures and the size of each.
            features: The pyramid.
            targets: Who is in each picture.

        Returns:
            The proposals of each picture, (n, 4) float32 pixels; the losses ``objectness`` and ``proposals``.
        """
        maps = list(features.values())
        logits, deltas = self.head(maps)
        anchors = self.anchor_generator(images, maps)
        counts = [level[0].numel() for level in logits]
        logits, deltas = (flat.float() for flat in concat_box_prediction_layers(logits, deltas))
        proposals = self.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
        boxes, _ = self.filter_proposals(proposals, logits, images.image_sizes, counts)
        if targets is None:
            return boxes, {}
        labels, matched = self.assign_targets_to_anchors(anchors, targets)
        labels = leave_out_ignored(labels, anchors, targets)
        if not any((label >= 0).any() for label in labels):
            return boxes, {"objectness": logits.sum() * 0, "proposals": deltas.sum() * 0}
        aims = self.box_coder.encode(matched, anchors)
        objectness, places = self.compute_loss(logits, deltas, labels, aims)
        return boxes, {"objectness": objectness, "proposals": places}


def leave_out_ignored(labels: list[Tensor], boxes: list[Tensor], targets: Targets) -> list[Tensor]:
    """Let background boxes count nothing that more than half lie in what is ignored.

    Args:
        labels: For each picture (n,): 0 background, above 0 a person, -1 counts nothing.
        boxes: For each picture (n, 4), pixels.
        targets: Who is in each picture, and what of it is ignored.

    Returns:
        The labels, some of 0 turned to -1.
    """
    left: list[Tensor] = []
    for label, box, target in zip(labels, boxes, targets, strict=True):
        mask = target.get("ignore")
        if mask is not None and bool(mask.any()):
            label = torch.where((label == 0) & (_share_inside(box, mask) > _MOST_IGNORED), -1, label).to(label.dtype)
        left.append(label)
    return left


def _share_inside(boxes: Tensor, mask: Tensor) -> Tensor:
    """Return the share of each box (n, 4) that a mask (H, W) covers, of what of the box is inside of the picture."""
    height, width = mask.shape
    sums = nn.functional.pad(mask.int().cumsum(0).cumsum(1), (1, 0, 1, 0))
    x0, x1 = (boxes[:, side].round().long().clamp(0, width) for side in (0, 2))
    y0, y1 = (boxes[:, side].round().long().clamp(0, height) for side in (1, 3))
    inside = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    return inside / ((x1 - x0) * (y1 - y0)).clamp(min=1)


class PyramidRoIAlign(nn.Module):
    """Cuts regions out of the pyramid's level that fits their size (RoIAlign).

    Args:
        cells: Of the side of what is cut out.
        detectron2: Count pixels by their middles and read as many points in a cell as it covers, as detectron2 does;
            else two by two.
    """

    def __init__(self, cells: int, detectron2: bool = False) -> None:
        super().__init__()
        self.cells = cells
        self.detectron2 = detectron2

    def forward(self, features: dict[str, Tensor], boxes: Sequence[Tensor], image_shapes: object = None) -> Tensor:
        """Return what lies in regions, (n, channels, cells, cells), picture after picture.

        Args:
            features: The pyramid; its top level is not read.
            boxes: The regions of each picture, (n, 4), pixels.
            image_shapes: Not looked at; strides are known.
        """
        maps = [features[str(level)] for level in range(len(STRIDES))]
        rows = torch.cat([boxes[row].new_full((len(boxes[row]), 1), row) for row in range(len(boxes))])
        regions = torch.cat([rows, torch.cat(list(boxes))], dim=1)
        sides = ((regions[:, 3] - regions[:, 1]) * (regions[:, 4] - regions[:, 2])).sqrt()
        # Of the paper: a region of 224 pixels is read from stride 16.
        levels = (4 + (sides / 224).log2() + 1e-6).floor().clamp(2, 5).long() - 2
        cut = maps[0].new_zeros(len(regions), maps[0].shape[1], self.cells, self.cells)
        for level, (stage, stride) in enumerate(zip(maps, STRIDES, strict=True)):
            of_level = (levels == level).nonzero().flatten()
            read = roi_align(
                stage.float(), regions[of_level].float(), self.cells, 1 / stride,
                sampling_ratio=0 if self.detectron2 else 2, aligned=self.detectron2,
            )  # fmt: skip
            cut = cut.index_put((of_level,), read.to(cut.dtype))
        return cut
