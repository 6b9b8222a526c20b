"""OpenPose: confidence maps of all parts and affinity fields of all limbs, refined stage by stage.

Papers: Z. Cao, T. Simon, S.-E. Wei, Y. Sheikh, "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields",
CVPR 2017, arXiv 1611.08050 (``v1``); Z. Cao, G. Hidalgo, T. Simon, S.-E. Wei, Y. Sheikh, "OpenPose: Realtime
Multi-Person 2D Pose Estimation using Part Affinity Fields", TPAMI 2019, arXiv 1812.08008 (``v2``). The layers are those
of the authors' released networks.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_pose_zoo.networks.initialization import initialize_head
from lightning_pose_zoo.networks.timm_models import timm_model, timm_stage

__all__ = ["OpenPoseMaps", "OpenPoseNetwork", "OpenPoseVariant"]

OpenPoseVariant = Literal["v1", "v2", "v1_bn", "v2_bn"]

# Width and number of the convolutions before each pooling of VGG-19, as far as stride 8.
_VGG = ((64, 2), (128, 2), (256, 4), (512, 2))
_STAGES = {"v1": (6, 6), "v2": (4, 2)}


class OpenPoseMaps(NamedTuple):
    """What the network predicts, stage by stage; the last stage is the best.

    Attributes:
        fields: (B, T, 2 C, h, w), x and y of each of the C limbs in turn.
        heatmaps: (B, T', J + 1, h, w), a map of each part and, last, of the background.
    """

    fields: Tensor
    heatmaps: Tensor


def _conv(inputs: int, outputs: int, kernel: int, batch_norm: bool, prelu: bool = False) -> nn.Sequential:
    """Build a convolution that keeps the size, and its activation."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not batch_norm)
    if batch_norm:
        layers["bn"] = nn.BatchNorm2d(outputs)
    layers["act"] = nn.PReLU(outputs) if prelu else nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def _vgg(batch_norm: bool, prelu: bool) -> nn.Sequential:
    """Build the first ten convolutions of VGG-19; their last activation is learnt in the second version."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = 3
    for block, (width, depth) in enumerate(_VGG, start=1):
        if block > 1:
            layers[f"pool{block - 1}"] = nn.MaxPool2d(2)
        for number in range(1, depth + 1):
            is_last = (block, number) == (len(_VGG), depth)
            layers[f"conv{block}_{number}"] = _conv(inputs, width, 3, batch_norm, prelu and is_last)
            inputs = width
    return nn.Sequential(layers)


def _fill_from_imagenet(vgg: nn.Sequential, batch_norm: bool) -> None:
    """Take the first layers of timm's VGG-19 over, downloaded at first use."""
    theirs = timm_model("vgg19_bn" if batch_norm else "vgg19", pretrained=True).features
    kinds = (nn.Conv2d, nn.BatchNorm2d)
    mine = [layer for layer in vgg.modules() if isinstance(layer, kinds)]
    for layer, other in zip(mine, (layer for layer in theirs if isinstance(layer, kinds)), strict=False):
        layer.load_state_dict(other.state_dict())


def _first_stage(inputs: int, outputs: int, channels: int, batch_norm: bool) -> nn.Sequential:
    """Build a first stage of ``v1``: three 3x3 convolutions and two of 1x1."""
    convs = [_conv(inputs if index == 0 else channels, channels, 3, batch_norm) for index in range(3)]
    return nn.Sequential(*convs, _conv(channels, 4 * channels, 1, batch_norm), nn.Conv2d(4 * channels, outputs, 1))


def _later_stage(inputs: int, outputs: int, channels: int, batch_norm: bool) -> nn.Sequential:
    """Build a later stage of ``v1``: five 7x7 convolutions and two of 1x1."""
    convs = [_conv(inputs if index == 0 else channels, channels, 7, batch_norm) for index in range(5)]
    return nn.Sequential(*convs, _conv(channels, channels, 1, batch_norm), nn.Conv2d(channels, outputs, 1))


class _DenseBlock(nn.Sequential):
    """Three 3x3 convolutions in a row, the outputs of all side by side: what a 7x7 convolution sees, for less."""

    def __init__(self, inputs: int, channels: int, batch_norm: bool) -> None:
        super().__init__(*(_conv(inputs if i == 0 else channels, channels, 3, batch_norm, True) for i in range(3)))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, 3 channels, h, w)."""
        outputs = []
        for layer in self:
            features = layer(features)
            outputs.append(features)
        return torch.cat(outputs, dim=1)


class _DenseStage(nn.Module):
    """A stage of ``v2``: five dense blocks and two 1x1 convolutions; the first of its kind is narrower."""

    def __init__(self, inputs: int, outputs: int, channels: int, first: bool, batch_norm: bool) -> None:
        super().__init__()
        width, hidden = (3 * channels // 4, 2 * channels) if first else (channels, 4 * channels)
        self.blocks = nn.Sequential(
            *(_DenseBlock(inputs if index == 0 else 3 * width, width, batch_norm) for index in range(5))
        )
        self.hidden = _conv(3 * width, hidden, 1, batch_norm, True)
        self.head = nn.Conv2d(hidden, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        maps: Tensor = self.head(self.hidden(self.blocks(features)))
        return maps


class OpenPoseNetwork(nn.Module):
    """Features at an eighth of the picture's size, and stages of fields and maps.

    ``v1`` predicts fields and maps in every stage, each from the features and both of the stage before. ``v2`` refines
    the fields first and the maps afterwards, which see the last fields; its stages are dense and have learnt slopes.
    Hidden layers start from He's normal values, the last one of each stage from N(0, 0.01), as released.

    Attributes:
        stride: Pixels of the input per cell of the maps.

    Args:
        num_parts: J, the neck included where there is one.
        num_limbs: C.
        variant: ``v1`` or ``v2``, as released, without batch norm; ``v1_bn`` and ``v2_bn`` with it, which learn from
            random weights.
        stages: How many of fields and of maps; (6, 6) for ``v1``, where they are equal, and (4, 2) for ``v2``.
        channels: Width of the stages; 128 as published.
        backbone: ``vgg19``, its first ten convolutions, as published; or any timm model with feature maps.
        backbone_stride: The stage of another backbone that is read, by its pixels per cell.
        pretrained: Start the backbone from timm's ImageNet weights, downloaded at first use.

    Raises:
        ValueError: Where an argument is out of range, or the backbone has no such stage.
    """

    def __init__(
        self,
        num_parts: int,
        num_limbs: int,
        variant: OpenPoseVariant = "v1",
        stages: tuple[int, int] | None = None,
        channels: int = 128,
        backbone: str = "vgg19",
        backbone_stride: int = 8,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        version, _, norm = variant.partition("_")
        if version not in _STAGES or norm not in ("", "bn"):
            raise ValueError(f"unknown variant '{variant}'; choose v1, v2, v1_bn or v2_bn.")
        field_stages, map_stages = stages or _STAGES[version]
        if min(field_stages, map_stages) < 1 or (version == "v1" and field_stages != map_stages) or channels < 4:
            raise ValueError(
                f"stages is {stages} and channels {channels}; give at least one stage of fields and of maps, as many "
                "of each in v1, and 4 channels."
            )
        batch_norm, is_second = norm == "bn", version == "v2"
        self.is_second = is_second
        if backbone == "vgg19" and backbone_stride == 8:
            self.backbone: nn.Module = _vgg(batch_norm, is_second)
            width = _VGG[-1][0]
        else:
            self.backbone, width = timm_stage(backbone, pretrained, backbone_stride)
        self.is_vgg = isinstance(self.backbone, nn.Sequential) and hasattr(self.backbone, "conv1_1")
        self.stride = backbone_stride
        self.reduce = nn.Sequential(
            _conv(width, 2 * channels, 3, batch_norm, is_second),
            _conv(2 * channels, channels, 3, batch_norm, is_second),
        )
        vectors, maps = 2 * num_limbs, num_parts + 1
        self.fields, self.maps = nn.ModuleList(), nn.ModuleList()
        for number in range(field_stages):
            if is_second:
                seen = channels + (vectors if number else 0)
                self.fields.append(_DenseStage(seen, vectors, channels, number == 0, batch_norm))
            else:
                build, seen = (_later_stage, channels + vectors + maps) if number else (_first_stage, channels)
                self.fields.append(build(seen, vectors, channels, batch_norm))
                self.maps.append(build(seen, maps, channels, batch_norm))
        for number in range(map_stages if is_second else 0):
            seen = channels + vectors + (maps if number else 0)
            self.maps.append(_DenseStage(seen, maps, channels, number == 0, batch_norm))
        self._initialize(pretrained, batch_norm)

    def _initialize(self, pretrained: bool, batch_norm: bool) -> None:
        """Draw the first values of all that timm has none for."""
        for part in (self.backbone if self.is_vgg else nn.Identity(), self.reduce, self.fields, self.maps):
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
        for stage in (*self.fields, *self.maps):
            initialize_head([layer for layer in stage.modules() if isinstance(layer, nn.Conv2d)][-1], std=0.01)
        if self.is_vgg and pretrained:
            assert isinstance(self.backbone, nn.Sequential)
            _fill_from_imagenet(self.backbone, batch_norm)

    def part_channels(self) -> dict[str, dict[int, tuple[str, ...]]]:
        """Tell which entries have channels for parts and limbs.

        Returns:
            By entry and axis what stands along it, in this order: ``fields``, 2 C channels, ``maps``, J + 1, the
            background last, and ``features``, which are of no part.
        """
        entries: dict[str, dict[int, tuple[str, ...]]] = {}
        for kind, stages in (("fields", self.fields), ("maps", self.maps)):
            for number, stage in enumerate(stages):
                convs = [name for name, layer in stage.named_modules() if isinstance(layer, nn.Conv2d)]
                entries |= {f"{kind}.{number}.{convs[-1]}.{part}": {0: (kind,)} for part in ("weight", "bias")}
                inputs = self._inputs(kind, number)
                if len(inputs) > 1:
                    entries[f"{kind}.{number}.{convs[0]}.weight"] = {1: inputs}
        return entries

    def _inputs(self, kind: str, number: int) -> tuple[str, ...]:
        """Return what a stage sees, in its order; ``forward`` puts it together."""
        if not self.is_second:
            return ("fields", "maps", "features") if number else ("features",)
        if kind == "fields":
            return ("features", "fields") if number else ("features",)
        return ("features", "maps", "fields") if number else ("features", "fields")

    def forward(self, images: Tensor) -> OpenPoseMaps:
        """Predict fields and confidence maps of all stages.

        Args:
            images: (B, 3, H, W), normalised; H and W multiples of the stride.

        Returns:
            Fields (B, T, 2 C, H / stride, W / stride) and maps (B, T', J + 1, H / stride, W / stride).
        """
        features = self.backbone(images)
        features = self.reduce(features if self.is_vgg else features[-1])
        fields: list[Tensor] = []
        maps: list[Tensor] = []
        if self.is_second:
            for stage in self.fields:
                fields.append(stage(torch.cat([features, *fields[-1:]], dim=1)))
            for stage in self.maps:
                maps.append(stage(torch.cat([features, *maps[-1:], fields[-1]], dim=1)))
        else:
            # The order of the channels is that of the released networks, whose weights depend on it.
            for field_stage, map_stage in zip(self.fields, self.maps, strict=True):
                seen = torch.cat([*fields[-1:], *maps[-1:], features], dim=1)
                fields.append(field_stage(seen))
                maps.append(map_stage(seen))
        return OpenPoseMaps(torch.stack(fields, dim=1), torch.stack(maps, dim=1))
