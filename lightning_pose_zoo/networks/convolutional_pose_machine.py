"""Convolutional Pose Machines: belief maps that are refined stage by stage, each seeing the picture and the last ones.

Paper: S.-E. Wei, V. Ramakrishna, T. Kanade, Y. Sheikh, "Convolutional Pose Machines", CVPR 2016, arXiv 1602.00134.
The layers are those of the authors' released networks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_pose_zoo.networks.initialization import initialize_head

__all__ = ["CPMVariant", "ConvolutionalPoseMachineNetwork", "center_maps"]

CPMVariant = Literal["original", "original_bn", "vgg", "vgg_bn", "mmpose"]

_CENTER_SIGMA = 21.0
_STRIDE = 8


def center_maps(centers: Tensor, size: tuple[int, int]) -> Tensor:
    """Draw where the person is that is looked for: a Gaussian of 21 pixels, peak 1, as published for 368x368.

    Args:
        centers: (B, 2), x and y of each person's middle in pixels of the crop.
        size: Height and width of the crops in pixels.

    Returns:
        (B, 1, H, W).
    """
    profiles = []
    for axis, length in ((1, size[0]), (0, size[1])):
        grid = torch.arange(length, device=centers.device, dtype=centers.dtype)
        profiles.append(torch.exp(-((grid - centers[:, axis, None]) ** 2) / (2 * _CENTER_SIGMA**2)))
    return (profiles[0][:, :, None] * profiles[1][:, None, :])[:, None]


def _conv(inputs: int, outputs: int, kernel: int, batch_norm: bool, dropout: bool = False) -> nn.Sequential:
    """Build a convolution that keeps the size, and a ReLU."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not batch_norm)
    if batch_norm:
        layers["bn"] = nn.BatchNorm2d(outputs)
    layers["relu"] = nn.ReLU(inplace=True)
    if dropout:
        layers["dropout"] = nn.Dropout(0.5)
    return nn.Sequential(layers)


def _convs(inputs: int, layers: Sequence[tuple[int, int]], batch_norm: bool) -> nn.Sequential:
    """Build several convolutions from (channels, kernel) of each."""
    widths = [inputs, *(width for width, _ in layers)]
    return nn.Sequential(
        *(_conv(widths[index], width, kernel, batch_norm) for index, (width, kernel) in enumerate(layers))
    )


def _original_trunk(channels: int, batch_norm: bool, padded_pooling: bool) -> nn.Sequential:
    """Build three 9x9 convolutions, each pooled over 3x3 with stride 2.

    Caffe pools from the first pixel on and lets the last window reach out; mmpose pads by one pixel. The sizes are the
    same, the maps lie one pixel of theirs apart.
    """
    layers: list[nn.Module] = []
    for inputs in (3, channels, channels):
        pool = nn.MaxPool2d(3, 2, padding=1) if padded_pooling else nn.MaxPool2d(3, 2, ceil_mode=True)
        layers += [_conv(inputs, channels, 9, batch_norm), pool]
    return nn.Sequential(*layers)


def _vgg_trunk(channels: int, batch_norm: bool) -> nn.Sequential:
    """Build the first ten convolutions of VGG-19, and four more that end in ``channels``."""
    layers: list[nn.Module] = []
    inputs = 3
    for index, (width, depth) in enumerate(((channels // 2, 2), (channels, 2), (2 * channels, 4), (4 * channels, 2))):
        if index:
            layers.append(nn.MaxPool2d(2))
        layers.append(_convs(inputs, [(width, 3)] * depth, batch_norm))
        inputs = width
    layers.append(_convs(inputs, [(2 * channels, 3)] * 4 + [(channels, 3)], batch_norm))
    return nn.Sequential(*layers)


def _first_stage(outputs: int, channels: int, is_vgg: bool, batch_norm: bool) -> nn.Sequential:
    """Build what makes the first maps out of the trunk's features."""
    if is_vgg:
        layers = [_conv(channels, 4 * channels, 1, batch_norm)]
    else:
        # Batch norm takes the place of dropout, as in mmpose.
        layers = [
            _conv(channels, channels // 4, 5, batch_norm),
            _conv(channels // 4, 4 * channels, 9, batch_norm, dropout=not batch_norm),
            _conv(4 * channels, 4 * channels, 1, batch_norm, dropout=not batch_norm),
        ]
    return nn.Sequential(*layers, nn.Conv2d(4 * channels, outputs, 1))


class _Refinement(nn.Module):
    """A stage after the first: the picture's features and the last maps to better maps."""

    def __init__(self, seen: int, outputs: int, channels: int, variant: CPMVariant, batch_norm: bool) -> None:
        super().__init__()
        is_vgg = variant.startswith("vgg")
        # The original refines with three 11x11 convolutions, the VGG network with five of 7x7.
        layers = [(channels, 7)] * 5 if is_vgg else [(channels, 11)] * 3
        self.features = nn.Identity() if is_vgg else _conv(channels, channels // 4, 5, batch_norm)
        self.convs = _convs(seen, [*layers, (channels, 1)], batch_norm)
        self.head = nn.Conv2d(channels, outputs, 1)
        self.picture_first = variant.startswith("original")

    def forward(self, features: Tensor, maps: Tensor, center: Tensor | None) -> Tensor:
        features = self.features(features)
        # The order of the channels is that of the released networks, whose weights depend on it.
        parts = [features, maps] if self.picture_first else [maps, features]
        refined: Tensor = self.head(self.convs(torch.cat(parts if center is None else [*parts, center], dim=1)))
        return refined


class ConvolutionalPoseMachineNetwork(nn.Module):
    """Stages of belief maps, all at an eighth of the picture's size.

    The original has one trunk for the first stage and another that all later stages share. The VGG network has one
    trunk for all. Every stage but those of ``mmpose`` has a last map for the background.

    Attributes:
        stride: Pixels of the input per cell of the maps, 8.
        has_background: Whether there is one more map than keypoints, the last one.
        keypoint_inputs_at: The channel at which maps begin in the stages' inputs.

    Args:
        num_keypoints: K.
        variant: ``original`` or ``vgg``, as released by the authors, both without batch norm; ``original_bn`` and
            ``vgg_bn`` with it; ``mmpose``, the original with batch norm, padded pooling and no background map.
        stages: How many, at least 1; 6 as published.
        channels: Width of the trunk and the stages; 128 as published.
        center_map: Show the later stages where the person is that is looked for (mmpose's network does not).

    Raises:
        ValueError: Where an argument is out of range.
    """

    stride = _STRIDE

    def __init__(
        self,
        num_keypoints: int,
        variant: CPMVariant = "original",
        stages: int = 6,
        channels: int = 128,
        center_map: bool = True,
    ) -> None:
        super().__init__()
        if variant not in ("original", "original_bn", "vgg", "vgg_bn", "mmpose"):
            raise ValueError(f"unknown variant '{variant}'; choose original, original_bn, vgg, vgg_bn or mmpose.")
        if stages < 1 or channels < 4 or channels % 4:
            raise ValueError(
                f"stages is {stages} and channels {channels}; give at least one stage and a multiple of 4."
            )
        batch_norm = variant in ("original_bn", "vgg_bn", "mmpose")
        is_vgg, padded = variant.startswith("vgg"), variant == "mmpose"
        self.has_background = variant != "mmpose"
        outputs = num_keypoints + self.has_background
        self.pool_center = nn.AvgPool2d(9, _STRIDE, ceil_mode=True) if center_map and stages > 1 else None
        self.trunk = _vgg_trunk(channels, batch_norm) if is_vgg else _original_trunk(channels, batch_norm, padded)
        self.keypoint_inputs_at = channels // 4 if variant.startswith("original") else 0
        has_second = not is_vgg and stages > 1
        self.second_trunk = _original_trunk(channels, batch_norm, padded) if has_second else None
        self.stage1 = _first_stage(outputs, channels, is_vgg, batch_norm)
        seen = (channels if is_vgg else channels // 4) + outputs + (self.pool_center is not None)
        self.stages = nn.ModuleList(
            _Refinement(seen, outputs, channels, variant, batch_norm) for _ in range(stages - 1)
        )
        initialize_head(self, std=0.001 if variant == "mmpose" else 0.01)
        if is_vgg:
            # The released network starts from ImageNet weights; N(0, 0.01) would let sixteen small layers fade out.
            for layer in self.trunk.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Predict the belief maps of all stages.

        Args:
            images: (B, 3, H, W), normalised, H and W multiples of 8; or (B, 4, H, W) with ``center_maps`` as the fourth
                channel. Without it the person is taken to be in the middle of the crop.

        Returns:
            (B, T, K + 1, H / 8, W / 8), the maps of the T stages, the background last; K maps without a background.
        """
        center = self._center(images) if self.pool_center is not None else None
        pictures = images[:, :3]
        features = self.trunk(pictures)
        maps = self.stage1(features)
        stages = [maps]
        if self.second_trunk is not None:
            features = self.second_trunk(pictures)
        for stage in self.stages:
            maps = stage(features, maps, center)
            stages.append(maps)
        return torch.stack(stages, dim=1)

    def _center(self, images: Tensor) -> Tensor:
        """Return the centre map at the resolution of the belief maps, (B, 1, H / 8, W / 8)."""
        assert self.pool_center is not None
        if images.shape[1] == 4:
            full = images[:, 3:]
        else:
            height, width = images.shape[-2:]
            middle = images.new_tensor([width / 2, height / 2]).expand(images.shape[0], 2)
            full = center_maps(middle, (height, width))
        pooled: Tensor = self.pool_center(full)
        return pooled
