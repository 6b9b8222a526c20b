"""The networks of DeepPose: AlexNet, or any backbone, ending in coordinates; one for each stage of the cascade.

Paper: A. Toshev, C. Szegedy, "DeepPose: Human Pose Estimation via Deep Neural Networks", CVPR 2014, arXiv 1312.4659.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_pose_zoo.networks.timm_models import pooled_backbone

__all__ = ["AlexNetFeatures", "CoordinateRegressor", "DeepPoseHead", "DeepPoseNetwork", "DeepPoseRefinement"]

DeepPoseHead = Literal["shared_select", "per_joint", "shared_2out"]


class AlexNetFeatures(nn.Module):
    """AlexNet without its last layer, in one tower: five convolutions and two layers of 4096.

    For an input of 227x227 the maps have 55, 27 and 13 cells a side, and 6 before the first full layer; the same for
    220x220, the paper's. Other inputs are averaged, or repeated, to 6x6.

    Source: A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep Convolutional Neural Networks",
    NIPS 2012; the order of normalisation and pooling and the dropout of 0.6 are DeepPose's.

    Attributes:
        num_features: 4096.

    Args:
        dropout: Share of the full layers' values that are dropped in training.
    """

    num_features = 4096

    def __init__(self, dropout: float = 0.6) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width, kernel, stride, padding, pooled in (
            (96, 11, 4, 0, True), (256, 5, 1, 2, True), (384, 3, 1, 1, False), (384, 3, 1, 1, False),
            (256, 3, 1, 1, False),
        ):  # fmt: skip
            layers += [nn.Conv2d(inputs, width, kernel, stride, padding), nn.ReLU(inplace=True)]
            if pooled:
                # torch divides alpha by the number of channels, the paper does not: 5 times 1e-4.
                layers += [nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0), nn.MaxPool2d(3, 2, ceil_mode=True)]
            inputs = width
        self.convs = nn.Sequential(*layers, nn.MaxPool2d(3, 2, ceil_mode=True), nn.AdaptiveAvgPool2d(6))
        self.full = nn.Sequential(
            nn.Flatten(),
            nn.Linear(256 * 6 * 6, 4096), nn.ReLU(inplace=True), nn.Dropout(dropout),
            nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(dropout),
        )  # fmt: skip
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (N, 4096) of (N, 3, H, W) normalised pictures."""
        features: Tensor = self.full(self.convs(images))
        return features


def _features(backbone: str, pretrained: bool) -> tuple[nn.Module, int]:
    """Build AlexNet or a timm model without its classifier, and return its number of features beside it."""
    if backbone == "alexnet":
        if pretrained:
            raise ValueError("alexnet has no ImageNet weights here; set pretrained to false, as in the paper.")
        return AlexNetFeatures(), AlexNetFeatures.num_features
    return pooled_backbone(backbone, pretrained, own=("alexnet",))


class CoordinateRegressor(nn.Module):
    """Features of a picture, and a linear layer to coordinates.

    Args:
        points: How many points it gives.
        backbone: ``alexnet``, or any timm model; one with convolutions is pooled to one vector.
        pretrained: Start from timm's ImageNet weights.

    Raises:
        ValueError: Where there is no such backbone, or no ImageNet weights of it.
    """

    def __init__(self, points: int, backbone: str = "alexnet", pretrained: bool = False) -> None:
        super().__init__()
        self.backbone, features = _features(backbone, pretrained)
        self.head = nn.Linear(features, 2 * points)
        # It begins in the middle: of the crop in the first stage, at the earlier guess in the others.
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, points, 2) coordinates of (N, 3, h, w) normalised pictures."""
        features: Tensor = self.backbone(images)
        device = features.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            # Half precision would move coordinates by up to a five hundredth of the crop.
            with torch.autocast(device, enabled=False):
                return self._points(features.float())
        return self._points(features)

    def _points(self, features: Tensor) -> Tensor:
        coordinates: Tensor = self.head(features)
        return coordinates.view(coordinates.shape[0], -1, 2)


class DeepPoseRefinement(nn.Module):
    """A stage after the first: each joint's own crop to the joint's displacement from the crop's middle.

    Attributes:
        displacement_mean: (K, 2) of the stage before's errors over the training set, in diameters of the pose.
        displacement_std: (K, 2), their deviation; 0 until it was fitted.

    Args:
        num_keypoints: K.
        head: ``shared_select``, one network with an output for each joint, of which the crop's own is taken;
            ``per_joint``, a network for each joint; ``shared_2out``, one network that is not told the joint.
        backbone: As for ``CoordinateRegressor``.
        pretrained: Likewise.
    """

    displacement_mean: Tensor
    displacement_std: Tensor

    def __init__(self, num_keypoints: int, head: DeepPoseHead, backbone: str, pretrained: bool) -> None:
        super().__init__()
        self.head = head
        points = num_keypoints if head == "shared_select" else 1
        networks = num_keypoints if head == "per_joint" else 1
        self.regressors = nn.ModuleList(CoordinateRegressor(points, backbone, pretrained) for _ in range(networks))
        self.register_buffer("displacement_mean", torch.zeros(num_keypoints, 2))
        self.register_buffer("displacement_std", torch.zeros(num_keypoints, 2))

    def forward(self, crops: Tensor, joints: Tensor) -> Tensor:
        """Find each crop's joint.

        Args:
            crops: (B, J, 3, h, w), normalised.
            joints: (B, J) int64, which joint each crop is of; 0, 1, ..., K - 1 in each row where every joint has a
                network of its own.

        Returns:
            (B, J, 2), displacements from the middles of the crops, in units of their sides.
        """
        if self.head == "per_joint":
            found = [regressor(crops[:, joint]) for joint, regressor in enumerate(self.regressors)]
            return torch.cat(found, dim=1)
        points: Tensor = self.regressors[0](crops.flatten(0, 1)).unflatten(0, (crops.shape[0], crops.shape[1]))
        if self.head == "shared_2out":
            return points[:, :, 0]
        return points.gather(2, joints[..., None, None].expand(-1, -1, 1, 2))[:, :, 0]


class DeepPoseNetwork(nn.Module):
    """The networks of all stages; no two share weights.

    Attributes:
        keypoint_modules: What the names of entries begin with that are of a network for each joint.

    Args:
        num_keypoints: K.
        stages: How many, at least 1; 3 in the paper.
        backbone: ``alexnet``, the paper's, or any timm model that takes pictures of any size.
        head: Of the stages after the first; see ``DeepPoseRefinement``.
        pretrained: Start each stage from timm's ImageNet weights, downloaded at first use.

    Raises:
        ValueError: Where an argument is out of range, or there is no such backbone.
    """

    def __init__(
        self,
        num_keypoints: int,
        stages: int = 3,
        backbone: str = "alexnet",
        head: DeepPoseHead = "shared_select",
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        if stages < 1:
            raise ValueError(f"stages is {stages}; give at least 1.")
        if head not in ("shared_select", "per_joint", "shared_2out"):
            raise ValueError(f"unknown head '{head}'; choose shared_select, per_joint or shared_2out.")
        first = CoordinateRegressor(num_keypoints, backbone, pretrained)
        later = (DeepPoseRefinement(num_keypoints, head, backbone, pretrained) for _ in range(stages - 1))
        self.stages = nn.ModuleList([first, *later])
        own = range(1, stages) if head == "per_joint" else ()
        self.keypoint_modules = tuple(f"stages.{number}.regressors." for number in own)

    def forward(self, images: Tensor) -> Tensor:
        """Return what the first stage finds, (B, K, 2) in units of the crop, of (B, 3, h, w) normalised crops.

        The later stages, ``stages[1:]``, see crops around what was found; ``methods.DeepPose`` leads the way.
        """
        coordinates: Tensor = self.stages[0](images)
        return coordinates
