"""The projects whose checkpoints are known: how to tell them, and what their weights expect."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor

from lightning_pose_zoo.errors import CheckpointError
from lightning_pose_zoo.skeletons import SKELETON_NAMES, Skeleton, SkeletonLike, get_skeleton
from lightning_pose_zoo.weights import (
    alphapose,
    bearpaw,
    detectron2,
    mmpose,
    mmpose_cpm,
    official,
    openpose,
    princeton,
    timm_backbone,
    torchvision_keypointrcnn,
)
from lightning_pose_zoo.weights.reading import TrainedWeights

__all__ = ["BACKBONE", "PLAIN", "SOURCES", "Pixels", "Source", "foreign", "recognized", "skeleton_of"]


class Pixels(NamedTuple):
    """What weights were trained to see; the arguments of ``Normalization``."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channel_order: Literal["rgb", "bgr"] = "rgb"


@dataclass(frozen=True, eq=False)
class Source:
    """A project whose checkpoints can be read.

    Attributes:
        name: What it is called in messages.
        markers: Regular expressions; each must match the beginning of an entry's name.
        rename: From the file's name of an entry to our network's; None for entries that no network needs.
        pixels: What the weights expect of pixels; None where that is unknown.
        convention: The codec's convention that they were trained with; empty where it is unknown or none.
        skeletons: The skeleton that is meant, by its number of keypoints, where the file does not say.
        stem: The stem of its hourglasses, where that cannot be told by their layers.
        part: What the names begin with of the network's entries that the files fill; empty where they fill all.
        arguments: What the method must be given for them, where that cannot be told by their layers.
        value: From our name of an entry and its value in the file to our network's value.
    """

    name: str
    markers: tuple[str, ...]
    rename: Callable[[str], str | None]
    pixels: Pixels | None = None
    convention: str = ""
    skeletons: Mapping[int, str] = field(default_factory=dict)
    stem: str = "newell"
    part: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    value: Callable[[str, Tensor], Tensor] = lambda name, value: value  # noqa: ARG005

    def recognizes(self, keys: Iterable[str]) -> bool:
        """Tell by the entries' names whether a file is of this source."""
        names = list(keys)
        return all(any(re.match(marker, name) for name in names) for marker in self.markers)

    def renamed(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Name a file's entries as our networks do, leaving out what no network needs."""
        named = ((self.rename(key), value) for key, value in state.items())
        return {name: self.value(name, value) for name, value in named if name is not None}


_TWO_COMMON = {17: "coco17", 16: "mpii16"}
_MMPOSE_HEAD = r"(keypoint_)?head\."
_OPENPOSE = r"(model\d(_\d)?\.)?"

SOURCES = (
    Source("lightning_pose_zoo", (r"network\.",), lambda key: key.removeprefix("network.")
           if key.startswith("network.") else None),
    Source("mmpose CPM", (r"backbone\.stem\.0\.conv\.weight", r"backbone\.cpm_stages\."), mmpose_cpm.rename,
           Pixels(), "msra", _TWO_COMMON),
    Source("mmpose HRNet", (r"backbone\.stage4\.", _MMPOSE_HEAD + r"final_layer\.weight"), mmpose.rename,
           Pixels(), "msra", _TWO_COMMON),
    Source("mmpose ResNet with transposed convolutions", (r"backbone\.layer3\.", _MMPOSE_HEAD + r"deconv_layers\."),
           mmpose.rename, Pixels(), "msra", _TWO_COMMON),
    Source("mmpose ResNet with coordinates", (r"backbone\.layer3\.", _MMPOSE_HEAD + r"fc\.weight"),
           mmpose.rename_regression, Pixels(), "mmpose", _TWO_COMMON, part="stages.0."),
    Source("HRNet repository", (r"conv1\.weight", r"stage4\.", r"final_layer\.weight"), official.rename,
           Pixels(), "msra", _TWO_COMMON),
    Source("Simple Baselines repository", (r"layer3\.", r"deconv_layers\.", r"final_layer\.weight"), official.rename,
           Pixels(channel_order="bgr"), "msra", _TWO_COMMON),
    Source("bearpaw/pytorch-pose", (r"hg\.0\.hg\.", r"score\.0\.weight"), bearpaw.rename,
           Pixels((0.4404, 0.4440, 0.4327), (1.0, 1.0, 1.0)), "center", {16: "mpii16"}),
    Source("princeton-vl/pytorch_stacked_hourglass", (r"pre\.0\.conv\.weight", r"outs\.0\.conv\.weight"),
           princeton.rename, Pixels((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), "center", {16: "mpii16"}, "princeton"),
    Source("OpenPose, first version", (_OPENPOSE + r"conv5_1_CPM_L1\.", _OPENPOSE + r"Mconv7_stage6_L2\."),
           openpose.rename_v1, Pixels((128 / 255,) * 3, (256 / 255,) * 3, "bgr"), "openpose", {17: "coco17"}),
    Source("OpenPose, second version", (_OPENPOSE + r"Mconv1_stage0_L2_0\.", _OPENPOSE + r"Mconv7_stage1_L1\."),
           openpose.rename_v2, Pixels((128 / 255,) * 3, (256 / 255,) * 3, "bgr"), "openpose",
           {17: "coco17", 25: "body25"}),
    Source("torchvision's Keypoint R-CNN", (r"backbone\.body\.", r"rpn\.head\.", r"roi_heads\.keypoint_head\.0\."),
           torchvision_keypointrcnn.rename, Pixels(), skeletons={17: "coco17"},
           arguments={"batch_norm": "frozen_eps0"}),
    Source("detectron2's Keypoint R-CNN", (r"backbone\.bottom_up\.res", r"roi_heads\.keypoint_head\.conv_fcn1\."),
           detectron2.rename, Pixels((103.53 / 255, 116.28 / 255, 123.675 / 255), (1 / 255,) * 3, "bgr"),
           skeletons={17: "coco17"},
           arguments={"layout": "detectron2"}, value=detectron2.with_background),
    Source("AlphaPose repository, FastPose", (r"preact\.conv1\.", r"duc1\.conv\.weight", r"conv_out\."),
           alphapose.rename, Pixels((0.406, 0.457, 0.480), (1.0, 1.0, 1.0)), "msra", {17: "coco17"}, part="estimator."),
)  # fmt: skip
"""Recognised in this order."""

PLAIN = Source("a network of this package, without its method", (), lambda key: key)
"""Entries named as the network's own; told by comparing them with a network."""

BACKBONE = Source("a backbone of timm or torchvision", (), timm_backbone.rename, part="backbone.")
"""Told by comparing its entries with a network's backbone."""

# Files that people try, for which there is no network here.
_FOREIGN = {
    "ViTPose": r"backbone\.patch_embed\.",
    "mmpose's regression head": r"(keypoint_)?head\.fc\.",
    "mmpose's SimCC head": r"(keypoint_)?head\.(mlp_head_x|cls_x)\.",
    "torchvision's or detectron2's detector of boxes": r"roi_heads\.box_predictor\.",
    "AlphaPose's other networks": r"preact\.conv1\.",
}


def recognized(keys: Iterable[str]) -> Source | None:
    """Return the source of a file by its entries' names; None where no marker fits."""
    names = list(keys)
    return next((source for source in SOURCES if source.recognizes(names)), None)


def foreign(keys: Iterable[str]) -> str:
    """Return whose file it is where it is none that can be read; empty where that is unknown."""
    names = list(keys)
    return next((who for who, marker in _FOREIGN.items() if any(re.match(marker, name) for name in names)), "")


def skeleton_of(
    trained: TrainedWeights, source: Source, given: SkeletonLike | None, count: int, mine: Skeleton
) -> tuple[Skeleton, list[str]]:
    """Tell which keypoints weights were trained for.

    Args:
        trained: The weights.
        source: Where they come from.
        given: What the user says; goes before all else.
        count: How many keypoints the weights find.
        mine: The method's skeleton, taken where neither file nor source say anything.

    Returns:
        The skeleton, and a remark where it was assumed.

    Raises:
        CheckpointError: Where the skeleton has another number of keypoints, or several would do.
    """
    remedy = "Give the skeleton that it was trained for: load_weights(method, path, skeleton=...)."
    known = [name for name in SKELETON_NAMES if get_skeleton(name).num_keypoints == count]
    theirs = get_skeleton(given) if given is not None else trained.skeleton
    if theirs is not None:
        if theirs.num_keypoints != count:
            raise CheckpointError(
                f"{trained.name} finds {count} keypoints, but skeleton '{theirs.name}' has {theirs.num_keypoints}. "
                + remedy
            )
        return theirs, []
    if count in source.skeletons:
        meant = get_skeleton(source.skeletons[count])
        return meant, [] if meant == mine else [
            f"keypoints: the file does not name its {count}; taken for {meant.name}"
        ]
    if count == mine.num_keypoints and (len(known) < 2 or not source.skeletons):
        return mine, [f"keypoints: the file does not name its {count}; taken in the order of {mine.name}"]
    which = f"which may be those of {', '.join(known)}" if known else "and does not say which"
    raise CheckpointError(f"{trained.name} (read as: {source.name}) finds {count} keypoints, {which}. {remedy}")
