"""PCK and PCKh as torchmetrics classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.pck import (
    Average,
    PCKhConvention,
    fraction_within,
    pair_distance,
    pckh_keypoints,
)
from lightning_pose_zoo.metrics.rows import KeypointMetric, Truth
from lightning_pose_zoo.skeletons import SkeletonLike

__all__ = ["PCK", "PCKh"]


class PCK(KeypointMetric):
    """Percentage of correct keypoints: within a fraction of the person's size, as a fraction in 0..1.

    All keypoints with a visibility above 0 count, hidden ones as well. ``PCK@0.2`` is the mean; ``PCK@0.2/left_wrist``
    and so on are the keypoints' own fractions.

    Which mean is meant differs between projects: ``micro``, ours, is over all labelled keypoints, so that a keypoint
    that is labelled more often weighs more; ``macro`` is the plain mean over those keypoints that are ever labelled.
    mmpose reports ``average="macro", strict=True``.

    Persons whose size is unknown (no pair of the torso is labelled) are left out, and counted in a warning.

    Source: Yang & Ramanan, "Articulated Human Detection with Flexible Mixtures of Parts", TPAMI 2013.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        thresholds: Fractions of the size within which a keypoint is right.
        normalize_by: The person's size: ``torso``, from a shoulder to the opposite hip (the first labelled pair of
            ``Skeleton.torso``); ``box``, the longer side of the true box; ``head``, as in PCKh.
        strict: Whether a distance of exactly the threshold is wrong.
        average: ``micro`` or ``macro``, see above.

    Raises:
        MetricError: Where the skeleton has no torso to normalise by.

    Example:
        >>> import torch
        >>> metric = PCK(skeleton="lsp14")
        >>> target = torch.rand(8, 14, 2) * 100
        >>> metric.update(target + 1, target, torch.ones(8, 14), torch.full((8,), 50.0))
        >>> float(metric.compute()["PCK@0.2"])
        1.0
    """

    higher_is_better = True
    plot_upper_bound = 1.0

    def __init__(
        self,
        skeleton: SkeletonLike = "coco17",
        thresholds: Sequence[float] = (0.2,),
        normalize_by: Literal["torso", "box", "head"] = "torso",
        strict: bool = False,
        average: Average = "micro",
    ) -> None:
        if normalize_by not in ("torso", "box", "head"):
            raise MetricError(f"normalize_by is '{normalize_by}'; PCK knows torso, box and head.")
        super().__init__(skeleton, normalize_by)
        if normalize_by == "torso" and not self.skeleton.torso:
            raise MetricError(
                f"skeleton '{self.skeleton.name}' has no torso; use normalize_by 'box' or define 'torso'."
            )
        self.thresholds = tuple(thresholds)
        self.normalize_by = normalize_by
        self.strict = strict
        self.average: Average = average

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
            normalizer: (N,) pixels, the size of each person; None: measured on ``target`` (torso and head only).
            ids: (N,) int64, by which persons that a distributed sampler repeats are dropped; None: every row counts.

        Raises:
            MetricError: Where a shape does not fit, something is NaN or infinite, or the box's size is not given.
        """
        if normalizer is None:
            normalizer = self._size_of_keypoints(target, visibility)
        self.add(keypoints, target, visibility, normalizer, ids)

    def _size_of_keypoints(self, target: Tensor, visibility: Tensor) -> Tensor:
        if self.normalize_by == "box":
            raise MetricError("PCK normalised by boxes needs their longer side as 'normalizer' (N,).")
        pairs = self.skeleton.torso if self.normalize_by == "torso" else self.skeleton.head
        return pair_distance(target, visibility, pairs)

    def sizes(self, truth: Truth) -> Tensor:
        """Return the size of each person, (N,) pixels."""
        if self.normalize_by == "head":
            return _head_sizes(self, truth)
        if self.normalize_by == "torso":
            return self._size_of_keypoints(truth.keypoints, truth.visibility)
        if truth.boxes is not None:
            return (truth.boxes[:, 2:] - truth.boxes[:, :2]).amax(dim=1)
        # Data without boxes: the one around the labelled keypoints; NaN, and so left out, where there are none.
        labelled = (truth.visibility > 0)[..., None]
        high = truth.keypoints.masked_fill(~labelled, -torch.inf).amax(dim=1)
        low = truth.keypoints.masked_fill(~labelled, torch.inf).amin(dim=1)
        longer = (high - low).amax(dim=1)
        return torch.where(longer > 0, longer, torch.nan)

    def compute(self) -> dict[str, Tensor]:
        """Return ``PCK@<threshold>`` and ``PCK@<threshold>/<keypoint>``; NaN where nothing counts."""
        errors = self.errors()
        values: dict[str, float] = {}
        for threshold in self.thresholds:
            name = f"PCK@{threshold:g}"
            values[name] = float(fraction_within(errors, threshold, self.strict, self.average))
            single = fraction_within(errors, threshold, self.strict, average=None).tolist()
            values |= {f"{name}/{part}": value for part, value in zip(self.skeleton.names, single, strict=True)}
        return self.results(values)


class PCKh(KeypointMetric):
    """Percentage of correct keypoints by the size of the head, the score of MPII, as a fraction in 0..1.

    ``PCKh@0.5`` is the mean, ``PCKh@0.5/<keypoint>`` the keypoints' own fractions, and ``PCKh@0.5/Head``, Shoulder,
    Elbow, Wrist, Hip, Knee and Ankle the columns of the published tables: the plain means of left and right.

    Two means are in public use, both without pelvis and thorax. ``hrnet``, of the HRNet and Simple Baselines
    repositories, is over all labelled keypoints, and right means ``<=``; ``bearpaw``, of the pytorch-pose repository,
    is the plain mean of the keypoints, and right means ``<``. They differ by half a point to one. The HRNet
    repository's ``Mean@0.1`` is taken at 0.11 by mistake: give 0.11 among the thresholds to compare with it.

    Source: Andriluka et al., "2D Human Pose Estimation: New Benchmark and State of the Art Analysis", CVPR 2014.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        thresholds: Fractions of the head's size within which a keypoint is right.
        convention: ``hrnet`` or ``bearpaw``, see above.
    """

    higher_is_better = True
    plot_upper_bound = 1.0

    def __init__(
        self,
        skeleton: SkeletonLike = "mpii16",
        thresholds: Sequence[float] = (0.5, 0.1),
        convention: PCKhConvention = "hrnet",
    ) -> None:
        if convention not in ("hrnet", "bearpaw"):
            raise MetricError(f"convention is '{convention}'; PCKh knows hrnet and bearpaw.")
        super().__init__(skeleton, "head")
        self.thresholds = tuple(thresholds)
        self.convention: PCKhConvention = convention

    def update(
        self,
        keypoints: Tensor,
        target: Tensor,
        visibility: Tensor,
        head_size: Tensor,
        ids: Tensor | None = None,
    ) -> None:
        """Take in persons.

        Args:
            keypoints: (N, K, 2) predicted, pixels.
            target: (N, K, 2) true, pixels.
            visibility: (N, K); keypoints above 0 count.
            head_size: (N,) pixels; for MPII 0.6 times the diagonal of the head's box.
            ids: (N,) int64, by which persons that a distributed sampler repeats are dropped; None: every row counts.

        Raises:
            MetricError: Where a shape does not fit, or something is NaN or infinite.
        """
        self.add(keypoints, target, visibility, head_size, ids)

    def sizes(self, truth: Truth) -> Tensor:
        """Return the size of each head, (N,) pixels: as annotated, else from the skeleton's ``head`` pairs."""
        return _head_sizes(self, truth)

    def compute(self) -> dict[str, Tensor]:
        """Return ``PCKh@<threshold>``, its keypoints and its groups; NaN where nothing counts."""
        errors, in_mean = self.errors(), pckh_keypoints(self.skeleton)
        strict = self.convention == "bearpaw"
        average: Average = "macro" if strict else "micro"
        values: dict[str, float] = {}
        for threshold in self.thresholds:
            name = f"PCKh@{threshold:g}"
            values[name] = float(fraction_within(errors[:, in_mean], threshold, strict, average))
            single = fraction_within(errors, threshold, strict, average=None).tolist()
            values |= {f"{name}/{part}": value for part, value in zip(self.skeleton.names, single, strict=True)}
            for group, members in self._groups().items():
                values[f"{name}/{group}"] = sum(single[index] for index in members) / len(members)
        return self.results(values)

    def _groups(self) -> dict[str, list[int]]:
        names = self.skeleton.names
        head = "head_top" if "head_top" in names else "head"
        groups = {"Head": [index for index, name in enumerate(names) if name == head]}
        for part in ("Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle"):
            groups[part] = [index for index, name in enumerate(names) if name.endswith(f"_{part.lower()}")]
        return {group: members for group, members in groups.items() if members}


def _head_sizes(metric: KeypointMetric, truth: Truth) -> Tensor:
    measured = pair_distance(truth.keypoints, truth.visibility, metric.skeleton.head)
    if truth.head_sizes is None:
        return measured
    annotated = truth.head_sizes.to(measured.dtype)
    return torch.where((annotated > 0) & annotated.isfinite(), annotated, measured)
