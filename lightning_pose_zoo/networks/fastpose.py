"""FastPose, AlphaPose's single-person network: a ResNet with gates, then shuffled pixels instead of deconvolutions.

From the AlphaPose repository (alphapose/models/fastpose.py), the later version of H. Fang, S. Xie, Y. Tai, C. Lu,
"RMPE: Regional Multi-person Pose Estimation", ICCV 2017, arXiv 1612.00137. The gates are those of Hu et al.,
"Squeeze-and-Excitation Networks", CVPR 2018; the upsampling that of Wang et al., "Understanding Convolution for
Semantic Segmentation", WACV 2018 (dense upsampling convolution).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_pose_zoo.networks.initialization import initialize_head
from lightning_pose_zoo.networks.timm_models import timm_stage

__all__ = ["FastPoseNetwork"]

_STAGES = ("layer1", "layer2", "layer3", "layer4")


class _Gate(nn.Module):
    """Weighs channels by what the whole map says: two full layers, as wide as the map, without a bottleneck."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels), nn.Sigmoid()
        )

    def forward(self, features: Tensor) -> Tensor:
        weighted: Tensor = features * self.fc(features.mean(dim=(2, 3)))[..., None, None]
        return weighted


class _Upsampling(nn.Sequential):
    """Convolution to four times the wanted channels, which are shuffled into twice the height and width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, 4 * outputs, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4 * outputs)
        self.act = nn.ReLU(inplace=True)
        self.shuffle = nn.PixelShuffle(2)


class FastPoseNetwork(nn.Module):
    """ResNet with a gate in the first block of each stage, three doublings of the resolution, one map per keypoint.

    Attributes:
        stride: Pixels of the input per cell of the maps, 4.

    Args:
        num_keypoints: K.
        backbone: A ResNet of timm: ``resnet50`` as published; anything whose blocks timm can give gates.
        pretrained: Start the ResNet, without its gates, from timm's ImageNet weights, downloaded at first use.
        upsampling: Channels after each of the two upsampling convolutions: (256, 128) as published; (256, 256) is the
            published variant with 256.

    Raises:
        ValueError: Where there is no such backbone, its blocks have no place for gates, or there are not two
            convolutions.
    """

    stride = 4

    def __init__(
        self,
        num_keypoints: int,
        backbone: str = "resnet50",
        pretrained: bool = False,
        upsampling: Sequence[int] = (256, 128),
    ) -> None:
        super().__init__()
        if len(upsampling) != 2:
            raise ValueError(f"upsampling is {tuple(upsampling)}; give the channels of two convolutions.")
        self.backbone, channels = timm_stage(backbone, pretrained, 32)
        for stage in _STAGES:
            first = next(iter(getattr(self.backbone, stage, [None])))
            norm: Any = getattr(first, "bn3", getattr(first, "bn2", None))
            if not hasattr(first, "se") or first.se is not None or not hasattr(norm, "num_features"):
                raise ValueError(f"the backbone '{backbone}' is no plain ResNet of timm's; take one, such as resnet50.")
            first.se = _Gate(norm.num_features)
        self.shuffle = nn.PixelShuffle(2)
        self.duc1 = _Upsampling(channels // 4, upsampling[0])
        self.duc2 = _Upsampling(upsampling[0], upsampling[1])
        self.conv_out = nn.Conv2d(upsampling[1], num_keypoints, 3, padding=1)
        initialize_head(self.conv_out)

    def forward(self, images: Tensor) -> Tensor:
        """Predict one map per keypoint.

        Args:
            images: (B, 3, H, W), normalised; H and W multiples of 32.

        Returns:
            (B, K, H / 4, W / 4).
        """
        features: Tensor = self.shuffle(self.backbone(images)[-1])
        maps: Tensor = self.conv_out(self.duc2(self.duc1(features)))
        return maps
