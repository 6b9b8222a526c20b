"""Distances between predicted and true keypoints, and their mean: the end point error."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["epe", "keypoint_errors", "mean_error", "precise"]


def precise(tensor: Tensor) -> Tensor:
    """Return a tensor as float64, or as float32 on Apple's devices, which have no float64."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def keypoint_errors(keypoints: Tensor, target: Tensor, visibility: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Measure how far predictions are off, in units of each person's size.

    Args:
        keypoints: (N, K, 2) predicted, pixels.
        target: (N, K, 2) true, pixels.
        visibility: (N, K); above 0 where labelled.
        sizes: (N,) pixels, what the distances of each person are divided by; None for plain pixels.

    Returns:
        (N, K) float64 (float32 on devices without it); NaN where nothing counts: at keypoints without a label, and at
        persons whose size is NaN, infinite, 0 or less.
    """
    offset = precise(keypoints.to(target.device)) - precise(target)
    distances = torch.sqrt(offset[..., 0] ** 2 + offset[..., 1] ** 2)
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
