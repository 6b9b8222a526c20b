"""Percentage of correct keypoints, PCK, PCKh and PDJ, and the area under its curve, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.keypoint_error import keypoint_errors, precise
from lightning_pose_zoo.skeletons import Skeleton, SkeletonLike, get_skeleton

__all__ = [
    "AUCConvention",
    "Average",
    "PCKhConvention",
    "area_under_curve",
    "auc",
    "auc_thresholds",
    "diameter_pairs",
    "fraction_within",
    "fractions_within",
    "pair_distance",
    "pck",
    "pckh",
    "pckh_keypoints",
    "pdj",
]

Average = Literal["micro", "macro"]
"""``micro``: over all labelled keypoints, so that frequent ones weigh more; ``macro``: the plain mean of the keypoints'
own fractions, over those keypoints that are ever labelled."""

PCKhConvention = Literal["hrnet", "bearpaw"]
"""``hrnet``: right at ``<=`` and the mean over all labelled keypoints, as in the HRNet and Simple Baselines
repositories; ``bearpaw``: right at ``<`` and the plain mean of the keypoints, as in the pytorch-pose repository. Both
leave pelvis and thorax out of the mean."""

AUCConvention = Literal["mmpose", "mpii"]
"""``mmpose``: the mean of PCK at n thresholds 0, T/n, ..., (n-1)T/n, where right means ``<`` and PCK is the plain mean
of the keypoints; ``mpii``: the trapezoids under PCK at n thresholds 0, T/(n-1), ..., T, divided by T, where right means
``<=`` and PCK is over all labelled keypoints but pelvis and thorax, as in the evaluation code of MPII and LSP."""


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


def fractions_within(
    errors: Tensor, thresholds: Sequence[float], strict: bool = False, average: Average | None = "micro"
) -> Tensor:
    """Return ``fraction_within`` at several thresholds: (T,) float64, or (T, K) where average is None."""
    return torch.stack([fraction_within(errors, threshold, strict, average) for threshold in thresholds])


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
    distance = points.new_full(points.shape[:1], torch.nan)
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


def diameter_pairs(skeleton: Skeleton) -> tuple[tuple[int, int], ...]:
    """Return the pairs that PDJ measures the torso's diameter between: from the left shoulder first.

    Toshev & Szegedy name left shoulder and right hip, and the evaluation code of LSP takes them; the skeleton's own
    order starts with the right shoulder, as mmpose's numbers do.
    """
    return tuple(sorted(skeleton.torso, key=lambda pair: not skeleton.names[pair[0]].startswith("left")))


def pdj(
    keypoints: Tensor,
    target: Tensor,
    visibility: Tensor,
    threshold: float = 0.2,
    skeleton: SkeletonLike = "lsp14",
    average: Average | None = "micro",
) -> Tensor:
    """Return the percentage of detected joints, as a fraction: PCK by the torso's diameter of the true pose.

    Source: Toshev & Szegedy, "DeepPose: Human Pose Estimation via Deep Neural Networks", CVPR 2014.

    Args:
        keypoints: (N, K, 2) predicted, pixels.
        target: (N, K, 2) true, pixels.
        visibility: (N, K); keypoints above 0 count.
        threshold: A keypoint is detected within (``<=``) this fraction of the torso's diameter.
        skeleton: What the keypoints are; its ``torso`` says where the diameter is measured.
        average: ``micro``, ``macro``, or None for one fraction per keypoint.

    Returns:
        A float64 scalar in 0..1, or (K,); NaN where nothing counts.
    """
    diameter = pair_distance(target, visibility, diameter_pairs(get_skeleton(skeleton)))
    return pck(keypoints, target, visibility, diameter, threshold, average=average)


def auc_thresholds(max_threshold: float, num_thresholds: int, convention: AUCConvention) -> list[float]:
    """Return the thresholds that AUC takes PCK at.

    Raises:
        MetricError: Where there are less than two thresholds or the largest is not above 0.
    """
    if num_thresholds < 2 or not 0 < max_threshold < math.inf:
        raise MetricError(
            f"AUC needs at least 2 thresholds up to a positive one, not {num_thresholds} up to {max_threshold}."
        )
    steps = num_thresholds if convention == "mmpose" else num_thresholds - 1
    # Fractions, so that rounding moves no threshold off a round number.
    return [float(Fraction(max_threshold) * index / steps) for index in range(num_thresholds)]


def area_under_curve(fractions: Tensor, rule: Literal["mean", "trapezoid"]) -> float:
    """Return the area under fractions (T,) at evenly spaced thresholds, as a fraction of the largest possible.

    Args:
        fractions: (T,), 0..1.
        rule: ``mean``: that of the fractions; ``trapezoid``: the first and the last count half.
    """
    values: list[float] = fractions.tolist()
    if rule == "mean":
        return math.fsum(values) / len(values)
    return (math.fsum(values) - (values[0] + values[-1]) / 2) / (len(values) - 1)


def auc(
    keypoints: Tensor,
    target: Tensor,
    visibility: Tensor,
    normalizer: Tensor | None = None,
    max_threshold: float = 30.0,
    num_thresholds: int = 20,
    convention: AUCConvention = "mmpose",
) -> Tensor:
    """Return the area under the curve of PCK over its threshold, as a fraction; by default mmpose's ``keypoint_auc``.

    Args:
        keypoints: (N, K, 2) predicted, pixels; without those that shall not count, such as pelvis and thorax.
        target: (N, K, 2) true, pixels.
        visibility: (N, K); keypoints above 0 count.
        normalizer: (N,) pixels, the size of each person; None: thresholds are pixels.
        max_threshold: Where the curve ends, as a fraction of the size or in pixels: mmpose's ``norm_factor``.
        num_thresholds: How many thresholds the curve is taken at.
        convention: ``mmpose`` or ``mpii``.

    Returns:
        A float64 scalar in 0..1; NaN where nothing counts.

    Raises:
        MetricError: Where there are less than two thresholds or the largest is not above 0.
    """
    errors = keypoint_errors(keypoints, target, visibility, normalizer)
    thresholds = auc_thresholds(max_threshold, num_thresholds, convention)
    mmpose = convention == "mmpose"
    curve = fractions_within(errors, thresholds, strict=mmpose, average="macro" if mmpose else "micro")
    return torch.tensor(area_under_curve(curve, "mean" if mmpose else "trapezoid"), dtype=torch.float64)
