"""What network a file holds, told by the names and shapes of its entries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Description", "describe", "describe_backbone"]

# Blocks of the four stages, and whether they are bottlenecks, of each ResNet.
_RESNETS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}


@dataclass(frozen=True)
class Description:
    """A network of this package.

    Attributes:
        method: The name of its method.
        arguments: What the method must be given besides the skeleton.
        keypoints: How many it finds.
        recipe: What the names of its recipes begin with.
        sizes: What the network is built with before the arguments; the number of keypoints by default.
    """

    method: str
    arguments: Mapping[str, Any]
    keypoints: int
    recipe: str
    sizes: tuple[int, ...] = ()

    def call(self, skeleton: str) -> str:
        """Write the call that builds the method."""
        arguments = {"skeleton": skeleton, **self.arguments}
        return f"{self.method}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"

    def network(self) -> nn.Module:
        """Build the network, without memory for its weights.

        Raises:
            ValueError: Where this package has no such variant.
        """
        from lightning_pose_zoo import networks

        with torch.device("meta"):
            network: nn.Module = getattr(networks, f"{self.method}Network")(
                *(self.sizes or (self.keypoints,)), **self.arguments
            )
        return network


def describe(
    state: Mapping[str, Tensor], hyper_parameters: Mapping[str, Any], stem: str = "newell"
) -> Description | None:
    """Tell what network entries belong to.

    Args:
        state: Entries, named as our networks name theirs.
        hyper_parameters: Arguments of the method, where the file has them.
        stem: What to call the authors' stem of an hourglass, which ``newell`` and ``princeton`` share.

    Returns:
        The network; None where it is none of this package's, or a backbone alone.
    """
    return (
        _alphapose(state, hyper_parameters)
        or _hrnet(state)
        or _simple_baseline(state, hyper_parameters)
        or _convolutional_pose_machine(state, hyper_parameters)
        or _stacked_hourglass(state, stem)
        or _deeppose(state, hyper_parameters)
        or _mask_rcnn(state, hyper_parameters)
        or _openpose(state, hyper_parameters)
        or _deepcut(state, hyper_parameters)
    )


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Count the different numbers in the place of the pattern's group."""
    return len({match[1] for key in state if (match := re.match(pattern, key))})


def _hrnet(state: Mapping[str, Tensor]) -> Description | None:
    variant, head = _hrnet_variant(state), state.get("final_layer.weight")
    if not variant or head is None:
        return None
    return Description("HRNet", {"variant": variant}, int(head.shape[0]), f"hrnet_{variant}")


def _hrnet_variant(state: Mapping[str, Tensor]) -> str:
    finest = state.get("backbone.stage4.0.branches.0.0.conv1.weight")
    if finest is None:
        return ""
    width = int(finest.shape[0])
    few_blocks = _count(state, r"backbone\.stage2\.0\.branches\.0\.(\d+)\.") < 4
    # timm's smallest variant has 16 channels, whatever its name says.
    return {16: "w18_small", 18: "w18_small_v2"}.get(width, f"w{width}") if few_blocks else f"w{width}"


def _resnet(state: Mapping[str, Tensor]) -> str:
    stages = tuple(_count(state, rf"backbone\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    depth = _RESNETS.get((stages, "backbone.layer1.0.conv3.weight" in state))
    return f"resnet{depth}" if depth else ""


def describe_backbone(state: Mapping[str, Tensor]) -> str:
    """Tell which backbone entries below ``backbone`` are of, as the argument of a method; empty where unknown."""
    variant, resnet = _hrnet_variant(state), _resnet(state)
    if variant:
        return f"HRNet(variant='{variant}')"
    return f"SimpleBaseline(backbone='{resnet}')" if resnet else ""


def _simple_baseline(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> Description | None:
    head = state.get("final_layer.weight")
    if head is None or "deconv_layers.0.weight" not in state:
        return None
    backbone = str(given.get("backbone", _resnet(state)))
    # A name with a colon would have timm fetch a model from where a stranger's file says.
    if not re.fullmatch(r"\w[\w.]*", backbone):
        return None
    widths = [int(value.shape[1]) for key, value in state.items()
              if re.fullmatch(r"deconv_layers\.\d+\.weight", key) and value.ndim == 4]  # fmt: skip
    arguments: dict[str, Any] = {"backbone": backbone}
    if widths != [256, 256, 256]:
        arguments["deconv_channels"] = tuple(widths)
    if given.get("backbone_stride", 32) != 32:
        arguments["backbone_stride"] = given["backbone_stride"]
    return Description(
        "SimpleBaseline", arguments, int(head.shape[0]), f"simple_baseline_{backbone.replace('resnet', 'r')}"
    )


def _stacked_hourglass(state: Mapping[str, Tensor], authors: str) -> Description | None:
    stacks = _count(state, r"stacks\.(\d+)\.head\.weight")
    if not stacks:
        return None
    head = state["stacks.0.head.weight"]
    stem = "bearpaw" if "stem.res2.skip.weight" in state else authors
    arguments: dict[str, Any] = {"stacks": stacks, "stem": stem}
    blocks = _count(state, r"stacks\.0\.hourglass\.bottom\.(\d+)\.")
    if blocks != 1:
        arguments["blocks"] = blocks
    if head.shape[1] != 256:
        arguments["channels"] = int(head.shape[1])
    return Description("StackedHourglass", arguments, int(head.shape[0]), f"hg_s{stacks}")


def _convolutional_pose_machine(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> Description | None:
    first = state.get("stage1.3.weight", state.get("stage1.1.weight"))
    if first is None or not {"trunk.0.conv.weight", "trunk.0.0.conv.weight"} & state.keys():
        return None
    is_vgg = "trunk.0.0.conv.weight" in state
    batch_norm = any(key.endswith("bn.weight") for key in state)
    # In the file of mmpose nothing but features and maps is seen; ours say which variant they are.
    variant = given.get("variant") or ("vgg" if is_vgg else "mmpose" if batch_norm else "original")
    arguments: dict[str, Any] = {"variant": variant}
    stages = 1 + _count(state, r"stages\.(\d+)\.head\.weight")
    if stages != 6:
        arguments["stages"] = stages
    channels = int(first.shape[1]) // 4
    if channels != 128:
        arguments["channels"] = channels
    if variant == "mmpose" or not given.get("center_map", True):
        arguments["center_map"] = False
    recipe = "cpm" if variant == "original" else f"cpm_{variant}"
    return Description("ConvolutionalPoseMachine", arguments, int(first.shape[0]) - (variant != "mmpose"), recipe)


def _deeppose(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> Description | None:
    first = state.get("stages.0.head.weight")
    if first is None or first.ndim != 2:
        return None
    inner = {key.removeprefix("stages.0."): value for key, value in state.items() if key.startswith("stages.0.")}
    is_alexnet = "backbone.full.1.weight" in inner
    backbone = str(given.get("backbone", "alexnet" if is_alexnet else _resnet(inner)))
    # A name with a colon would have timm fetch a model from where a stranger's file says.
    if not re.fullmatch(r"\w[\w.]*", backbone):
        return None
    arguments: dict[str, Any] = {"stages": _count(state, r"stages\.(\d+)\."), "backbone": backbone}
    later = state.get("stages.1.regressors.0.head.weight")
    if later is not None and later.shape[0] == 2:
        several = _count(state, r"stages\.1\.regressors\.(\d+)\.") > 1
        arguments["head"] = "per_joint" if several else "shared_2out"
    recipe = "deeppose" if backbone == "alexnet" else f"deeppose_{backbone.replace('resnet', 'r')}"
    return Description("DeepPose", arguments, int(first.shape[0]) // 2, recipe)


def _mask_rcnn(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> Description | None:
    head = state.get("roi_heads.keypoint_predictor.kps_score_lowres.weight")
    if head is None:
        return None
    inner = {key.replace("body", "backbone", 1).removeprefix("backbone."): value for key, value in state.items()}
    backbone = str(given.get("backbone", _resnet(inner)))
    # A name with a colon would have timm fetch a model from where a stranger's file says.
    if not re.fullmatch(r"\w[\w.]*", backbone):
        return None
    arguments: dict[str, Any] = {"backbone": backbone}
    if any(key.startswith("roi_heads.mask_head.") for key in state):
        arguments["masks"] = True
    arguments |= {name: given[name] for name in ("layout", "batch_norm") if name in given}
    return Description("MaskRCNN", arguments, int(head.shape[1]), f"mask_rcnn_{backbone.replace('resnet', 'r')}")


def _alphapose(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> Description | None:
    inner = {key.removeprefix("estimator."): value for key, value in state.items() if key.startswith("estimator.")}
    heads = (inner.get(f"{name}.weight") for name in ("conv_out", "final_layer", "stacks.0.head"))
    head = next((head for head in heads if head is not None), None)
    if head is None:
        return None
    # Ours say what they are; the files of others are FastPose, with nothing around it.
    names = ("estimator", "backbone", "stacks", "channels")
    arguments: dict[str, Any] = {name: given[name] for name in names if given.get(name) is not None}
    if "conv_out.weight" in inner and "backbone" not in arguments and _resnet(inner):
        arguments["backbone"] = _resnet(inner)
    backbone = str(arguments.get("backbone", ""))
    widths = [int(inner[f"duc{n}.conv.weight"].shape[0]) // 4 for n in (1, 2) if f"duc{n}.conv.weight" in inner]
    if widths not in ([], [256, 128]):
        arguments["channels"] = tuple(widths)
    transformer = given.get("transformer", "resnet18") if "transformer.head.weight" in state else None
    if any(":" in str(name) for name in (backbone, transformer)):
        return None  # timm would fetch a model from where a stranger's file says
    arguments["transformer"] = transformer
    if transformer is not None:
        arguments["parallel"] = any(key.startswith("parallel.") for key in state)
    return Description("AlphaPose", arguments, int(head.shape[0]), f"fastpose_{backbone.replace('resnet', 'r')}")


def _openpose(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> Description | None:
    if "reduce.0.conv.weight" not in state or not any(key.startswith("fields.0.") for key in state):
        return None
    is_second = "fields.0.head.weight" in state
    batch_norm = "reduce.0.bn.weight" in state
    variant = f"v{1 + is_second}{'_bn' * batch_norm}"
    stages = tuple(_count(state, rf"{kind}\.(\d+)\.") for kind in ("fields", "maps"))
    heads = [
        [value for key, value in state.items() if re.match(rf"{kind}\.0\.", key) and value.ndim == 4][-1]
        for kind in ("fields", "maps")
    ]
    limbs, parts = heads[0].shape[0] // 2, heads[1].shape[0] - 1
    arguments: dict[str, Any] = {"variant": variant}
    if stages != ((4, 2) if is_second else (6, 6)):
        arguments["stages"] = stages
    channels = int(state["reduce.1.conv.weight"].shape[0])
    if channels != 128:
        arguments["channels"] = channels
    backbone = str(given.get("backbone", "vgg19" if "backbone.conv1_1.conv.weight" in state else _resnet(state)))
    # A name with a colon would have timm fetch a model from where a stranger's file says.
    if not re.fullmatch(r"\w[\w.]*", backbone):
        return None
    if backbone != "vgg19":
        arguments["backbone"] = backbone
    skeleton = given.get("skeleton")
    # COCO's 17 keypoints and the neck.
    count = len(skeleton["names"]) if isinstance(skeleton, Mapping) else 17 if (parts, limbs) == (18, 19) else parts
    return Description("OpenPose", arguments, count, f"openpose_{variant.removesuffix('_bn')}", (parts, limbs))


def _deepcut(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> Description | None:
    means = state.get("pairs.pair_mean")
    if means is None or "toward.deep_weight" not in state:
        return None
    backbone = str(given.get("backbone", _resnet(state)))
    if not re.fullmatch(r"\w[\w.]*", backbone):
        return None
    arguments: dict[str, Any] = {"backbone": backbone}
    if "early_scores.bias" not in state:
        arguments["intermediate_supervision"] = False
    return Description("DeepCut", arguments, int(means.shape[0]), f"deepcut_{backbone.replace('resnet', 'r')}")
