"""End point error, RMSE and normalised mean error as torchmetrics classes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lightning_pose_zoo.metrics.functional.keypoint_error import mean_error, root_mean_square
from lightning_pose_zoo.metrics.normalized import NormalizeBy, NormalizedMetric
from lightning_pose_zoo.metrics.rows import KeypointMetric, Truth
from lightning_pose_zoo.skeletons import SkeletonLike

__all__ = ["EPE", "NME", "RMSE"]


class PixelMetric(KeypointMetric):
    """A metric of plain distances, in pixels of the original image.

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


class EPE(PixelMetric):
    """End point error: the mean distance between predicted and true keypoints, in pixels of the original image.

    ``EPE`` is the mean over all labelled keypoints (visibility above 0), ``EPE/median`` their median, and
    ``EPE/<keypoint>`` the mean of each keypoint. Somebody for whom nothing was predicted makes the mean infinite; the
    median stays meaningful. DeepLabCut calls this mean RMSE.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
    """

    def compute(self) -> dict[str, Tensor]:
        """Return ``EPE``, ``EPE/median`` and ``EPE/<keypoint>``; NaN where nothing counts."""
        errors = self.errors()
        counted = errors[~errors.isnan()]
        # Not torch.median: of an even number of errors it takes the lower of the middle two.
        median = float(np.median(counted.numpy())) if len(counted) else math.nan
        values = _whole_and_single("EPE", errors, self, mean_error)
        return self.results({"EPE": values.pop("EPE"), "EPE/median": median} | values)


class RMSE(PixelMetric):
    """Root of the mean squared distance between predicted and true keypoints, in pixels of the original image.

    ``RMSE`` = sqrt(mean |prediction - truth|^2) over all labelled keypoints (visibility above 0), ``RMSE/<keypoint>``
    the same for each keypoint. Large errors weigh more than in ``EPE``. What DeepLabCut reports as RMSE is the mean of
    the distances: our ``EPE``.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.

    Example:
        >>> import torch
        >>> metric = RMSE(skeleton="lsp14")
        >>> target = torch.rand(8, 14, 2) * 100
        >>> metric.update(target + torch.tensor([3.0, 4.0]), target, torch.ones(8, 14))
        >>> round(float(metric.compute()["RMSE"]), 3)
        5.0
    """

    def compute(self) -> dict[str, Tensor]:
        """Return ``RMSE`` and ``RMSE/<keypoint>``; NaN where nothing counts."""
        return self.results(_whole_and_single("RMSE", self.errors(), self, root_mean_square))


class NME(NormalizedMetric):
    """Normalised mean error: the mean of |prediction - truth| / size over all labelled keypoints.

    ``NME`` is over all labelled keypoints of all persons, as mmpose's ``keypoint_nme``; ``NME/<keypoint>`` is the mean
    of each keypoint. Persons whose size is unknown are left out, and counted in a warning. Benchmarks of faces divide
    by the distance of the eyes or by the face's box: give that to ``update`` as ``normalizer``.

    Source: mmpose; Sun, Wang & Tang, "Deep Convolutional Network Cascade for Facial Point Detection", CVPR 2013.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        normalize_by: The person's size: ``torso``, ``box``, ``head`` or ``pixel``, as in PCK. Any other size is
            given to ``update`` as ``normalizer``.

    Raises:
        MetricError: Where ``normalize_by`` is unknown or the skeleton has no torso to normalise by.

    Example:
        >>> import torch
        >>> metric = NME(skeleton="lsp14")
        >>> target = torch.rand(8, 14, 2) * 100
        >>> metric.update(target + torch.tensor([3.0, 4.0]), target, torch.ones(8, 14), torch.full((8,), 50.0))
        >>> round(float(metric.compute()["NME"]), 3)
        0.1
    """

    higher_is_better = False

    def __init__(self, skeleton: SkeletonLike = "coco17", normalize_by: NormalizeBy = "box") -> None:
        super().__init__(skeleton, normalize_by)

    def compute(self) -> dict[str, Tensor]:
        """Return ``NME`` and ``NME/<keypoint>``; NaN where nothing counts."""
        return self.results(_whole_and_single("NME", self.errors(), self, mean_error))


def _whole_and_single(
    name: str, errors: Tensor, metric: KeypointMetric, reduce: Callable[[Tensor], float]
) -> dict[str, float]:
    single = {f"{name}/{part}": reduce(errors[:, index]) for index, part in enumerate(metric.skeleton.names)}
    return {name: reduce(errors)} | single
