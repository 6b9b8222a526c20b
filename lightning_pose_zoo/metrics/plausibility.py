"""The share of implausible poses as a torchmetrics class."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.keypoint_error import mean_error
from lightning_pose_zoo.metrics.functional.plausibility import (
    PoseRanges,
    fit_pose_ranges,
    measure_names,
    outside_ranges,
    pose_measures,
    share_of_poses,
)
from lightning_pose_zoo.metrics.rows import KeypointMetric, Truth
from lightning_pose_zoo.skeletons import SkeletonLike, get_skeleton

__all__ = ["ImplausiblePoses"]


class ImplausiblePoses(KeypointMetric):
    """The share of predicted poses that no known body takes, in 0..1: a limb too long or short, a joint turned too far.

    The length of each limb, over the median of the person's limbs, and the angle between each two limbs that meet are
    compared with the ranges that they have in known poses, such as those of the training set. A pose is implausible
    where one of them is outside. The truth says only which keypoints count: those with a label. How far predictions
    are off does not matter here; a plausible pose may be the wrong one.

    ``Implausible`` is the share of poses with anything outside, ``Implausible/limbs`` with a limb,
    ``Implausible/angles`` with an angle, and ``Implausible/<measure>`` the share of each, as in
    ``Implausible/left_elbow-left_wrist`` and ``Implausible/left_shoulder-left_elbow-left_wrist``. Ranges leave out the
    outermost known values, so that some known poses are implausible too: compare with the share of the truth.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        ranges: Of known poses, or a JSON file that ``PoseRanges.save`` wrote. None: ``fit`` finds them before the
            first ``compute``.

    Raises:
        MetricError: Where the skeleton has no limbs, or the ranges are of other keypoints or cannot be read.

    Example:
        >>> import torch
        >>> metric = ImplausiblePoses(skeleton="lsp14")
        >>> known = torch.rand(100, 14, 2) * 100
        >>> ranges = metric.fit(known, torch.ones(100, 14), coverage=1.0)
        >>> metric.update(known, known, torch.ones(100, 14))
        >>> float(metric.compute()["Implausible"])
        0.0
    """

    higher_is_better = False
    plot_upper_bound = 1.0

    def __init__(self, skeleton: SkeletonLike = "coco17", ranges: PoseRanges | str | None = None) -> None:
        known = get_skeleton(skeleton)
        limbs, angles = measure_names(known)
        # Rows are the measures, not what is outside: metrics with other ranges may share them.
        super().__init__(known, "body_measures", (len(limbs) + len(angles),))
        self.measures = (*limbs, *angles)
        self.ranges: PoseRanges | None = None
        if ranges is not None:
            self.use(PoseRanges.load(Path(ranges)) if isinstance(ranges, str) else ranges)

    def use(self, ranges: PoseRanges) -> None:
        """Compare poses with given ranges from now on, those that were taken in already too.

        Raises:
            MetricError: Where they are of other keypoints or limbs.
        """
        if ranges.keypoints != tuple(self.skeleton.names) or ranges.measures != self.measures:
            raise MetricError(
                f"the ranges are of {len(ranges.keypoints)} keypoints and {len(ranges.measures)} measures that are not "
                f"those of skeleton '{self.skeleton.name}'; fit them on poses of it."
            )
        self.ranges = ranges
        self._computed = None

    def fit(self, keypoints: Tensor, visibility: Tensor, coverage: float = 0.998) -> PoseRanges:
        """Find the ranges on known poses and compare with them from now on; on several processes, give each the same.

        Args:
            keypoints: (N, K, 2), pixels.
            visibility: (N, K); above 0 where labelled.
            coverage: Share of the known values that each range has.

        Returns:
            The ranges, which ``PoseRanges.save`` keeps.

        Raises:
            MetricError: Where the coverage is no share, or a measure is of nobody.
        """
        self.use(fit_pose_ranges(keypoints, visibility, self.skeleton, coverage))
        assert self.ranges is not None
        return self.ranges

    def update(self, keypoints: Tensor, target: Tensor, visibility: Tensor, ids: Tensor | None = None) -> None:
        """Take in persons.

        Args:
            keypoints: (N, K, 2) predicted, pixels.
            target: (N, K, 2) true; only its labels count.
            visibility: (N, K); a measure counts where all of its keypoints are above 0.
            ids: (N,) int64, by which persons that a distributed sampler repeats are dropped; None: every row counts.

        Raises:
            MetricError: Where a shape does not fit, or something is NaN or infinite.
        """
        self.add(keypoints, target, visibility, target.new_ones(len(target)), ids)

    def sizes(self, truth: Truth) -> Tensor:
        """Return ones: proportions have no unit."""
        return truth.keypoints.new_ones(len(truth.keypoints))

    def measure(self, keypoints: Tensor, target: Tensor, visibility: Tensor, sizes: Tensor) -> Tensor:
        """Return the proportions and angles of each predicted person, (N, M)."""
        found = keypoints.isfinite().all(
            dim=-1
        )  # somebody who was not predicted is at infinity, and nowhere implausible
        return pose_measures(keypoints, visibility * found.to(visibility), self.skeleton)

    def compute(self) -> dict[str, Tensor]:
        """Return the shares; NaN where nothing counts.

        Raises:
            MetricError: Where there are no ranges yet.
        """
        if self.ranges is None:
            raise MetricError(
                "ImplausiblePoses has no ranges of known poses; give them (ranges=...), or call fit with the poses of "
                "the training set."
            )
        outside = outside_ranges(self.errors(), self.ranges)
        limbs = self.ranges.limbs
        values = {
            "Implausible": share_of_poses(outside),
            "Implausible/limbs": share_of_poses(outside[:, :limbs]),
            "Implausible/angles": share_of_poses(outside[:, limbs:]),
        }
        single = {f"Implausible/{name}": mean_error(outside[:, index]) for index, name in enumerate(self.measures)}
        return self.results(values | single)
