"""torchvision's Keypoint R-CNN and Mask R-CNN of persons: ``MaskRCNN``, whose network has the same names.

They were trained on RGB with ImageNet's mean and deviation. The published ``keypointrcnn_resnet50_fpn_coco-fc266e95``
has nothing added to the variance of its batch norm: ``MaskRCNN(batch_norm="frozen_eps0")``.
"""

from __future__ import annotations

import re

__all__ = ["rename"]


def rename(key: str) -> str | None:
    """Name an entry of a state dict as ``MaskRCNNNetwork`` does.

    Args:
        key: As in the file; files of before 2022 have other names in the pyramid, the proposals and the masks.

    Returns:
        Our name; None for counters of batches, which frozen batch norm does not have.
    """
    if key.endswith("num_batches_tracked"):
        return None
    key = re.sub(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", key)
    key = re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", key)
    if match := re.fullmatch(r"roi_heads\.mask_head\.mask_fcn(\d)\.(.+)", key):
        return f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}"
    return key
