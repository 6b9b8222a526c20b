"""Losses over heatmaps; keypoints without a label do not count.

A loss also says how a network trained with it is read (``to_heatmaps``): what is trained with mean squared error is a
heatmap already, what is trained with cross-entropy becomes one by a softmax.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_pose_zoo.codecs.heatmap import HeatmapTargets
from lightning_pose_zoo.codecs.integral import IntegralTargets
from lightning_pose_zoo.codecs.regression import RegressionTargets
from lightning_pose_zoo.errors import SettingsError

__all__ = [
    "HeatmapCrossEntropy",
    "HeatmapLoss",
    "HeatmapMSE",
    "HeatmapOHKM",
    "SymmetricIntegralLoss",
    "coordinate_loss",
    "stage_losses",
]

_AMPLITUDE = 2.0  # of the symmetric gradient, as published


class HeatmapLoss(nn.Module, ABC):
    """Base of the losses over heatmaps."""

    @abstractmethod
    def forward(self, outputs: Tensor, targets: HeatmapTargets) -> Tensor:
        """Compare a network's maps with the targets.

        Args:
            outputs: (N, K, h, w), as the network gives them.
            targets: Heatmaps (N, K, h, w) and weights (N, K).

        Returns:
            The loss, a scalar; 0 but connected to the outputs where nothing is labelled.
        """

    def to_heatmaps(self, outputs: Tensor) -> Tensor:
        """Turn a network's maps (N, K, h, w) into heatmaps with peaks of at most about 1."""
        return outputs.float()


def stage_losses(
    loss: HeatmapLoss, stages: Sequence[Tensor], targets: Sequence[HeatmapTargets], name: str
) -> dict[str, Tensor]:
    """Compare the maps of every stage with that stage's targets (intermediate supervision).

    Args:
        loss: What compares the maps of one stage.
        stages: (N, K, h, w) of each stage, in order.
        targets: Of each stage.
        name: What a stage is called.

    Returns:
        The loss of each stage by name and number, counted from 1; their sum is minimised.
    """
    pairs = zip(stages, targets, strict=True)
    return {f"{name}{number}": loss(maps, target) for number, (maps, target) in enumerate(pairs, start=1)}


def coordinate_loss(outputs: Tensor, targets: RegressionTargets) -> Tensor:
    """Return the squared distance of regressed coordinates from their targets, mean over the labelled keypoints.

    Args:
        outputs: (..., 2), as the network gives them.
        targets: Coordinates (..., 2) and weights (...).

    Returns:
        A scalar; 0 but connected to the outputs where nothing is labelled.
    """
    distances = (outputs.float() - targets.coordinates).square().sum(dim=-1)
    return (distances * targets.weights).sum() / targets.weights.sum().clamp(min=1)


def _squared_errors(outputs: Tensor, targets: HeatmapTargets) -> Tensor:
    """Return half the mean squared error of each map, (N, K), 0 where the weight is."""
    errors = (outputs.float() - targets.heatmaps).square().mean(dim=(-1, -2))
    return 0.5 * errors * targets.weights.square()


class HeatmapMSE(HeatmapLoss):
    """Half the squared error; keypoints without a label are zero but do count in the mean.

    Args:
        reduction: ``mean`` over all persons, keypoints and cells, as in the HRNet and Simple Baselines repositories; or
            ``sum`` over the keypoints and cells and mean over the persons, as in Convolutional Pose Machines (Caffe's
            Euclidean loss), which is K h w times as much; or ``cells``, sum over the cells and mean over keypoints and
            persons, as in Efficient Object Localization, h w times as much.
    """

    def __init__(self, reduction: Literal["mean", "sum", "cells"] = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "cells"):
            raise ValueError(f"reduction is '{reduction}'; choose mean or sum or cells.")
        self.reduction = reduction

    def forward(self, outputs: Tensor, targets: HeatmapTargets) -> Tensor:
        """See ``HeatmapLoss.forward``."""
        errors = _squared_errors(outputs, targets)
        if self.reduction == "mean":
            return errors.mean()
        summed = errors.sum(dim=1) if self.reduction == "sum" else errors
        return summed.mean() * (outputs.shape[-2] * outputs.shape[-1])


class HeatmapOHKM(HeatmapLoss):
    """Mean squared error over the hardest keypoints of each person.

    Online hard keypoint mining of Chen et al., "Cascaded Pyramid Network for Multi-Person Pose Estimation", CVPR 2018,
    arXiv 1711.07319.

    Args:
        keypoints: How many of a person's keypoints count, the worst ones; 8 of 17 in the paper.
    """

    def __init__(self, keypoints: int = 8) -> None:
        super().__init__()
        if keypoints < 1:
            raise ValueError(f"keypoints is {keypoints}; at least one must count.")
        self.keypoints = keypoints

    def forward(self, outputs: Tensor, targets: HeatmapTargets) -> Tensor:
        """See ``HeatmapLoss.forward``."""
        errors = _squared_errors(outputs, targets)
        return errors.topk(min(self.keypoints, errors.shape[1]), dim=1).values.mean()


class HeatmapCrossEntropy(HeatmapLoss):
    """Cross-entropy between the softmax over a map and the Gaussian target, scaled to sum 1.

    It cannot be satisfied by maps of zeros, and so learns from random weights where mean squared error often stays
    there. The mean is over labelled keypoints.

    Args:
        sigma: Of the codec, in cells. It sets the scale of the scores alone; see ``to_heatmaps``.
    """

    def __init__(self, sigma: float = 2.0) -> None:
        super().__init__()
        if sigma <= 0:
            raise ValueError(f"sigma is {sigma}; it must be positive.")
        self.sigma = sigma

    def extra_repr(self) -> str:
        """Show the settings where they are not the usual ones."""
        return "" if self.sigma == 2.0 else f"sigma={self.sigma}"

    def forward(self, outputs: Tensor, targets: HeatmapTargets) -> Tensor:
        """See ``HeatmapLoss.forward``."""
        expected = targets.heatmaps.flatten(2)
        expected = expected / expected.sum(dim=-1, keepdim=True).clamp(min=1e-6)
        errors = -(expected * F.log_softmax(outputs.float().flatten(2), dim=-1)).sum(dim=-1)
        return (errors * targets.weights).sum() / targets.weights.sum().clamp(min=1)

    def to_heatmaps(self, outputs: Tensor) -> Tensor:
        """Turn logits (N, K, h, w) into heatmaps whose peak tells how certain the network is of the place.

        The probabilities are divided by what the highest cell of the target has of them (2 pi sigma^2 less than
        all), so that scores are on the scale of the other losses: near 1 where the network is as sure as its targets.
        """
        probabilities = outputs.float().flatten(2).softmax(dim=-1).reshape(outputs.shape)
        return probabilities * (2 * torch.pi * self.sigma**2)


class _SymmetricMean(torch.autograd.Function):
    """The mean place on an axis, whose gradient tells a cell only on which side of the mean it is.

    The gradient of a mean is the cell's number, so that cells on the far side are moved by more than those on the near
    side. Here it is -2 for cells before the mean and 2 for the others.
    """

    @staticmethod
    def forward(ctx: Any, profile: Tensor) -> Tensor:
        """Return the mean cell (...,) of weights (..., n) along an axis."""
        cells = torch.arange(profile.shape[-1], device=profile.device, dtype=profile.dtype)
        mean: Tensor = (profile * cells).sum(dim=-1)
        ctx.save_for_backward(cells, mean)
        return mean

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # type: ignore[override]
        """Return the gradient of the weights (..., n) for that of the mean (...,)."""
        cells, mean = ctx.saved_tensors
        before = (cells < mean[..., None]) & (mean[..., None] <= len(cells))
        gradient: Tensor = gradients[0][..., None] * torch.where(before, -_AMPLITUDE, _AMPLITUDE).to(mean)
        return gradient


class SymmetricIntegralLoss(HeatmapLoss):
    """Distance of each map's mean from the keypoint, with gradients that do not prefer a side of the map.

    Maps become weights with the sum 1; their mean place is where the keypoint is taken to be. The loss is the distance
    along x in widths and along y in heights of the map, summed, mean over labelled keypoints. From the AlphaPose
    repository; Fang et al., "AlphaPose: Whole-Body Regional Multi-Person Pose Estimation and Tracking in Real-Time",
    TPAMI 2022, arXiv 2211.03375. Read such maps by ``IntegralCodec``.

    Args:
        weights: How maps become weights: ``softmax``, or ``sigmoid`` divided by its sum, whose peak tells how certain
            the network is.

    Raises:
        ValueError: Where there are no such weights.
    """

    def __init__(self, weights: Literal["softmax", "sigmoid"] = "sigmoid") -> None:
        super().__init__()
        if weights not in ("softmax", "sigmoid"):
            raise ValueError(f"weights is '{weights}'; choose softmax or sigmoid.")
        self.weights = weights

    def extra_repr(self) -> str:
        """Show the settings when a module is printed, and in checkpoints."""
        return f"weights={self.weights}"

    def forward(self, outputs: Tensor, targets: HeatmapTargets) -> Tensor:
        """See ``HeatmapLoss.forward``.

        Raises:
            SettingsError: Where the codec does not tell the keypoints' places.
        """
        if not isinstance(targets, IntegralTargets):
            raise SettingsError("SymmetricIntegralLoss needs to know where the keypoints are; take IntegralCodec.")
        maps = self.to_heatmaps(outputs)
        if self.weights == "sigmoid":
            maps = maps / maps.sum(dim=(-2, -1), keepdim=True)
        height, width = maps.shape[-2:]
        x, y = (_SymmetricMean.apply(maps.sum(dim=axis)) for axis in (-2, -1))
        errors: Tensor = (x - targets.cells[..., 0]).abs() / width + (y - targets.cells[..., 1]).abs() / height
        loss: Tensor = (errors * targets.weights).sum() / targets.weights.sum().clamp(min=1)
        return loss

    def to_heatmaps(self, outputs: Tensor) -> Tensor:
        """Turn a network's maps (N, K, h, w) into weights; those of a sigmoid are not divided, so that peaks tell."""
        if self.weights == "sigmoid":
            return outputs.float().sigmoid()
        return outputs.float().flatten(2).softmax(dim=-1).reshape(outputs.shape)
