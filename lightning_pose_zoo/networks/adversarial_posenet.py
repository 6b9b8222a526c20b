"""Adversarial PoseNet: a generator of maps of keypoints and of what is hidden, and critics that judge its maps.

Paper: Y. Chen, C. Shen, X.-S. Wei, L. Liu, J. Yang, "Adversarial PoseNet: A Structure-aware Convolutional Network for
Human Pose Estimation", ICCV 2017, arXiv 1705.00389.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_pose_zoo.networks.stacked_hourglass import Hourglass, Residual, refuse_small_crops

__all__ = ["AdversarialPoseNetNetwork", "MapCritic"]

_STEM_CHANNELS = 64
_GROUP = 8  # channels


class _Stem(nn.Module):
    """A strided 7x7 convolution, a residual, a pooling and two residuals: pictures to a quarter of their size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first = min(_STEM_CHANNELS, channels)
        self.conv = nn.Conv2d(3, first, 7, stride=2, padding=3)
        self.bn = nn.BatchNorm2d(first)
        self.res1 = Residual(first, channels)
        self.res2 = Residual(channels, channels)
        self.res3 = Residual(channels, channels)

    def forward(self, images: Tensor) -> Tensor:
        features = self.res1(F.relu(self.bn(self.conv(images))))
        seen: Tensor = self.res3(self.res2(F.max_pool2d(features, 2)))
        return seen


def _head(channels: int, num_keypoints: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, num_keypoints, 1),
        # An hourglass adds up residuals; without it the first maps, and losses, are a hundred times too large.
        nn.BatchNorm2d(num_keypoints, affine=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(num_keypoints, num_keypoints, 1),
    )


class _Stack(nn.Module):
    """Two hourglasses: one for the keypoints, and one, on top of it, for those that are hidden."""

    def __init__(self, num_keypoints: int, channels: int, last: bool) -> None:
        super().__init__()
        self.pose_hourglass = Hourglass(channels)
        self.occlusion_hourglass = Hourglass(channels)
        self.merge_pose = None if last else nn.Conv2d(num_keypoints, channels, 1)
        self.merge_occlusion = None if last else nn.Conv2d(num_keypoints, channels, 1)
        self.occlusion_head = _head(channels, num_keypoints)
        self.pose_head = _head(channels, num_keypoints)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        features = self.pose_hourglass(seen)
        pose = self.pose_head(features)
        occlusion = self.occlusion_head(self.occlusion_hourglass(features + seen))
        if self.merge_pose is None or self.merge_occlusion is None:
            return pose, occlusion, None
        return pose, occlusion, self.merge_pose(pose) + self.merge_occlusion(occlusion)


class AdversarialPoseNetNetwork(nn.Module):
    """The generator: a stem and stacks of two hourglasses; each stack sees the stem's features and the last maps.

    Attributes:
        stride: Pixels of the input per cell of the maps, 4.

    Args:
        num_keypoints: K.
        stacks: How many stacks, 1 to 8; 4 in the paper.
        channels: Of the features; 512 in the paper.

    Raises:
        ValueError: Where an argument is out of range.
    """

    stride = 4

    def __init__(self, num_keypoints: int, stacks: int = 4, channels: int = 512) -> None:
        super().__init__()
        if not 1 <= stacks <= 8:
            raise ValueError(f"stacks is {stacks}; give 1 to 8.")
        if channels < 2 or channels % 2:
            raise ValueError(f"channels is {channels}; give an even number.")
        self.stem = _Stem(channels)
        self.stacks = nn.ModuleList(
            _Stack(num_keypoints, channels, last=index == stacks - 1) for index in range(stacks)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Predict with each stack where the keypoints are, and where those are that are hidden.

        Args:
            images: (B, 3, H, W), normalised; H and W at least 64, multiples of 4, and of 64 as published.

        Returns:
            (B, S, 2, K, H / 4, W / 4): of each of the S stacks the maps of all keypoints, then those of the hidden
            ones.

        Raises:
            SettingsError: Where the pictures are too small to be halved six times.
        """
        refuse_small_crops(images)
        features = self.stem(images)
        seen, stages = features, []
        for stack in self.stacks:
            pose, occlusion, merged = stack(seen)
            stages.append(torch.stack([pose, occlusion], dim=1))
            seen = features if merged is None else features + merged
        return torch.stack(stages, dim=1)


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // _GROUP if channels % _GROUP == 0 else 1, channels)


class MapCritic(nn.Module):
    """Says for each keypoint whether its map looks true: a residual, an hourglass, and a mean over the cells.

    Norms are over groups of eight channels of one sample, so that true and predicted maps are judged by the same
    measure, and the size of the batch does not matter.

    Args:
        inputs: Channels that it sees.
        num_keypoints: K.
        channels: Of its features.

    Raises:
        ValueError: Where the number of channels is odd.
    """

    def __init__(self, inputs: int, num_keypoints: int, channels: int = 128) -> None:
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"the critics' channels are {channels}; give an even number.")
        self.residual = Residual(inputs, channels, _group_norm)
        self.hourglass = Hourglass(channels, norm=_group_norm)
        self.head = nn.Conv2d(channels, num_keypoints, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Judge maps.

        Args:
            maps: (B, inputs, h, w), h and w at least 16.

        Returns:
            (B, K) logits: above 0 where a keypoint's map is taken for true.
        """
        judged: Tensor = self.head(self.hourglass(self.residual(maps))).mean(dim=(-1, -2))
        return judged
