"""OpenPose's released networks, by the names that their Caffe layers have in every conversion to PyTorch.

``OpenPose("coco17", "v1")`` reads ``body_pose_model.pth`` of Hzzone's pytorch-openpose, ``OpenPose("body25", "v2")``
conversions of ``pose_iter_584000``. They were trained on BGR, x / 256 - 0.5, with fields half a cell beside the maps
(``PartAffinityCodec("openpose")``).
"""

from __future__ import annotations

import re

__all__ = ["rename_v1", "rename_v2"]

_BRANCHES_V1 = {"1": "fields", "2": "maps"}
_BRANCHES_V2 = {"2": "fields", "1": "maps"}  # the other way round


def _trunk(key: str) -> str | None:
    """Rename the layers before the stages."""
    if match := re.fullmatch(r"conv4_([34])_CPM\.(.+)", key):
        return f"reduce.{int(match[1]) - 3}.conv.{match[2]}"
    if match := re.fullmatch(r"prelu4_([34])_CPM\.(.+)", key):
        return f"reduce.{int(match[1]) - 3}.act.{match[2]}"
    if match := re.fullmatch(r"(conv[1-4]_[1-4])\.(.+)", key):
        return f"backbone.{match[1]}.conv.{match[2]}"
    if match := re.fullmatch(r"prelu4_2\.(.+)", key):
        return f"backbone.conv4_2.act.{match[1]}"
    return None


def rename_v1(key: str) -> str | None:
    """Name an entry of the first version as ``OpenPoseNetwork`` does.

    Args:
        key: As in the file; pytorch-openpose's own module names may stand before it (``model1_1.``).

    Returns:
        Our name; None for entries of no such network.
    """
    key = re.sub(r"^model\d(_\d)?\.", "", key)
    if match := re.fullmatch(r"conv5_([1-5])_CPM_L([12])\.(.+)", key):
        stage, layer, last = 0, int(match[1]) - 1, match[1] == "5"
        branch, entry = _BRANCHES_V1[match[2]], match[3]
    elif match := re.fullmatch(r"Mconv([1-7])_stage([2-6])_L([12])\.(.+)", key):
        stage, layer, last = int(match[2]) - 1, int(match[1]) - 1, match[1] == "7"
        branch, entry = _BRANCHES_V1[match[3]], match[4]
    else:
        return _trunk(key)
    return f"{branch}.{stage}.{layer}.{entry}" if last else f"{branch}.{stage}.{layer}.conv.{entry}"


def rename_v2(key: str) -> str | None:
    """Name an entry of the second version as ``OpenPoseNetwork`` does.

    Args:
        key: As in the file.

    Returns:
        Our name; None for entries of no such network.
    """
    key = re.sub(r"^model\d(_\d)?\.", "", key)
    if match := re.fullmatch(r"M(conv|prelu)([1-5])_stage(\d)_L([12])_([012])\.(.+)", key):
        layer = "conv" if match[1] == "conv" else "act"
        return f"{_BRANCHES_V2[match[4]]}.{match[3]}.blocks.{int(match[2]) - 1}.{match[5]}.{layer}.{match[6]}"
    if match := re.fullmatch(r"M(conv|prelu)6_stage(\d)_L([12])\.(.+)", key):
        return f"{_BRANCHES_V2[match[3]]}.{match[2]}.hidden.{'conv' if match[1] == 'conv' else 'act'}.{match[4]}"
    if match := re.fullmatch(r"Mconv7_stage(\d)_L([12])\.(.+)", key):
        return f"{_BRANCHES_V2[match[2]]}.{match[1]}.head.{match[3]}"
    return _trunk(key)
