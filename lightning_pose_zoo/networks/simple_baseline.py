"""The network of Simple Baselines: a classification backbone, a few transposed convolutions, one map per keypoint.

Paper: B. Xiao, H. Wu, Y. Wei, "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018, arXiv 1804.06208.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_pose_zoo.networks.initialization import initialize_head
from lightning_pose_zoo.networks.timm_models import timm_stage

__all__ = ["SimpleBaselineNetwork"]

# (padding, output padding) that double the size for each kernel of stride 2.
_DECONV_PADDING = {4: (1, 0), 3: (1, 1), 2: (0, 0)}


class SimpleBaselineNetwork(nn.Module):
    """Backbone, transposed convolutions with batch norm and ReLU, and a 1x1 convolution.

    Attributes:
        stride: Pixels of the input per cell of the maps: the backbone's stride, halved by every transposed convolution.

    Args:
        num_keypoints: K.
        backbone: Any timm model with feature maps (``resnet50`` in the paper).
        pretrained: Start from timm's ImageNet weights, downloaded at first use.
        deconv_channels: Channels of each transposed convolution.
        deconv_kernel: Its kernel: 4, 3 or 2.
        backbone_stride: The stage of the backbone that is read, by its pixels per cell; 32, the last one of a ResNet,
            in the paper. Stages after it are left out.

    Raises:
        ValueError: Where the backbone has no feature maps, none of that stride, or the kernel is another.
    """

    def __init__(
        self,
        num_keypoints: int,
        backbone: str = "resnet50",
        pretrained: bool = False,
        deconv_channels: Sequence[int] = (256, 256, 256),
        deconv_kernel: int = 4,
        backbone_stride: int = 32,
    ) -> None:
        super().__init__()
        if deconv_kernel not in _DECONV_PADDING:
            raise ValueError(f"deconv_kernel is {deconv_kernel}; it must be 4, 3 or 2.")
        self.backbone, channels = timm_stage(backbone, pretrained, backbone_stride)
        self.stride = backbone_stride // 2 ** len(deconv_channels)
        padding, output_padding = _DECONV_PADDING[deconv_kernel]
        layers: list[nn.Module] = []
        for width in deconv_channels:
            layers += [
                nn.ConvTranspose2d(channels, width, deconv_kernel, 2, padding, output_padding, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.deconv_layers = nn.Sequential(*layers)
        self.final_layer = nn.Conv2d(channels, num_keypoints, 1)
        initialize_head(self.deconv_layers, self.final_layer)

    def forward(self, images: Tensor) -> Tensor:
        """Predict one map per keypoint.

        Args:
            images: (B, 3, H, W), normalised; H and W multiples of the backbone's stride.

        Returns:
            (B, K, H / stride, W / stride).
        """
        features: Tensor = self.backbone(images)[-1]
        maps: Tensor = self.final_layer(self.deconv_layers(features))
        return maps
