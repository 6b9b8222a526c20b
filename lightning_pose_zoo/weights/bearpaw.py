"""Hourglasses of bearpaw's pytorch-pose repository (``hg1`` to ``hg8``): ``StackedHourglass(stem="bearpaw")``.

They were trained on RGB in 0..1 less the data set's mean, without a division by the deviation.
"""

from __future__ import annotations

import re

__all__ = ["rename"]

_STEM = {"conv1": "conv", "bn1": "bn", "layer1.0": "res1", "layer2.0": "res2", "layer3.0": "res3"}
_PLACES = ("up", "low_in", "low_out")
_PARTS = {"res": "residual", "fc": "lin", "score": "head", "fc_": "merge_features", "score_": "merge_maps"}


def rename(key: str) -> str | None:
    """Name an entry of a state dict as ``StackedHourglassNetwork`` does.

    The repository counts the levels of an hourglass from the innermost one, we from the outermost.

    Args:
        key: As in the file, without the prefix ``module.``.

    Returns:
        Our name; None for entries of no such network.
    """
    key = key.replace(".downsample.0.", ".skip.")
    if match := re.fullmatch(r"(conv1|bn1|layer[123]\.0)\.(.+)", key):
        return f"stem.{_STEM[match[1]]}.{match[2]}"
    if match := re.fullmatch(r"hg\.(\d+)\.hg\.(\d)\.([0-3])\.(.+)", key):
        stack, level, place, rest = match[1], 3 - int(match[2]), int(match[3]), match[4]
        if place == 3:
            return f"stacks.{stack}.hourglass.bottom.{rest}"
        return f"stacks.{stack}.hourglass.levels.{level}.{_PLACES[place]}.{rest}"
    if match := re.fullmatch(r"(res|fc_?|score_?)\.(\d+)\.(.+)", key):
        return f"stacks.{match[2]}.{_PARTS[match[1]]}.{match[3]}"
    return None
