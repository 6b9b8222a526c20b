"""Stacked Hourglass: networks that shrink and grow again, one after the other, each with maps of its own.

Paper: A. Newell, K. Yang, J. Deng, "Stacked Hourglass Networks for Human Pose Estimation", ECCV 2016,
arXiv 1603.06937.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_pose_zoo.errors import SettingsError

__all__ = ["Hourglass", "HourglassStem", "Residual", "StackedHourglassNetwork", "refuse_small_crops"]

HourglassStem = Literal["newell", "bearpaw", "princeton"]

_LEVELS = 4
_SMALLEST_SIDE = 64


class Residual(nn.Module):
    """Bottleneck with batch norm and ReLU before each convolution, and nothing after the sum.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output; half of them in between. Where they differ from the input's, a bare 1x1
            convolution of the input is added, else the input itself.
        norm: From a number of channels to the layer before each ReLU; batch norm as published.
    """

    def __init__(self, inputs: int, outputs: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.bn1 = norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs // 2, 1)
        self.bn2 = norm(outputs // 2)
        self.conv2 = nn.Conv2d(outputs // 2, outputs // 2, 3, padding=1)
        self.bn3 = norm(outputs // 2)
        self.conv3 = nn.Conv2d(outputs // 2, outputs, 1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h, w)."""
        inner = self.conv1(F.relu(self.bn1(features)))
        inner = self.conv2(F.relu(self.bn2(inner)))
        inner = self.conv3(F.relu(self.bn3(inner)))
        added: Tensor = inner + self.skip(features)
        return added


def _residuals(channels: int, blocks: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    return nn.Sequential(*(Residual(channels, channels, norm) for _ in range(blocks)))


class _Level(nn.Module):
    """One resolution of an hourglass: the way across, the way in and the way out again."""

    def __init__(self, channels: int, blocks: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.up = _residuals(channels, blocks, norm)
        self.low_in = _residuals(channels, blocks, norm)
        self.low_out = _residuals(channels, blocks, norm)


class Hourglass(nn.Module):
    """Features halved four times and doubled again, with a way across at each resolution.

    Args:
        channels: Of the features, in and out.
        blocks: Residuals in each place.
        norm: From a number of channels to the layer before each ReLU; batch norm as published.
    """

    def __init__(self, channels: int, blocks: int = 1, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_Level(channels, blocks, norm) for _ in range(_LEVELS))
        self.bottom = _residuals(channels, blocks, norm)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, channels, h, w) to the same shape; h and w at least 16.

        Sizes that cannot be halved evenly are rounded down, and enlarged to the size across again (nearest neighbour).
        """
        across: list[Tensor] = []
        for level in self.levels:
            across.append(level.up(features))  # type: ignore[operator]
            features = level.low_in(F.max_pool2d(features, 2))  # type: ignore[operator]
        features = self.bottom(features)
        for level, beside in zip(reversed(self.levels), reversed(across), strict=True):
            features = beside + F.interpolate(level.low_out(features), size=beside.shape[-2:])  # type: ignore[operator]
        return features


def refuse_small_crops(images: Tensor) -> None:
    """Refuse pictures (B, 3, H, W) that cannot be halved six times: twice by a stem, four times by an hourglass.

    Raises:
        SettingsError: Where a side is too short.
    """
    height, width = images.shape[-2:]
    if min(height, width) < _SMALLEST_SIDE:
        raise SettingsError(
            f"crops of {height}x{width} are too small for an hourglass, which halves them six times; "
            f"give an image_size with sides of at least {_SMALLEST_SIDE} pixels."
        )


class _Stem(nn.Module):
    """A strided 7x7 convolution and three residuals with a pooling between them: pictures to a quarter of their size.

    The authors' two programs (Torch and PyTorch) widen to all channels in the third residual, bearpaw's in the second.
    """

    def __init__(self, channels: int, stem: HourglassStem) -> None:
        super().__init__()
        middle = channels if stem == "bearpaw" else channels // 2
        self.conv = nn.Conv2d(3, channels // 4, 7, stride=2, padding=3)
        self.bn = nn.BatchNorm2d(channels // 4)
        self.res1 = Residual(channels // 4, channels // 2)
        self.res2 = Residual(channels // 2, middle)
        self.res3 = Residual(middle, channels)

    def forward(self, images: Tensor) -> Tensor:
        features = self.res1(F.relu(self.bn(self.conv(images))))
        widened: Tensor = self.res3(self.res2(F.max_pool2d(features, 2)))
        return widened


class _Stack(nn.Module):
    """One hourglass, its maps, and what the next one sees; the last one has nothing to hand on."""

    def __init__(self, num_keypoints: int, channels: int, blocks: int, last: bool) -> None:
        super().__init__()
        self.hourglass = Hourglass(channels, blocks)
        self.residual = _residuals(channels, blocks)
        self.lin = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.head = nn.Conv2d(channels, num_keypoints, 1)
        self.merge_features = None if last else nn.Conv2d(channels, channels, 1)
        self.merge_maps = None if last else nn.Conv2d(num_keypoints, channels, 1)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        features = self.lin(self.residual(self.hourglass(seen)))
        maps = self.head(features)
        if self.merge_features is not None and self.merge_maps is not None:
            seen = seen + self.merge_features(features) + self.merge_maps(maps)
        return maps, seen


class StackedHourglassNetwork(nn.Module):
    """A stem and hourglasses in a row; each sees the features and the maps of the ones before.

    First values are torch's, as in the authors' and bearpaw's programs.

    Attributes:
        stride: Pixels of the input per cell of the maps, 4.

    Args:
        num_keypoints: K.
        stacks: How many hourglasses, 1 to 8.
        stem: Whose first layers: ``newell`` (the authors' Torch program) and ``princeton`` (the authors' PyTorch
            program) are the same, ``bearpaw`` (the pytorch-pose repository) widens one residual earlier.
        blocks: Residuals in each place; 1 in the authors' programs, 1 or 4 in bearpaw's.
        channels: Of the features; 256 as published.

    Raises:
        ValueError: Where an argument is out of range.
    """

    stride = 4

    def __init__(
        self,
        num_keypoints: int,
        stacks: int = 8,
        stem: HourglassStem = "newell",
        blocks: int = 1,
        channels: int = 256,
    ) -> None:
        super().__init__()
        if not 1 <= stacks <= 8:
            raise ValueError(f"stacks is {stacks}; give 1 to 8.")
        if stem not in ("newell", "bearpaw", "princeton"):
            raise ValueError(f"unknown stem '{stem}'; choose newell, bearpaw or princeton.")
        if blocks < 1 or channels < 4 or channels % 4:
            raise ValueError(
                f"blocks is {blocks} and channels {channels}; give at least one block and a multiple of 4."
            )
        self.stem = _Stem(channels, stem)
        self.stacks = nn.ModuleList(
            _Stack(num_keypoints, channels, blocks, last=index == stacks - 1) for index in range(stacks)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Predict one map per keypoint with each hourglass.

        Args:
            images: (B, 3, H, W), normalised; H and W at least 64, and multiples of 64 as published (multiples of 4 do).

        Returns:
            (B, S, K, H / 4, W / 4), the maps of the S hourglasses; the last ones are the best.

        Raises:
            SettingsError: Where the pictures are too small to be halved six times.
        """
        refuse_small_crops(images)
        seen = self.stem(images)
        stages = []
        for stack in self.stacks:
            maps, seen = stack(seen)
            stages.append(maps)
        return torch.stack(stages, dim=1)
