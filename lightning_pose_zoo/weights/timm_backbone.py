"""Weights of a backbone alone, named as timm and torchvision name them: a classifier without its last layers."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["feature_names", "rename"]

# The classifier, and what HRNet's classifier has that its pose network does not read.
_UNUSED = re.compile(r"(fc|classifier|head|last_linear|final_layer|incre_modules|downsamp_modules)\.|"
                     r"stage4\.\d+\.fuse_layers\.[123]\.")  # fmt: skip


def rename(key: str) -> str | None:
    """Put an entry into the network's ``backbone``; None for what classifies."""
    key = key.removeprefix("backbone.")
    return None if _UNUSED.match(key) else f"backbone.{key}"


def feature_names(names: Iterable[str], own: Iterable[str]) -> dict[str, str]:
    """Name entries as timm does where it cuts a model into stages: ``stages.0`` is ``stages_0`` then.

    Args:
        names: Names of a whole model's entries, below ``backbone``.
        own: Names of the network's entries.

    Returns:
        The network's name of each; entries of stages that the network does not have are left out.
    """
    flat = {key.replace(".", "_"): key for key in own}
    stages = {_stage(key) for key in flat.values()}
    named = {name: flat.get(name.replace(".", "_"), name) for name in names}
    return {name: place for name, place in named.items() if _stage(place) in stages}


def _stage(name: str) -> str:
    """Return the part of a name that tells the stage; mobile networks count theirs below ``blocks``."""
    parts = name.split(".")
    return ".".join(parts[: 3 if parts[1] == "blocks" else 2])
