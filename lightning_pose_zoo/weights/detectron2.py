"""detectron2's Keypoint R-CNN with a feature pyramid: ``MaskRCNN(layout="detectron2")``.

They were trained on BGR in 0..255 less a mean. Its classes have the background last and no box of the background, which
is turned here: ours have the background first.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

__all__ = ["PIXELS", "rename", "with_background"]

PIXELS = ((103.53 / 255, 116.28 / 255, 123.675 / 255), (1 / 255,) * 3, "bgr")

_SIMPLE = {
    "proposal_generator.rpn_head.conv": "rpn.head.conv.0.0",
    "proposal_generator.rpn_head.objectness_logits": "rpn.head.cls_logits",
    "proposal_generator.rpn_head.anchor_deltas": "rpn.head.bbox_pred",
    "roi_heads.box_head.fc1": "roi_heads.box_head.fc6",
    "roi_heads.box_head.fc2": "roi_heads.box_head.fc7",
    "roi_heads.box_predictor.cls_score": "roi_heads.box_predictor.cls_score",
    "roi_heads.box_predictor.bbox_pred": "roi_heads.box_predictor.bbox_pred",
    "roi_heads.keypoint_head.score_lowres": "roi_heads.keypoint_predictor.kps_score_lowres",
    "roi_heads.mask_head.deconv": "roi_heads.mask_predictor.conv5_mask",
    "roi_heads.mask_head.predictor": "roi_heads.mask_predictor.mask_fcn_logits",
}


def rename(key: str) -> str | None:
    """Name an entry of a state dict as ``MaskRCNNNetwork`` does.

    Args:
        key: As in the file.

    Returns:
        Our name; None for anchors, pixel means and counters, which are no weights.
    """
    module, _, entry = key.rpartition(".")
    if key.endswith("num_batches_tracked"):
        return None
    if module in _SIMPLE:
        return f"{_SIMPLE[module]}.{entry}"
    if match := re.fullmatch(r"backbone\.fpn_(lateral|output)([2-5])", module):
        blocks = "inner_blocks" if match[1] == "lateral" else "layer_blocks"
        return f"backbone.fpn.{blocks}.{int(match[2]) - 2}.0.{entry}"
    if match := re.fullmatch(r"roi_heads\.keypoint_head\.conv_fcn(\d+)", module):
        return f"roi_heads.keypoint_head.{2 * (int(match[1]) - 1)}.{entry}"
    if match := re.fullmatch(r"roi_heads\.mask_head\.mask_fcn(\d+)", module):
        return f"roi_heads.mask_head.{int(match[1]) - 1}.0.{entry}"
    if match := re.fullmatch(r"backbone\.bottom_up\.stem\.conv1(\.norm)?", module):
        return f"backbone.body.{'bn1' if match[1] else 'conv1'}.{entry}"
    if match := re.fullmatch(r"backbone\.bottom_up\.res([2-5])\.(\d+)\.(conv\d|shortcut)(\.norm)?", module):
        layer, normed = match[3], match[4] is not None
        own = layer.replace("conv", "bn") if normed else layer
        place = f"downsample.{int(normed)}" if layer == "shortcut" else own
        return f"backbone.body.layer{int(match[1]) - 1}.{match[2]}.{place}.{entry}"
    return None


def with_background(name: str, value: Tensor) -> Tensor:
    """Bring what the classes have channels for into our order, the background first.

    Args:
        name: Ours, of the entry.
        value: As in the file.
    """
    if name.startswith("roi_heads.box_predictor.cls_score."):
        return value.roll(1, dims=0)
    channels = {"roi_heads.box_predictor.bbox_pred.": 4, "roi_heads.mask_predictor.mask_fcn_logits.": 1}
    for part, each in channels.items():
        if name.startswith(part):
            return torch.cat([value.new_zeros(each, *value.shape[1:]), value])
    return value
