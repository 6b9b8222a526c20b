"""Metrics of matched persons for methods that find people by themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.geometry import box_area
from lightning_pose_zoo.metrics.functional.keypoint_error import precise
from lightning_pose_zoo.metrics.rows import PoseMetric, Truth, read_truth
from lightning_pose_zoo.structures import PoseBatch, Poses

__all__ = ["GivenPersons"]


class GivenPersons(PoseMetric):
    """Scores a method that finds people by itself where only some of the people in a picture are annotated.

    Average precision would count whoever is found beside them as wrong. So the place of each annotated person is given,
    as in the single-person protocol of MPII: of the poses of a picture each person gets the one whose box overlaps the
    annotated box most, in the way that makes the sum of all overlaps (intersection over union) largest. No pose is
    taken twice; who gets none has no keypoint right; poses that are left over do not count.

    Args:
        metric: What the matched persons are scored by: ``PCKh``, ``PCK``, ``AUC``, ``PCP``, ...
    """

    higher_is_better = None

    def __init__(self, metric: PoseMetric) -> None:
        super().__init__()
        self.metric = metric

    def update(self, poses: Poses, batch: PoseBatch) -> None:
        """Take in one evaluation batch; see ``update_batch``."""
        truth = read_truth(batch)
        if truth.boxes is None or truth.image_ids is None or truth.person_ids is None:
            raise MetricError("GivenPersons needs box, image_id and person_id in the batch, to say who is given where.")
        self.metric.update_batch(_pose_of_each(poses, truth), batch)

    def update_batch(self, poses: Poses, batch: PoseBatch) -> None:
        """Take in one evaluation batch: any number of poses for each picture.

        Raises:
            MetricError: Where the batch has no boxes or no ids, or the metric refuses.
        """
        self.update(poses, batch)

    def compute(self) -> dict[str, Tensor]:
        """Return what the metric says."""
        values: dict[str, Tensor] = self.metric.compute()
        return values

    def reset(self) -> None:
        """Forget all persons."""
        super().reset()
        self.metric.reset()

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw a result as the metric does."""
        return self.metric.plot(val, ax)

    def protocol(self) -> str:
        """Say how persons are matched; see ``methods.top_down.evaluation_protocol``."""
        return f"{type(self.metric).__name__} of the poses that overlap the given persons' boxes most"


def _pose_of_each(poses: Poses, truth: Truth) -> Poses:
    """Return the poses that are of annotated persons, with their ids."""
    from scipy.optimize import linear_sum_assignment

    assert truth.boxes is not None
    assert truth.image_ids is not None
    assert truth.person_ids is not None
    images = truth.image_ids[truth.images]
    overlaps = _overlaps(precise(truth.boxes).to(poses.boxes.device), precise(poses.boxes))
    overlaps = overlaps * (images.to(poses.image_ids)[:, None] == poses.image_ids[None])
    persons, found = (torch.from_numpy(rows) for rows in linear_sum_assignment(-overlaps.cpu().numpy()))
    real = overlaps.cpu()[persons, found] > 0
    matched = poses[found[real].to(poses.image_ids.device)]
    matched.person_ids = truth.person_ids[persons[real].to(truth.person_ids.device)].to(matched.image_ids)
    return matched


def _overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union of boxes (n, 4) and (m, 4), (n, m)."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    union = box_area(first)[:, None] + box_area(second)[None] - shared
    return shared / union.clamp(min=1e-12)
