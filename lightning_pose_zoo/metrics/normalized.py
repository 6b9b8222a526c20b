"""What metrics share whose distances are divided by a size of the person that can be chosen."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.pck import pair_distance
from lightning_pose_zoo.metrics.rows import KeypointMetric, Truth
from lightning_pose_zoo.skeletons import SkeletonLike

__all__ = ["NormalizeBy", "NormalizedMetric", "head_sizes"]

NormalizeBy = Literal["torso", "box", "head", "pixel"]
"""``torso``: from a shoulder to the opposite hip (the first labelled pair of ``Skeleton.torso``); ``box``: the longer
side of the true box; ``head``: as in PCKh; ``pixel``: nothing, distances stay pixels."""


def head_sizes(metric: KeypointMetric, truth: Truth) -> Tensor:
    """Return the size of each head, (N,) pixels: as annotated, else from the skeleton's ``head`` pairs."""
    measured = pair_distance(truth.keypoints, truth.visibility, metric.skeleton.head)
    if truth.head_sizes is None:
        return measured
    annotated = truth.head_sizes.to(measured.dtype)
    return torch.where((annotated > 0) & annotated.isfinite(), annotated, measured)


class NormalizedMetric(KeypointMetric):
    """A metric of distances that are divided by a size of each person: measured on the truth, or given.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        normalize_by: ``torso``, ``box``, ``head`` or ``pixel``.
        size_name: What distances are divided by, for the name of the state; None: from ``normalize_by``.

    Raises:
        MetricError: Where ``normalize_by`` is unknown or the skeleton has no torso to normalise by.
    """

    def __init__(self, skeleton: SkeletonLike, normalize_by: NormalizeBy, size_name: str | None = None) -> None:
        name = type(self).__name__
        if normalize_by not in get_args(NormalizeBy):
            raise MetricError(f"normalize_by is '{normalize_by}'; {name} knows torso, box, head and pixel.")
        super().__init__(skeleton, size_name or f"by_{normalize_by}")
        if normalize_by == "torso" and not self.skeleton.torso:
            raise MetricError(
                f"skeleton '{self.skeleton.name}' has no torso; use normalize_by 'box' or define 'torso'."
            )
        self.normalize_by: NormalizeBy = normalize_by
        self.size_pairs = self.skeleton.torso if normalize_by == "torso" else self.skeleton.head

    def update(
        self,
        keypoints: Tensor,
        target: Tensor,
        visibility: Tensor,
        normalizer: Tensor | None = None,
        ids: Tensor | None = None,
    ) -> None:
        """Take in persons.

        Args:
            keypoints: (N, K, 2) predicted, pixels.
            target: (N, K, 2) true, pixels.
            visibility: (N, K); keypoints above 0 count.
            normalizer: (N,) pixels, any size of each person; None: measured on ``target``. Needed for ``box``, and
                not allowed for ``pixel``.
            ids: (N,) int64, by which persons that a distributed sampler repeats are dropped; None: every row counts.

        Raises:
            MetricError: Where a shape does not fit, something is NaN or infinite, or a size is missing or not allowed.
        """
        name = type(self).__name__
        if normalizer is None:
            if self.normalize_by == "box":
                raise MetricError(f"{name} normalised by boxes needs their longer side as 'normalizer' (N,).")
            normalizer = self._measured(target, visibility)
        elif self.normalize_by == "pixel":
            raise MetricError(f"{name} in pixels takes no 'normalizer'; leave it out or choose another normalize_by.")
        self.add(keypoints, target, visibility, normalizer, ids)

    def _measured(self, target: Tensor, visibility: Tensor) -> Tensor:
        if self.normalize_by == "pixel":
            return torch.ones(len(target), device=target.device)
        return pair_distance(target, visibility, self.size_pairs)

    def sizes(self, truth: Truth) -> Tensor:
        """Return the size of each person, (N,) pixels."""
        if self.normalize_by == "head":
            return head_sizes(self, truth)
        if self.normalize_by != "box":
            return self._measured(truth.keypoints, truth.visibility)
        if truth.boxes is not None:
            return (truth.boxes[:, 2:] - truth.boxes[:, :2]).amax(dim=1)
        # Data without boxes: the one around the labelled keypoints; NaN, and so left out, where there are none.
        labelled = (truth.visibility > 0)[..., None]
        high = truth.keypoints.masked_fill(~labelled, -torch.inf).amax(dim=1)
        low = truth.keypoints.masked_fill(~labelled, torch.inf).amin(dim=1)
        longer = (high - low).amax(dim=1)
        return torch.where(longer > 0, longer, torch.nan)
