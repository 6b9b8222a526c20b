"""Convolutional Pose Machines of mmpose: ``ConvolutionalPoseMachine(variant="mmpose", center_map=False)``.

They were trained on RGB with ImageNet's mean and deviation, against Gaussians of sigma 2 cells in the ``msra``
convention, at stride 8.
"""

from __future__ import annotations

import re

__all__ = ["rename"]


def rename(key: str) -> str | None:
    """Name an entry of a state dict as ``ConvolutionalPoseMachineNetwork`` does.

    Args:
        key: As in the file; the prefix ``backbone.`` may be there.

    Returns:
        Our name; None for entries of no such network.
    """
    key = key.removeprefix("backbone.")
    if match := re.fullmatch(r"stem\.([024])\.(.+)", key):
        return f"trunk.{match[1]}.{match[2]}"
    if match := re.fullmatch(r"stem\.([678])\.(.+)", key):
        return f"stage1.{int(match[1]) - 6}.{match[2]}"
    if match := re.fullmatch(r"stem\.9\.conv\.(.+)", key):
        return f"stage1.3.{match[1]}"
    if match := re.fullmatch(r"middle\.([024])\.(.+)", key):
        return f"second_trunk.{match[1]}.{match[2]}"
    if match := re.fullmatch(r"middle_conv\.(\d+)\.0\.(.+)", key):
        return f"stages.{match[1]}.features.{match[2]}"
    if match := re.fullmatch(r"cpm_stages\.(\d+)\.model\.([012])\.(.+)", key):
        return f"stages.{match[1]}.convs.{match[2]}.{match[3]}"
    if match := re.fullmatch(r"out_convs\.(\d+)\.0\.(.+)", key):
        return f"stages.{match[1]}.convs.3.{match[2]}"
    if match := re.fullmatch(r"out_convs\.(\d+)\.1\.conv\.(.+)", key):
        return f"stages.{match[1]}.head.{match[2]}"
    return None
