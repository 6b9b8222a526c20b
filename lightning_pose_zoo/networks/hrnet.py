"""HRNet for pose: parallel branches of four resolutions that exchange; only the finest one is read.

Paper: K. Sun, B. Xiao, D. Liu, J. Wang, "Deep High-Resolution Representation Learning for Human Pose Estimation",
CVPR 2019, arXiv 1902.09212.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from lightning_pose_zoo.networks.initialization import initialize_head
from lightning_pose_zoo.networks.timm_models import timm_model

__all__ = ["HRNetNetwork", "HRNetVariant"]

HRNetVariant = Literal["w18_small", "w18_small_v2", "w18", "w32", "w48"]


class HRNetNetwork(nn.Module):
    """timm's HRNet trunk without what pose does not read, and a 1x1 convolution.

    timm's trunk carries the names of the official pose checkpoints. Its last exchange also feeds three coarse outputs
    that pose ignores; they are cut away, so that no parameter stays without a gradient under DDP.

    Attributes:
        stride: Pixels of the input per cell of the maps, 4.

    Args:
        num_keypoints: K.
        variant: Channels of the finest branch: w18, w32 or w48; w18_small and w18_small_v2 have fewer blocks.
        pretrained: Start from timm's ImageNet weights, downloaded at first use.
        paper_init: Without these, draw all convolutions from N(0, 0.001), as published; else as timm draws them.
    """

    stride = 4

    def __init__(
        self,
        num_keypoints: int,
        variant: HRNetVariant = "w32",
        pretrained: bool = False,
        paper_init: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = timm_model(
            f"hrnet_{variant}", pretrained=pretrained, features_only=True, feature_location="", out_indices=(1,)
        )
        last_exchange = self.backbone.stage4[-1]
        last_exchange.fuse_layers = last_exchange.fuse_layers[:1]
        self.final_layer = nn.Conv2d(self.backbone.feature_info.channels()[-1], num_keypoints, 1)
        if paper_init and not pretrained:
            initialize_head(self.backbone)
        initialize_head(self.final_layer)

    def forward(self, images: Tensor) -> Tensor:
        """Predict one map per keypoint.

        Args:
            images: (B, 3, H, W), normalised; H and W multiples of 32.

        Returns:
            (B, K, H / 4, W / 4).
        """
        maps: Tensor = self.final_layer(self.backbone(images)[0])
        return maps
