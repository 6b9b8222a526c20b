"""Errors of three-dimensional poses: MPJPE, N-MPJPE, PA-MPJPE, 3D PCK and the area under its curve."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_pose_zoo.metrics.functional.keypoint_error import keypoint_errors, mean_error, precise
from lightning_pose_zoo.metrics.functional.pck import (
    area_under_curve,
    auc_thresholds,
    fraction_within,
    fractions_within,
)

__all__ = ["AlignOn", "Alignment", "align_poses", "auc_3d", "mpjpe", "pck_3d", "pose_errors_3d"]

Alignment = Literal["none", "scale", "procrustes"]
"""``none``: poses are compared as they are; ``scale``: the prediction is scaled to fit best, as in N-MPJPE;
``procrustes``: it is scaled, rotated and shifted to fit best, as in PA-MPJPE."""

AlignOn = Literal["labelled", "all"]
"""Which keypoints have to fit best: those with a label, or all of them, as in mmpose."""

_FEWEST_FOR_PROCRUSTES = 3


def align_poses(
    keypoints: Tensor,
    target: Tensor,
    visibility: Tensor,
    alignment: Alignment = "procrustes",
    align_on: AlignOn = "labelled",
) -> Tensor:
    """Bring predicted poses as near to the true ones as an alignment can, in the sense of least squares.

    ``scale`` multiplies each pose x by s = <x, y> / <x, x>, without shifting it. ``procrustes`` maps x to s R x + t,
    with R a rotation: where a reflection would fit better, the best rotation is taken.

    Source of procrustes: Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    TPAMI 1991.

    Args:
        keypoints: (N, K, 3) predicted.
        target: (N, K, 3) true, in the same unit; anything where it does not count.
        visibility: (N, K); above 0 where labelled.
        alignment: ``none``, ``scale`` or ``procrustes``.
        align_on: ``labelled`` or ``all``: the keypoints that decide.

    Returns:
        (N, K, 3) float64. A pose with less than three keypoints that decide can be laid on any other, and so is NaN
        after ``procrustes``.
    """
    source = precise(keypoints.to(target.device))
    if alignment == "none":
        return source
    counted = torch.ones_like(visibility, dtype=torch.bool) if align_on == "all" else visibility > 0
    goal = torch.where(counted[..., None], precise(target), 0.0)
    deciding = torch.where(counted[..., None], source, 0.0)
    if alignment == "scale":
        scale = _ratio((deciding * goal).sum(dim=(1, 2)), (deciding**2).sum(dim=(1, 2)))
        return source * scale[:, None, None]
    count = counted.sum(dim=1)[:, None, None]
    source_mean = deciding.sum(dim=1, keepdim=True) / count
    goal_mean = goal.sum(dim=1, keepdim=True) / count
    centred = torch.where(counted[..., None], source - source_mean, 0.0)
    goal = torch.where(counted[..., None], goal - goal_mean, 0.0)
    u, stretch, v = torch.linalg.svd(centred.transpose(1, 2) @ goal)
    # The last axis is the one that costs least to turn round.
    sign = torch.ones_like(stretch)
    sign[:, 2] = torch.where(torch.linalg.det(u @ v) < 0, -1.0, 1.0)
    rotation = (u * sign[:, None]) @ v
    scale = _ratio((stretch * sign).sum(dim=1), (centred**2).sum(dim=(1, 2)))
    aligned = scale[:, None, None] * ((source - source_mean) @ rotation) + goal_mean
    return torch.where(count >= _FEWEST_FOR_PROCRUSTES, aligned, torch.nan)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide; 1 where all points lie in one place, so that no scale changes anything."""
    return torch.where(denominator > 0, numerator / denominator, 1.0)


def pose_errors_3d(
    keypoints: Tensor,
    target: Tensor,
    visibility: Tensor,
    alignment: Alignment = "none",
    root: int | None = None,
    align_on: AlignOn = "labelled",
) -> Tensor:
    """Measure how far predictions are off after an alignment.

    Args:
        keypoints: (N, K, 3) predicted, millimetres.
        target: (N, K, 3) true, millimetres.
        visibility: (N, K); above 0 where labelled.
        alignment: ``none``, ``scale`` or ``procrustes``.
        root: Keypoint that is moved to the origin in both poses before anything else; None: they stay where they are.
        align_on: ``labelled`` or ``all``: the keypoints that the alignment fits.

    Returns:
        (N, K) float64, millimetres; NaN at keypoints without a label, and at persons whose root is not labelled or who
        cannot be aligned.
    """
    if root is not None:
        keypoints = precise(keypoints) - precise(keypoints)[:, root : root + 1]
        target = precise(target) - precise(target)[:, root : root + 1]
        visibility = visibility * (visibility[:, root : root + 1] > 0)
    return keypoint_errors(align_poses(keypoints, target, visibility, alignment, align_on), target, visibility)


def mpjpe(
    keypoints: Tensor,
    target: Tensor,
    visibility: Tensor,
    alignment: Alignment = "none",
    root: int | None = None,
    align_on: AlignOn = "labelled",
) -> Tensor:
    """Return the mean per joint position error; N-MPJPE with ``scale``, PA-MPJPE with ``procrustes``.

    Args:
        keypoints: (N, K, 3) predicted, millimetres.
        target: (N, K, 3) true, millimetres.
        visibility: (N, K); keypoints above 0 count.
        alignment: ``none``, ``scale`` or ``procrustes``.
        root: Keypoint that is moved to the origin in both poses first; None: they stay where they are.
        align_on: ``labelled`` or ``all``: the keypoints that the alignment fits.

    Returns:
        A float64 scalar, millimetres; NaN where nothing counts.
    """
    errors = pose_errors_3d(keypoints, target, visibility, alignment, root, align_on)
    return torch.tensor(mean_error(errors.cpu()), dtype=torch.float64)


def pck_3d(
    keypoints: Tensor,
    target: Tensor,
    visibility: Tensor,
    threshold: float = 150.0,
    alignment: Alignment = "none",
    root: int | None = None,
    align_on: AlignOn = "labelled",
) -> Tensor:
    """Return the fraction of keypoints that are less than a threshold off.

    Args:
        keypoints: (N, K, 3) predicted, millimetres.
        target: (N, K, 3) true, millimetres.
        visibility: (N, K); keypoints above 0 count.
        threshold: Millimetres; a keypoint is right below (``<``) it.
        alignment: ``none``, ``scale`` or ``procrustes``.
        root: Keypoint that is moved to the origin in both poses first; None: they stay where they are.
        align_on: ``labelled`` or ``all``: the keypoints that the alignment fits.

    Returns:
        A float64 scalar in 0..1; NaN where nothing counts.
    """
    return fraction_within(pose_errors_3d(keypoints, target, visibility, alignment, root, align_on), threshold, True)


def auc_3d(
    keypoints: Tensor,
    target: Tensor,
    visibility: Tensor,
    max_threshold: float = 150.0,
    num_thresholds: int = 31,
    alignment: Alignment = "none",
    root: int | None = None,
    align_on: AlignOn = "labelled",
) -> Tensor:
    """Return the mean of 3D PCK at evenly spaced thresholds from 0 to the largest, both included.

    Args:
        keypoints: (N, K, 3) predicted, millimetres.
        target: (N, K, 3) true, millimetres.
        visibility: (N, K); keypoints above 0 count.
        max_threshold: The largest threshold, millimetres.
        num_thresholds: How many thresholds.
        alignment: ``none``, ``scale`` or ``procrustes``.
        root: Keypoint that is moved to the origin in both poses first; None: they stay where they are.
        align_on: ``labelled`` or ``all``: the keypoints that the alignment fits.

    Returns:
        A float64 scalar in 0..1; NaN where nothing counts.

    Raises:
        MetricError: Where there are less than two thresholds or the largest is not above 0.
    """
    thresholds = auc_thresholds(max_threshold, num_thresholds, "mpii")
    errors = pose_errors_3d(keypoints, target, visibility, alignment, root, align_on)
    return torch.tensor(
        area_under_curve(fractions_within(errors, thresholds, strict=True), "mean"), dtype=torch.float64
    )
