"""MPJPE, 3D PCK and the area under its curve as torchmetrics classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor
from torchmetrics.utilities import rank_zero_warn

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.keypoint_error import mean_error
from lightning_pose_zoo.metrics.functional.pck import (
    area_under_curve,
    auc_thresholds,
    fraction_within,
    fractions_within,
)
from lightning_pose_zoo.metrics.functional.pose_3d import Alignment, AlignOn, pose_errors_3d
from lightning_pose_zoo.metrics.plots import plot_curve
from lightning_pose_zoo.metrics.rows import RowMetric, require_finite, running_ids
from lightning_pose_zoo.skeletons import SkeletonLike, get_skeleton

__all__ = ["AUC3D", "MPJPE", "PCK3D"]

_PREFIXES: dict[Alignment, str] = {"none": "", "scale": "N-", "procrustes": "PA-"}
_ROWS = ("pose_3d_keypoints", "pose_3d_target", "pose_3d_visibility", "pose_3d_person_ids")


class Pose3DMetric(RowMetric):
    """A metric of three-dimensional poses, in millimetres.

    The poses themselves are kept (about 0.8 kB per person for 17 keypoints) and are aligned all at once in ``compute``,
    so that the value does not depend on how batches were cut. Metrics of one ``MetricCollection`` share them.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        alignment: ``none``, ``scale`` or ``procrustes``.
        root: Name of the keypoint that is moved to the origin in both poses before anything else, such as ``pelvis``;
            None: poses stay where they are.
        align_on: Which keypoints the alignment fits: ``labelled`` or ``all``.

    Raises:
        MetricError: Where alignment or ``align_on`` is unknown.
        SkeletonError: Where the skeleton has no keypoint of the root's name.
    """

    def __init__(
        self,
        skeleton: SkeletonLike = "h36m17",
        alignment: Alignment = "none",
        root: str | None = None,
        align_on: AlignOn = "labelled",
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if alignment not in get_args(Alignment):
            raise MetricError(f"alignment is '{alignment}'; {name} knows none, scale and procrustes.")
        if align_on not in get_args(AlignOn):
            raise MetricError(f"align_on is '{align_on}'; {name} knows labelled and all.")
        self.skeleton = get_skeleton(skeleton)
        self.root = None if root is None else self.skeleton.index(root)
        self.alignment: Alignment = alignment
        self.align_on: AlignOn = align_on
        count = self.skeleton.num_keypoints
        self.add_rows(_ROWS[0], (count, 3))
        self.add_rows(_ROWS[1], (count, 3))
        self.add_rows(_ROWS[2], (count,), torch.uint8)
        self.add_rows(_ROWS[3], dtype=torch.int64)

    def update(self, keypoints: Tensor, target: Tensor, visibility: Tensor, ids: Tensor | None = None) -> None:
        """Take in persons.

        Args:
            keypoints: (N, K, 3) predicted, millimetres.
            target: (N, K, 3) true, millimetres.
            visibility: (N, K); keypoints above 0 count.
            ids: (N,) int64, by which persons that a distributed sampler repeats are dropped; None: every row counts.

        Raises:
            MetricError: Where a shape does not fit, or something is NaN or infinite.
        """
        count = self.skeleton.num_keypoints
        for what, value, shape in (
            ("predictions", keypoints, (len(target), count, 3)),
            ("truth", target, (len(target), count, 3)),
            ("visibility", visibility, (len(target), count)),
        ):
            if tuple(value.shape) != shape:
                raise MetricError(
                    f"{type(self).__name__} for '{self.skeleton.name}' needs {what} {shape}, not {tuple(value.shape)}."
                )
        require_finite("predicted keypoints", keypoints)
        decides = self.align_on == "all" and self.alignment != "none"
        require_finite("true keypoints", target, None if decides else visibility[..., None] > 0)
        rows = (keypoints, target, visibility > 0, running_ids(len(target)) if ids is None else ids)
        self.append_rows(**dict(zip(_ROWS, rows, strict=True)))

    def errors(self) -> Tensor:
        """Return the errors of all different persons, (n, K) float64 millimetres; NaN where nothing counts.

        Persons without a labelled root, or with too few labels to be aligned, are left out, and counted in a warning.
        """
        keypoints, target, visibility, ids = (self.rows(name) for name in _ROWS)
        keep = self.different_rows(ids)
        keypoints, target, visibility = keypoints[keep], target[keep], visibility[keep]
        errors = pose_errors_3d(keypoints, target, visibility, self.alignment, self.root, self.align_on)
        left_out = int((errors.isnan().all(dim=1) & (visibility > 0).any(dim=1)).sum())
        if left_out:
            rank_zero_warn(
                f"{type(self).__name__}: {left_out} of {len(keep)} persons are left out, because their root is not "
                "labelled or they have too few labels to be aligned."
            )
        return errors

    @property
    def prefix(self) -> str:
        """What names begin with: nothing, ``N-`` for scale or ``PA-`` for procrustes."""
        return _PREFIXES[self.alignment]


class MPJPE(Pose3DMetric):
    """Mean per joint position error: the mean distance between predicted and true keypoints, in millimetres.

    With x the predicted and y the true keypoints, over all those labelled (visibility above 0):

    - ``none``: ``MPJPE`` = mean |x - y|. Human3.6M's first protocol subtracts the pelvis from both: ``root="pelvis"``.
    - ``scale``: ``N-MPJPE`` = mean |s x - y|, s = <x, y> / <x, x> for each person.
    - ``procrustes``: ``PA-MPJPE`` = mean |s R x + t - y| for the best s, t and rotation R of each person; also called
      P-MPJPE, reconstruction error and Human3.6M's second protocol. A mirrored pose stays wrong.

    ``MPJPE/<keypoint>`` and so on are the means of each keypoint. mmpose fits the alignment to all keypoints and leaves
    unlabelled ones out of the mean only: ``align_on="all"``. Ours fits labelled ones only, because a data set may have
    anything in place of a missing keypoint.

    Source: Ionescu et al., "Human3.6M: Large Scale Datasets and Predictive Methods for 3D Human Sensing in Natural
    Environments", TPAMI 2014; N-MPJPE: Rhodin et al., "Unsupervised Geometry-Aware Representation for 3D Human Pose
    Estimation", ECCV 2018.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        alignment: ``none``, ``scale`` or ``procrustes``, see above.
        root: Name of the keypoint that is moved to the origin in both poses before anything else; None: poses stay
            where they are.
        align_on: Which keypoints the alignment fits: ``labelled`` or ``all``.

    Raises:
        MetricError: Where alignment or ``align_on`` is unknown.
        SkeletonError: Where the skeleton has no keypoint of the root's name.

    Example:
        >>> import torch
        >>> metric = MPJPE(alignment="procrustes")
        >>> target = torch.rand(8, 17, 3, dtype=torch.float64) * 1000
        >>> metric.update(2 * target + 100, target, torch.ones(8, 17))
        >>> round(float(metric.compute()["PA-MPJPE"]), 6)
        0.0
    """

    higher_is_better = False

    def compute(self) -> dict[str, Tensor]:
        """Return ``MPJPE``, ``N-MPJPE`` or ``PA-MPJPE``, and the same of each keypoint; NaN where nothing counts."""
        errors, name = self.errors(), f"{self.prefix}MPJPE"
        single = {f"{name}/{part}": mean_error(errors[:, index]) for index, part in enumerate(self.skeleton.names)}
        return self.results({name: mean_error(errors)} | single)


class PCK3D(Pose3DMetric):
    """Percentage of correct keypoints in 3D: less than a distance off, as a fraction in 0..1.

    ``PCK3D@150`` is the fraction of all labelled keypoints with |x - y| < 150 mm, ``PCK3D@150/<keypoint>`` that of each
    keypoint; ``N-PCK3D`` and ``PA-PCK3D`` with an alignment, as in ``MPJPE``. MPI-INF-3DHP's own code compares poses
    relative to the pelvis, on 14 keypoints: give ``root="pelvis"`` and a visibility of 0 to the others.

    Source: Mehta et al., "Monocular 3D Human Pose Estimation In The Wild Using Improved CNN Supervision", 3DV 2017.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        thresholds: Millimetres; a keypoint is right below (``<``) them.
        alignment: ``none``, ``scale`` or ``procrustes``.
        root: Name of the keypoint that is moved to the origin in both poses before anything else; None: poses stay
            where they are.
        align_on: Which keypoints the alignment fits: ``labelled`` or ``all``.

    Raises:
        MetricError: Where alignment or ``align_on`` is unknown.
        SkeletonError: Where the skeleton has no keypoint of the root's name.
    """

    higher_is_better = True
    plot_upper_bound = 1.0

    def __init__(
        self,
        skeleton: SkeletonLike = "h36m17",
        thresholds: Sequence[float] = (150.0,),
        alignment: Alignment = "none",
        root: str | None = None,
        align_on: AlignOn = "labelled",
    ) -> None:
        super().__init__(skeleton, alignment, root, align_on)
        self.thresholds = tuple(thresholds)

    def compute(self) -> dict[str, Tensor]:
        """Return ``PCK3D@<threshold>`` and ``PCK3D@<threshold>/<keypoint>``; NaN where nothing counts."""
        errors = self.errors()
        values: dict[str, float] = {}
        for threshold in self.thresholds:
            name = f"{self.prefix}PCK3D@{threshold:g}"
            values[name] = float(fraction_within(errors, threshold, strict=True))
            single = fraction_within(errors, threshold, strict=True, average=None).tolist()
            values |= {f"{name}/{part}": value for part, value in zip(self.skeleton.names, single, strict=True)}
        return self.results(values)


class AUC3D(Pose3DMetric):
    """Area under the curve of 3D PCK: its mean at evenly spaced thresholds, as a fraction in 0..1.

    The thresholds are MPI-INF-3DHP's: 31 from 0 to 150 mm, both included, and right means ``<``. ``AUC3D`` is over all
    labelled keypoints, ``AUC3D/<keypoint>`` of each; ``N-AUC3D`` and ``PA-AUC3D`` with an alignment. ``plot`` draws the
    curve.

    Source: Mehta et al., "Monocular 3D Human Pose Estimation In The Wild Using Improved CNN Supervision", 3DV 2017.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        max_threshold: The largest threshold, millimetres.
        num_thresholds: How many thresholds.
        alignment: ``none``, ``scale`` or ``procrustes``.
        root: Name of the keypoint that is moved to the origin in both poses before anything else; None: poses stay
            where they are.
        align_on: Which keypoints the alignment fits: ``labelled`` or ``all``.

    Raises:
        MetricError: Where alignment or ``align_on`` is unknown, or the thresholds make no curve.
        SkeletonError: Where the skeleton has no keypoint of the root's name.
    """

    higher_is_better = True
    plot_upper_bound = 1.0

    def __init__(
        self,
        skeleton: SkeletonLike = "h36m17",
        max_threshold: float = 150.0,
        num_thresholds: int = 31,
        alignment: Alignment = "none",
        root: str | None = None,
        align_on: AlignOn = "labelled",
    ) -> None:
        super().__init__(skeleton, alignment, root, align_on)
        self.thresholds = tuple(auc_thresholds(max_threshold, num_thresholds, "mpii"))
        self._fractions: list[float] = []

    def compute(self) -> dict[str, Tensor]:
        """Return ``AUC3D`` and ``AUC3D/<keypoint>``; NaN where nothing counts."""
        errors, name = self.errors(), f"{self.prefix}AUC3D"
        whole = fractions_within(errors, self.thresholds, strict=True)
        single = fractions_within(errors, self.thresholds, strict=True, average=None).unbind(dim=1)
        self._fractions = whole.tolist()
        values = {name: area_under_curve(whole, "mean")}
        for part, curve in zip(self.skeleton.names, single, strict=True):
            values[f"{name}/{part}"] = area_under_curve(curve, "mean")
        return self.results(values)

    def curve(self) -> tuple[list[float], list[float]]:
        """Return the thresholds and 3D PCK at each; on several processes all of them have to ask."""
        self.compute()
        return list(self.thresholds), list(self._fractions)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the curve; or, where values of ``compute`` are given, those.

        Args:
            val: One value or several of ``compute``.
            ax: matplotlib's axes to draw on; None: new ones.

        Returns:
            The figure and its axes.
        """
        if val is not None:
            return super().plot(val, ax)
        name = f"{self.prefix}AUC3D"
        area = float(self.compute()[name])
        return plot_curve(*self.curve(), label=f"{name} {area:.3f}", unit="millimetres", ax=ax)
