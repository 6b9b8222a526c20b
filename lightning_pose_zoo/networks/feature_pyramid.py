"""Backbones with a feature pyramid: torchvision's ResNets, or any model of timm that has stages of stride 4 to 32."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.misc import FrozenBatchNorm2d

from lightning_pose_zoo.networks.timm_models import timm_model

__all__ = ["STRIDES", "BatchNorm", "FeaturePyramid"]

STRIDES = (4, 8, 16, 32)
"""Of the stages that the pyramid stands on; its top level, made by max-pooling, has twice the last."""

BatchNorm = Literal["frozen", "frozen_eps0", "trained"]
"""What batch norm does: ``frozen``, it stays as it came with the weights; ``frozen_eps0``, the same with nothing added
to the variance, as torchvision's published Keypoint R-CNN was trained; ``trained``."""

_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
            "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2")  # fmt: skip


class _ResNetBody(nn.Module):
    """A ResNet of torchvision without its classifier; gives the maps of its four stages."""

    def __init__(self, network: resnet.ResNet) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = network.conv1, network.bn1, network.relu, network.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            network.layer1, network.layer2, network.layer3, network.layer4
        )  # fmt: skip

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [self.maxpool(self.relu(self.bn1(self.conv1(images))))]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps.append(stage(maps[-1]))
        return maps[1:]


class FeaturePyramid(nn.Module):
    """Maps of strides 4, 8, 16, 32 and 64, all with as many channels; entries are named as torchvision names them.

    Paper: T.-Y. Lin, P. Dollár, R. Girshick, K. He, B. Hariharan, S. Belongie, "Feature Pyramid Networks for Object
    Detection", CVPR 2017, arXiv 1612.03144.

    Args:
        backbone: A ResNet of torchvision by name, or a model of timm.
        pretrained: Start the backbone from ImageNet's weights, downloaded at first use.
        batch_norm: Whether batch norm in the backbone is trained.
        channels: Of every map.
        stride_in_1x1: Have the first convolution of a bottleneck halve the map, not the second one, as the first
            ResNets and detectron2's do.
        freeze: Do not train the stem and the first stage of a ResNet of torchvision.

    Raises:
        ValueError: Where there is no such backbone, or it lacks a stage.
    """

    def __init__(
        self,
        backbone: str,
        pretrained: bool = False,
        batch_norm: BatchNorm = "frozen",
        channels: int = 256,
        stride_in_1x1: bool = False,
        freeze: bool = False,
    ) -> None:
        super().__init__()
        if backbone in _RESNETS:
            self.body, self._widths = _torchvision_body(backbone, pretrained, batch_norm, stride_in_1x1)
        else:
            self.body, self._widths = _timm_body(backbone, pretrained, batch_norm)
        if freeze and backbone in _RESNETS:
            for name, parameter in self.body.named_parameters():
                parameter.requires_grad_(not name.startswith(("conv1.", "bn1.", "layer1.")))
        self.fpn = FeaturePyramidNetwork(self._widths, channels, LastLevelMaxPool())
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps, finest first, by the names ``0`` to ``3`` and ``pool``.

        Args:
            images: (B, 3, H, W), normalised; H and W multiples of 32.

        Returns:
            (B, channels, H / stride, W / stride) each.
        """
        maps = [_channels_first(stage, width) for stage, width in zip(self.body(images), self._widths, strict=True)]
        pyramid: dict[str, Tensor] = self.fpn(OrderedDict((str(level), stage) for level, stage in enumerate(maps)))
        return pyramid


def _channels_first(stage: Tensor, channels: int) -> Tensor:
    """Bring a map that a transformer gives as (B, H, W, C) into the common order."""
    if stage.shape[1] != channels and stage.shape[-1] == channels:
        return stage.permute(0, 3, 1, 2).contiguous()
    return stage


def _torchvision_body(
    name: str, pretrained: bool, batch_norm: BatchNorm, stride_in_1x1: bool
) -> tuple[nn.Module, list[int]]:
    norms: dict[BatchNorm, Callable[..., nn.Module]] = {
        "frozen": FrozenBatchNorm2d, "frozen_eps0": partial(FrozenBatchNorm2d, eps=0.0), "trained": nn.BatchNorm2d,
    }  # fmt: skip
    network = getattr(resnet, name)(weights="IMAGENET1K_V1" if pretrained else None, norm_layer=norms[batch_norm])
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    bottleneck = hasattr(stages[0][0], "conv3")
    if stride_in_1x1 and bottleneck:
        for stage in stages[1:]:
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    widths = [(stage[-1].conv3 if bottleneck else stage[-1].conv2).out_channels for stage in stages]
    return _ResNetBody(network), widths


def _timm_body(name: str, pretrained: bool, batch_norm: BatchNorm) -> tuple[nn.Module, list[int]]:
    with torch.device("meta"):
        strides: Sequence[int] = timm_model(name, _RESNETS, features_only=True).feature_info.reduction()
    lacking = [stride for stride in STRIDES if stride not in strides]
    if lacking:
        raise ValueError(f"the backbone '{name}' has stages of stride {list(strides)}, but {lacking} are needed too.")
    places = tuple(len(strides) - 1 - list(strides)[::-1].index(stride) for stride in STRIDES)
    more = {"strict_img_size": False} if name.startswith("swin") else {}
    body = timm_model(name, _RESNETS, pretrained=pretrained, features_only=True, out_indices=places, **more)
    widths = list(body.feature_info.channels())
    if batch_norm != "trained":
        from timm.utils.model import freeze_batch_norm_2d

        body = freeze_batch_norm_2d(body)
        for module in body.modules():
            if batch_norm == "frozen_eps0" and "FrozenBatchNorm" in type(module).__name__:
                module.eps = 0.0
    return body, widths
