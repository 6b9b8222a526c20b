"""The network of DeeperCut: a residual network at stride 8 whose heads give part fields.

Paper: E. Insafutdinov, L. Pishchulin, B. Andres, M. Andriluka, B. Schiele, "DeeperCut: A Deeper, Stronger, and Faster
Multi-Person Pose Estimation Model", ECCV 2016, arXiv 1605.03170.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_pose_zoo.networks.timm_models import timm_model

__all__ = ["DeepCutNetwork", "PairRegression", "PartFields"]

_RARE = 0.01  # share of cells that a part is expected in before anything is learned


class PartFields(NamedTuple):
    """What the network gives, with maps of h = H / 8 and w = W / 8, rounded up.

    Attributes:
        scores: (B, K, h, w), log-odds that a part is there.
        offsets: (B, K, 2, h, w), from the cell's middle to the part, in the codec's units.
        toward: (B, K, K, 2, h, w), from the cell's middle, if it is of the first part, to each other part of the same
            person; less the mean and divided by the deviation over the training set. A part's own is not trained.
        early_scores: (B, K, h, w), log-odds from the third stage; None where it has no head.
    """

    scores: Tensor
    offsets: Tensor
    toward: Tensor
    early_scores: Tensor | None


class _Head(nn.Module):
    """Maps at stride 8: a transposed convolution of features at stride 16, and one of 1x1 of features at stride 8.

    Weights over pairs of parts have an axis for each part, so that they can be taken over to other keypoints by name.

    Args:
        deep: Channels at stride 16.
        fine: Channels at stride 8; 0 for no such branch.
        shape: Of the outputs of a cell: (K,), (2 K,) or (K, K, 2).
    """

    def __init__(self, deep: int, fine: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.deep_weight = nn.Parameter(torch.empty(deep, *shape, 3, 3))
        self.bias = nn.Parameter(torch.zeros(*shape))
        nn.init.normal_(self.deep_weight, std=0.01)
        if fine:
            self.fine_weight = nn.Parameter(torch.empty(*shape, fine, 1, 1))
            nn.init.normal_(self.fine_weight, std=0.01)

    def forward(self, deep: Tensor, fine: Tensor) -> Tensor:
        """Return (B, *shape, h, w), as large as ``fine``."""
        depth = len(self.shape)
        maps = F.conv_transpose2d(
            deep, self.deep_weight.flatten(1, depth), self.bias.flatten(), stride=2, padding=1, output_padding=1
        )
        # Of an odd number of cells the doubled ones are one more.
        maps = maps[..., : fine.shape[-2], : fine.shape[-1]]
        if hasattr(self, "fine_weight"):
            maps = maps + F.conv2d(fine, self.fine_weight.flatten(0, depth - 1))
        return torch.unflatten(maps, 1, self.shape)


class PairRegression(nn.Module):
    """The log-odds that candidates of two different parts are one person's, by logistic regression for each two parts.

    For candidate d of part a and d' of part b, both ends say where they expect the other; each is wrong by a distance
    and an angle. The regression is over both ends' distance f, angle g, exp(-f) and exp(-g).

    Attributes:
        weights: (K, K, 5), of the four features of part a's expectation of part b, in 0..1, and a share of the bias.
        low: (4,) the least value of each feature in training.
        high: (4,) the greatest.
        pair_mean: (K, K, 2) mean displacement from part a to part b in the training set, pixels.
        pair_std: (K, K, 2) its deviation, pixels.

    Args:
        num_keypoints: K.
    """

    low: Tensor
    high: Tensor
    pair_mean: Tensor
    pair_std: Tensor

    def __init__(self, num_keypoints: int) -> None:
        super().__init__()
        # Before anything is fitted: even odds where both ends are wrong by about one and a half cells.
        start = torch.tensor([0.0, 0.0, 4.0, 0.0, -0.9])
        self.weights = nn.Parameter(start.repeat(num_keypoints, num_keypoints, 1))
        self.register_buffer("low", torch.zeros(4))
        self.register_buffer("high", torch.ones(4))
        self.register_buffer("pair_mean", torch.zeros(num_keypoints, num_keypoints, 2))
        self.register_buffer("pair_std", torch.ones(num_keypoints, num_keypoints, 2))

    def scaled(self, features: Tensor) -> Tensor:
        """Bring features (..., 4) to 0..1, and append the 1 of the bias."""
        scaled = (features - self.low) / (self.high - self.low).clamp(min=1e-6)
        return torch.cat([scaled, torch.ones_like(scaled[..., :1])], dim=-1)

    def forward(self, features: Tensor, parts: Tensor) -> Tensor:
        """Return the log-odds (m,) of pairs.

        Args:
            features: (m, 2, 4): distance in cells, angle in radians and exp(-) of both; first of the pair's first end.
            parts: (m, 2) int64, the part of each end.
        """
        first, second = parts.unbind(dim=1)
        return self.of_one_end(features[:, 0], first, second) + self.of_one_end(features[:, 1], second, first)

    def of_one_end(self, features: Tensor, here: Tensor, there: Tensor) -> Tensor:
        """Return what one end of pairs says; the sum of both ends is the log-odds.

        Args:
            features: (..., 4), how wrong this end is about the other one.
            here: Part of this end, int64; of any shape that goes with the features.
            there: Part of the other end.

        Returns:
            (...).
        """
        return (self.weights[here, there] * self.scaled(features)).sum(dim=-1)


class DeepCutNetwork(nn.Module):
    """A ResNet whose last stage is dilated to stride 16, and heads at stride 8 with a skip from the second stage.

    Attributes:
        stride: Pixels of the picture per cell: 8.
        pairs: The regressions over pairs of parts, which do not take part in ``forward``.

    Args:
        num_keypoints: K.
        backbone: A ResNet of timm (``resnet152`` in the paper), or another of its networks that can be dilated.
        pretrained: Start from timm's ImageNet weights, downloaded at first use; batch norm then keeps ImageNet's
            statistics, as published, because batches of whole pictures are small.
        intermediate_supervision: Add a head for scores on the third stage.

    Raises:
        ValueError: Where timm has no such backbone, or it cannot be dilated to stride 16.
    """

    stride = 8

    def __init__(
        self,
        num_keypoints: int,
        backbone: str = "resnet152",
        pretrained: bool = False,
        intermediate_supervision: bool = True,
    ) -> None:
        super().__init__()
        options = {"features_only": True, "output_stride": 16, "out_indices": (2, 3, 4)}
        self.backbone = timm_model(backbone, ("resnet50", "resnet101", "resnet152"), pretrained=pretrained, **options)
        strides = self.backbone.feature_info.reduction()
        if strides != [8, 16, 16]:
            raise ValueError(f"the backbone '{backbone}' has stages of stride {strides} and not 8, 16 and 16.")
        fine, middle, deep = self.backbone.feature_info.channels()
        self.keeps_statistics = pretrained
        self.scores = _Head(deep, fine, (num_keypoints,))
        self.offsets = _Head(deep, fine, (2 * num_keypoints,))
        self.toward = _Head(deep, fine, (num_keypoints, num_keypoints, 2))
        self.early_scores = _Head(middle, 0, (num_keypoints,)) if intermediate_supervision else None
        for head in (self.scores, self.early_scores):
            if head is not None:
                nn.init.constant_(head.bias, math.log(_RARE / (1 - _RARE)))
        self.pairs = PairRegression(num_keypoints)

    def train(self, mode: bool = True) -> Self:
        """Switch to training; batch norm keeps its statistics where they are ImageNet's."""
        super().train(mode)
        if self.keeps_statistics:
            for layer in self.backbone.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()
        return self

    def forward(self, images: Tensor) -> PartFields:
        """Predict the part fields.

        Args:
            images: (B, 3, H, W), normalised; of any size.
        """
        fine, middle, deep = self.backbone(images)
        early = None if self.early_scores is None else self.early_scores(middle, fine)
        offsets = torch.unflatten(self.offsets(deep, fine), 1, (-1, 2))
        return PartFields(self.scores(deep, fine), offsets, self.toward(deep, fine), early)
