"""The end point error as a torchmetrics class."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lightning_pose_zoo.metrics.functional.keypoint_error import mean_error
from lightning_pose_zoo.metrics.rows import KeypointMetric, Truth
from lightning_pose_zoo.skeletons import SkeletonLike

__all__ = ["EPE"]


class EPE(KeypointMetric):
    """End point error: the mean distance between predicted and true keypoints, in pixels of the original image.

    ``EPE`` is the mean over all labelled keypoints (visibility above 0), ``EPE/median`` their median, and
    ``EPE/<keypoint>`` the mean of each keypoint. Somebody for whom nothing was predicted makes the mean infinite; the
    median stays meaningful.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
    """

    higher_is_better = False

    def __init__(self, skeleton: SkeletonLike = "coco17") -> None:
        super().__init__(skeleton, "pixel")

    def update(self, keypoints: Tensor, target: Tensor, visibility: Tensor, ids: Tensor | None = None) -> None:
        """Take in persons.

        Args:
            keypoints: (N, K, 2) predicted, pixels.
            target: (N, K, 2) true, pixels.
            visibility: (N, K); keypoints above 0 count.
            ids: (N,) int64, by which persons that a distributed sampler repeats are dropped; None: every row counts.

        Raises:
            MetricError: Where a shape does not fit, or something is NaN or infinite.
        """
        self.add(keypoints, target, visibility, torch.ones(len(target)), ids)

    def sizes(self, truth: Truth) -> Tensor:
        """Return ones: pixels stay pixels."""
        return truth.keypoints.new_ones(len(truth.keypoints))

    def compute(self) -> dict[str, Tensor]:
        """Return ``EPE``, ``EPE/median`` and ``EPE/<keypoint>``; NaN where nothing counts."""
        errors = self.errors()
        counted = errors[~errors.isnan()]
        # Not torch.median: of an even number of errors it takes the lower of the middle two.
        median = float(np.median(counted.numpy())) if len(counted) else math.nan
        values = {"EPE": mean_error(errors), "EPE/median": median}
        values |= {f"EPE/{name}": mean_error(errors[:, index]) for index, name in enumerate(self.skeleton.names)}
        return self.results(values)
