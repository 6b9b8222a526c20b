"""Hourglasses of princeton-vl's PyTorch repository: ``StackedHourglass(stem="princeton")``.

They were trained on RGB in 0..1, nothing subtracted.
"""

from __future__ import annotations

import re

__all__ = ["rename"]

_STEM = {"0": "", "1": "res1.", "3": "res2.", "4": "res3."}
_WIDENING = ("stem.res1", "stem.res3")
_PARTS = {"outs": "head", "merge_features": "merge_features", "merge_preds": "merge_maps"}
_PLACES = {"up1": "up", "low1": "low_in", "low3": "low_out"}


def rename(key: str) -> str | None:
    """Name an entry of a state dict as ``StackedHourglassNetwork`` does.

    Args:
        key: As in the file; the prefixes ``module.`` and ``model.module.`` may be there.

    Returns:
        Our name; None for entries of no such network, and for the convolutions beside residuals that do not change the
        number of channels: the repository has them but never uses them.
    """
    key = re.sub(r"^(model\.)?(module\.)?", "", key)
    renamed = _place(key)
    if renamed is None:
        return None
    # Convolutions are wrapped there, and called conv inside.
    renamed = re.sub(r"\.(conv[123]|skip)\.conv\.", r".\1.", renamed.replace("skip_layer", "skip"))
    if ".skip." in renamed and not renamed.startswith(_WIDENING):
        return None
    return renamed


def _place(key: str) -> str | None:
    """Rename the place in the network, not what is inside a residual."""
    if match := re.fullmatch(r"pre\.([0134])\.(.+)", key):
        return f"stem.{_STEM[match[1]]}{match[2]}"
    if match := re.fullmatch(r"hgs\.(\d+)\.0\.((?:low2\.)*)(up1|low1|low3)\.(.+)", key):
        level = match[2].count("low2")
        return f"stacks.{match[1]}.hourglass.levels.{level}.{_PLACES[match[3]]}.0.{match[4]}"
    if match := re.fullmatch(r"hgs\.(\d+)\.0\.(?:low2\.){4}(.+)", key):
        return f"stacks.{match[1]}.hourglass.bottom.0.{match[2]}"
    if match := re.fullmatch(r"features\.(\d+)\.0\.(.+)", key):
        return f"stacks.{match[1]}.residual.0.{match[2]}"
    if match := re.fullmatch(r"features\.(\d+)\.1\.(conv|bn)\.(.+)", key):
        return f"stacks.{match[1]}.lin.{0 if match[2] == 'conv' else 1}.{match[3]}"
    if match := re.fullmatch(r"(outs|merge_features|merge_preds)\.(\d+)\.(?:conv\.)+(.+)", key):
        return f"stacks.{match[2]}.{_PARTS[match[1]]}.{match[3]}"
    return None
