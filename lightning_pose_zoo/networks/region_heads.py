"""What is predicted of each region of a picture: whether it is a person, a better box, keypoints and a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_loss

from lightning_pose_zoo.codecs.region_heatmap import RegionHeatmapCodec
from lightning_pose_zoo.networks.region_proposals import PyramidRoIAlign, Targets, leave_out_ignored

__all__ = ["FoundRegions", "HeadSizes", "PersonHeads", "RegionSettings"]

_CLASSES = 2  # nobody, a person
_BOX_CELLS, _MASK_CELLS = 7, 14
_PERSON = 0.5  # intersection over union of a region with a person's box


class HeadSizes(nn.Module):
    """How large the network is beside its backbone; a property of the weights.

    Args:
        anchors: Square root of the area of the anchors at strides 4, 8, 16, 32 and 64, pixels.
        pyramid: Channels of the feature pyramid.
        box: Width of the two layers that a region's class and box are read from.
        keypoint: Channels of the convolutions before the keypoints' maps.
        keypoint_cells: Side of what is cut out for keypoints; their maps have four times as many cells a side.
        mask: Channels of the convolutions before the masks.

    Raises:
        ValueError: Where there are not five sizes of anchors, or no convolution before keypoints or masks.
    """

    def __init__(
        self,
        anchors: Sequence[int] = (32, 64, 128, 256, 512),
        pyramid: int = 256,
        box: int = 1024,
        keypoint: Sequence[int] = (512,) * 8,
        keypoint_cells: int = 14,
        mask: Sequence[int] = (256,) * 4,
    ) -> None:
        super().__init__()
        if len(anchors) != 5 or not keypoint or not mask:
            raise ValueError(
                f"anchors are {list(anchors)}, keypoint {list(keypoint)} and mask {list(mask)}; give five sizes of "
                "anchors, and at least one convolution each."
            )
        self.anchors = tuple(anchors)
        self.pyramid = pyramid
        self.box = box
        self.keypoint = tuple(keypoint)
        self.keypoint_cells = keypoint_cells
        self.mask = tuple(mask)

    def extra_repr(self) -> str:
        """Show the sizes when a method is printed, and in checkpoints."""
        return (
            f"anchors={list(self.anchors)}, pyramid={self.pyramid}, box={self.box}, keypoint={list(self.keypoint)}, "
            f"keypoint_cells={self.keypoint_cells}, mask={list(self.mask)}"
        )


class RegionSettings(nn.Module):
    """How many regions are looked at, and which of them count; no property of the weights, free to change.

    Args:
        train_proposals: Proposals kept in training: of each level before suppression, and of a picture after it.
        test_proposals: The same in evaluation.
        sampled: Regions of a picture that the losses are taken over.
        persons: The most of them that are persons, as a share.
        min_score: Least score of a person that is found.
        overlap: Of two boxes whose intersection over union is above this, the better one is kept.
        most: The most persons that are found in a picture.
    """

    def __init__(
        self,
        train_proposals: tuple[int, int] = (2000, 2000),
        test_proposals: tuple[int, int] = (1000, 1000),
        sampled: int = 512,
        persons: float = 0.25,
        min_score: float = 0.05,
        overlap: float = 0.5,
        most: int = 100,
    ) -> None:
        super().__init__()
        self.train_proposals = (int(train_proposals[0]), int(train_proposals[1]))
        self.test_proposals = (int(test_proposals[0]), int(test_proposals[1]))
        self.sampled = sampled
        self.persons = persons
        self.min_score = min_score
        self.overlap = overlap
        self.most = most


class FoundRegions(NamedTuple):
    """P persons that were found in the pictures of a batch, picture after picture, the surest of each first.

    Attributes:
        rows: (P,) int64, the picture of each.
        boxes: (P, 4), pixels.
        scores: (P,), probability that it is a person.
        keypoint_logits: (P, K, S, S) over the box.
        masks: (P, M, M) probabilities over the box; None without masks.
    """

    rows: Tensor
    boxes: Tensor
    scores: Tensor
    keypoint_logits: Tensor
    masks: Tensor | None


class PersonHeads(RoIHeads):
    """The heads; entries are named as torchvision names them.

    Args:
        sizes: How large they are.
        regions: How many regions are looked at.
        keypoints: K.
        masks: Predict masks too.
        box_beta: Where the loss of boxes turns from squares to absolute values.
        detectron2: Cut regions out as detectron2 does.
    """

    def __init__(
        self,
        sizes: HeadSizes,
        regions: RegionSettings,
        keypoints: int,
        masks: bool = False,
        box_beta: float = 1 / 9,
        detectron2: bool = False,
    ) -> None:
        channels = sizes.pyramid
        super().__init__(
            PyramidRoIAlign(_BOX_CELLS, detectron2),
            TwoMLPHead(channels * _BOX_CELLS**2, sizes.box),
            FastRCNNPredictor(sizes.box, _CLASSES),
            _PERSON, _PERSON, regions.sampled, regions.persons, None, regions.min_score, regions.overlap, regions.most,
            keypoint_roi_pool=PyramidRoIAlign(sizes.keypoint_cells, detectron2),
            keypoint_head=KeypointRCNNHeads(channels, sizes.keypoint),
            keypoint_predictor=KeypointRCNNPredictor(sizes.keypoint[-1], keypoints),
        )  # fmt: skip
        if masks:
            self.mask_roi_pool = PyramidRoIAlign(_MASK_CELLS, detectron2)
            self.mask_head = MaskRCNNHeads(channels, sizes.mask, 1)
            self.mask_predictor = MaskRCNNPredictor(sizes.mask[-1], sizes.mask[-1], _CLASSES)
        self.box_beta = box_beta

    def _box_outputs(self, features: dict[str, Tensor], regions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits (n, 2) and the changes of the boxes (n, 8) of regions."""
        logits, changes = self.box_predictor(self.box_head(self.box_roi_pool(features, regions)))
        return logits.float(), changes.float()

    def _keypoint_logits(self, features: dict[str, Tensor], regions: Sequence[Tensor]) -> Tensor:
        maps: Tensor = self.keypoint_predictor(self.keypoint_head(self.keypoint_roi_pool(features, regions)))
        return maps.float()

    def _mask_logits(self, features: dict[str, Tensor], regions: Sequence[Tensor]) -> Tensor:
        masks: Tensor = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, regions)))
        return masks.float()

    def losses(
        self, features: dict[str, Tensor], proposals: list[Tensor], targets: Targets, codec: RegionHeatmapCodec
    ) -> dict[str, Tensor]:
        """Return the losses ``classes``, ``boxes``, ``keypoints`` and, with masks, ``masks``.

        Args:
            features: The pyramid.
            proposals: Of each picture, (n, 4) pixels.
            targets: Who is in each picture.
            codec: Finds the cells of keypoints.
        """
        regions, matched, labels, aims = self._training_regions(proposals, targets)
        logits, changes = self._box_outputs(features, regions)
        losses = self._box_losses(logits, changes, torch.cat(labels), torch.cat(aims))
        persons = [label > 0 for label in labels]
        regions = [region[person] for region, person in zip(regions, persons, strict=True)]
        matched = [match[person] for match, person in zip(matched, persons, strict=True)]
        losses["keypoints"] = _keypoint_loss(self._keypoint_logits(features, regions), regions, matched, targets, codec)
        if self.has_mask():
            losses["masks"] = self._mask_loss(features, regions, matched, targets)
        return losses

    def _training_regions(
        self, proposals: list[Tensor], targets: Targets
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Draw regions; return them with whom each is matched to, its label and what its box should be."""
        boxes = [target["boxes"] for target in targets]
        proposals = self.add_gt_proposals(proposals, boxes)
        matched, labels = self.assign_targets_to_proposals(proposals, boxes, [target["labels"] for target in targets])
        labels = leave_out_ignored(labels, proposals, targets)
        drawn = self.subsample(labels)
        regions, matched, labels = (
            [values[place] for values, place in zip(lists, drawn, strict=True)]
            for lists in (proposals, matched, labels)
        )
        # Where nobody is, background is matched to a box that no loss looks at.
        nobody = proposals[0].new_zeros(1, 4)
        whose = [(box if len(box) else nobody)[match] for box, match in zip(boxes, matched, strict=True)]
        return regions, matched, labels, list(self.box_coder.encode(whose, regions))

    def _box_losses(self, logits: Tensor, changes: Tensor, labels: Tensor, aims: Tensor) -> dict[str, Tensor]:
        if not len(labels):
            return {"classes": logits.sum() * 0, "boxes": changes.sum() * 0}
        persons = (labels > 0).nonzero().flatten()
        changed = changes.view(len(labels), -1, 4)[persons, labels[persons]]
        boxes = F.smooth_l1_loss(changed, aims[persons], beta=self.box_beta, reduction="sum") / labels.numel()
        return {"classes": F.cross_entropy(logits, labels), "boxes": boxes}

    def _mask_loss(
        self, features: dict[str, Tensor], regions: list[Tensor], matched: list[Tensor], targets: Targets
    ) -> Tensor:
        """Return the loss over the persons whose mask is known."""
        kept, whose, masks = [], [], []
        for region, match, target in zip(regions, matched, targets, strict=True):
            mask = target.get("masks")
            known = match.new_zeros(len(match), dtype=torch.bool) if mask is None else mask.any(dim=(1, 2))[match]
            kept.append(region[known])
            whose.append(match[known])
            masks.append(torch.zeros(1, 1, 1, device=region.device) if mask is None else mask)
        logits = self._mask_logits(features, kept)
        loss: Tensor = maskrcnn_loss(logits, kept, masks, [target["labels"] for target in targets], whose)
        return loss

    def find(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> FoundRegions:
        """Find persons.

        Args:
            features: The pyramid.
            proposals: Of each picture, (n, 4) pixels.
            image_sizes: Height and width of each picture, which boxes are clipped to.
        """
        logits, changes = self._box_outputs(features, proposals)
        boxes, scores, labels = self.postprocess_detections(logits, changes, proposals, image_sizes)
        rows = torch.cat([label.new_full((len(label),), row) for row, label in enumerate(labels)])
        masks = None
        if self.has_mask():
            masks = self._mask_logits(features, boxes)[torch.arange(len(rows)), torch.cat(labels)].sigmoid()
        return FoundRegions(rows, torch.cat(boxes), torch.cat(scores), self._keypoint_logits(features, boxes), masks)


def _keypoint_loss(
    logits: Tensor, regions: list[Tensor], matched: list[Tensor], targets: Targets, codec: RegionHeatmapCodec
) -> Tensor:
    """Return the mean cross-entropy over all labelled keypoints inside of their regions; 0 where there are none."""
    keypoints = torch.cat([target["keypoints"][match] for target, match in zip(targets, matched, strict=True)])
    visibility = torch.cat([target["visibility"][match] for target, match in zip(targets, matched, strict=True)])
    cells, counted = codec.encode(keypoints, visibility, torch.cat(regions), logits.shape[-1])
    if not counted.any():
        return logits.sum() * 0
    return F.cross_entropy(logits.flatten(2)[counted], cells[counted])
