"""Distances between predicted and true keypoints and their means: end point error, normalised mean error, RMSE."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["epe", "keypoint_errors", "mean_error", "nme", "precise", "rmse", "root_mean_square"]


def precise(tensor: Tensor) -> Tensor:
    """Return a tensor as float64, or as float32 on Apple's devices, which have no float64."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def keypoint_errors(keypoints: Tensor, target: Tensor, visibility: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Measure how far predictions are off, in units of each person's size.

    Args:
        keypoints: (N, K, 2) predicted, pixels; or (N, K, 3), such as millimetres.
        target: (N, K, 2) or (N, K, 3) true, in the same unit.
        visibility: (N, K); above 0 where labelled.
        sizes: (N,) in the same unit, what the distances of each person are divided by; None for plain distances.

    Returns:
        (N, K) float64 (float32 on devices without it); NaN where nothing counts: at keypoints without a label, and at
        persons whose size is NaN, infinite, 0 or less.
    """
    offset = precise(keypoints.to(target.device)) - precise(target)
    distances = torch.sqrt(sum((axis**2 for axis in offset.unbind(-1)), start=offset.new_zeros(())))
    counted = visibility > 0
    if sizes is not None:
        size = precise(sizes.to(target.device))
        counted = counted & ((size > 0) & size.isfinite())[:, None]
        distances = distances / size[:, None]
    return torch.where(counted, distances, torch.nan)


def mean_error(errors: Tensor) -> float:
    """Return the mean of the errors that are not NaN; NaN where there are none.

    The sum is rounded only once, so that the order of the rows cannot matter.
    """
    values = errors[~errors.isnan()]
    return math.fsum(values.tolist()) / len(values) if len(values) else math.nan


def root_mean_square(errors: Tensor) -> float:
    """Return the root of the mean of the squared errors that are not NaN; NaN where there are none."""
    return math.sqrt(mean_error(errors**2))


def epe(keypoints: Tensor, target: Tensor, visibility: Tensor, average: Literal["micro", "none"] = "micro") -> Tensor:
    """Return the end point error: the mean distance of labelled keypoints, in pixels.

    Args:
        keypoints: (N, K, 2) predicted, pixels.
        target: (N, K, 2) true, pixels.
        visibility: (N, K); above 0 where labelled.
        average: ``micro`` for the mean over all labelled keypoints, ``none`` for one mean per keypoint.

    Returns:
        A float64 scalar, or (K,); NaN where nothing is labelled.
    """
    errors = keypoint_errors(keypoints, target, visibility).cpu()
    parts = [errors] if average == "micro" else list(errors.unbind(dim=1))
    means = torch.tensor([mean_error(part) for part in parts], dtype=torch.float64)
    return means[0] if average == "micro" else means


def nme(keypoints: Tensor, target: Tensor, visibility: Tensor, normalizer: Tensor) -> Tensor:
    """Return the normalised mean error: the mean of distance / size over all labelled keypoints.

    Args:
        keypoints: (N, K, 2) predicted, pixels.
        target: (N, K, 2) true, pixels.
        visibility: (N, K); above 0 where labelled.
        normalizer: (N,) pixels, the size of each person; persons whose size is NaN, 0 or less do not count.

    Returns:
        A float64 scalar; NaN where nothing counts.
    """
    errors = keypoint_errors(keypoints, target, visibility, normalizer)
    return torch.tensor(mean_error(errors.cpu()), dtype=torch.float64)


def rmse(keypoints: Tensor, target: Tensor, visibility: Tensor) -> Tensor:
    """Return the root of the mean squared distance over all labelled keypoints, in pixels.

    Args:
        keypoints: (N, K, 2) predicted, pixels.
        target: (N, K, 2) true, pixels.
        visibility: (N, K); above 0 where labelled.

    Returns:
        A float64 scalar; NaN where nothing is labelled.
    """
    return torch.tensor(root_mean_square(keypoint_errors(keypoints, target, visibility).cpu()), dtype=torch.float64)
