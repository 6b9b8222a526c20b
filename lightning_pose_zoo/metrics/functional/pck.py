"""Percentage of correct keypoints, PCK and PCKh, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.keypoint_error import keypoint_errors, precise
from lightning_pose_zoo.skeletons import Skeleton, SkeletonLike, get_skeleton

__all__ = [
    "Average",
    "PCKhConvention",
    "fraction_within",
    "pair_distance",
    "pck",
    "pckh",
    "pckh_keypoints",
]

Average = Literal["micro", "macro"]
"""``micro``: over all labelled keypoints, so that frequent ones weigh more; ``macro``: the plain mean of the keypoints'
own fractions, over those keypoints that are ever labelled."""

PCKhConvention = Literal["hrnet", "bearpaw"]
"""``hrnet``: right at ``<=`` and the mean over all labelled keypoints, as in the HRNet and Simple Baselines
repositories; ``bearpaw``: right at ``<`` and the plain mean of the keypoints, as in the pytorch-pose repository. Both
leave pelvis and thorax out of the mean."""


def fraction_within(
    errors: Tensor, threshold: float, strict: bool = False, average: Average | None = "micro"
) -> Tensor:
    """Return the fraction of errors that are within a threshold.

    Args:
        errors: (N, K), NaN where nothing counts (``keypoint_errors``).
        threshold: The largest error that is right.
        strict: Whether an error of exactly the threshold is wrong.
        average: ``micro``, ``macro``, or None for one fraction per keypoint.

    Returns:
        A float64 scalar in 0..1, or (K,); NaN where nothing counts.
    """
    right = (errors < threshold if strict else errors <= threshold).sum(dim=0).double()
    counted = (~errors.isnan()).sum(dim=0).double()
    if average == "micro":
        return right.sum() / counted.sum()
    fractions = right / counted
    return fractions if average is None else fractions[counted > 0].mean()


def pair_distance(keypoints: Tensor, visibility: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Return the distance between the two keypoints of the first pair that is labelled.

    Args:
        keypoints: (N, K, 2), pixels.
        visibility: (N, K); above 0 where labelled.
        pairs: Of keypoints, the preferred first, as in ``Skeleton.torso``.

    Returns:
        (N,) pixels; NaN where no pair is labelled.
    """
    points = precise(keypoints)
    distance = points.new_full((len(points),), torch.nan)
    for first, second in reversed(pairs):
        labelled = (visibility[:, first] > 0) & (visibility[:, second] > 0)
        distance = torch.where(labelled, (points[:, first] - points[:, second]).norm(dim=-1), distance)
    return distance


def pck(
    keypoints: Tensor,
    target: Tensor,
    visibility: Tensor,
    normalizer: Tensor,
    threshold: float = 0.2,
    strict: bool = False,
    average: Average | None = "micro",
) -> Tensor:
    """Return the percentage of correct keypoints, as a fraction.

    Args:
        keypoints: (N, K, 2) predicted, pixels.
        target: (N, K, 2) true, pixels.
        visibility: (N, K); keypoints above 0 count.
        normalizer: (N,) pixels, the size of each person; persons whose size is NaN, 0 or less do not count.
        threshold: A keypoint is right within this fraction of the size.
        strict: Whether a distance of exactly the threshold is wrong.
        average: ``micro``, ``macro``, or None for one fraction per keypoint.

    Returns:
        A float64 scalar in 0..1, or (K,); NaN where nothing counts.
    """
    return fraction_within(keypoint_errors(keypoints, target, visibility, normalizer), threshold, strict, average)


def pckh_keypoints(skeleton: Skeleton) -> list[int]:
    """Return the keypoints that PCKh's mean is over: all but pelvis and thorax."""
    return [index for index, name in enumerate(skeleton.names) if name not in ("pelvis", "thorax")]


def pckh(
    keypoints: Tensor,
    target: Tensor,
    visibility: Tensor,
    head_size: Tensor,
    threshold: float = 0.5,
    skeleton: SkeletonLike = "mpii16",
    convention: PCKhConvention = "hrnet",
) -> Tensor:
    """Return PCKh, the fraction of keypoints within a fraction of the head's size.

    Source: Andriluka et al., "2D Human Pose Estimation: New Benchmark and State of the Art Analysis", CVPR 2014.

    Args:
        keypoints: (N, K, 2) predicted, pixels.
        target: (N, K, 2) true, pixels.
        visibility: (N, K); keypoints above 0 count.
        head_size: (N,) pixels; for MPII 0.6 times the diagonal of the head's box.
        threshold: A keypoint is right within this fraction of the head's size.
        skeleton: What the keypoints are.
        convention: ``hrnet`` or ``bearpaw``.

    Returns:
        A float64 scalar in 0..1; NaN where nothing counts.

    Raises:
        MetricError: Where K is not that of the skeleton.
    """
    known = get_skeleton(skeleton)
    if keypoints.shape[1] != known.num_keypoints:
        raise MetricError(
            f"'{known.name}' has {known.num_keypoints} keypoints, the predictions have {keypoints.shape[1]}."
        )
    errors = keypoint_errors(keypoints, target, visibility, head_size)[:, pckh_keypoints(known)]
    hrnet = convention == "hrnet"
    return fraction_within(errors, threshold, strict=not hrnet, average="micro" if hrnet else "macro")
