"""The area under the curve of PCK as a torchmetrics class."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.pck import (
    AUCConvention,
    area_under_curve,
    auc_thresholds,
    fractions_within,
    pckh_keypoints,
)
from lightning_pose_zoo.metrics.normalized import NormalizeBy, NormalizedMetric
from lightning_pose_zoo.metrics.plots import plot_curve
from lightning_pose_zoo.skeletons import SkeletonLike

__all__ = ["AUC"]


class AUC(NormalizedMetric):
    """Area under the curve of PCK over its threshold, as a fraction in 0..1 of the largest possible area.

    ``AUC`` is the value, ``AUC/<keypoint>`` that of each keypoint's own curve. Two conventions are in public use:

    - ``mmpose``, its ``keypoint_auc``: the mean of PCK at n thresholds 0, T/n, ..., (n-1)T/n. Right means ``<``, and
      PCK is the plain mean of the keypoints. The defaults, 20 thresholds up to 30 pixels, are mmpose's.
    - ``mpii``, of the evaluation code for MPII and LSP: the trapezoids under PCK at n thresholds 0, T/(n-1), ..., T,
      divided by T. Right means ``<=``, and PCK is over all labelled keypoints but pelvis and thorax. MPII takes
      ``max_threshold=0.5, num_thresholds=51, normalize_by="head"``; LSP ``max_threshold=0.2, num_thresholds=21``.

    ``plot`` draws the curve.

    Source: mmpose's ``keypoint_auc``; Andriluka et al., "2D Human Pose Estimation: New Benchmark and State of the Art
    Analysis", CVPR 2014.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        max_threshold: Where the curve ends, T: a fraction of the size, or pixels; mmpose's ``norm_factor``.
        num_thresholds: How many thresholds the curve is taken at, n.
        normalize_by: The person's size, as in PCK; ``pixel``: the thresholds are pixels.
        convention: ``mmpose`` or ``mpii``, see above.

    Raises:
        MetricError: Where the convention or ``normalize_by`` is unknown, or the thresholds make no curve.

    Example:
        >>> import torch
        >>> metric = AUC(skeleton="lsp14")
        >>> target = torch.rand(8, 14, 2) * 100
        >>> metric.update(target + torch.tensor([3.0, 4.0]), target, torch.ones(8, 14))  # all 5 pixels off
        >>> round(float(metric.compute()["AUC"]), 2)
        0.8
    """

    higher_is_better = True
    plot_upper_bound = 1.0

    def __init__(
        self,
        skeleton: SkeletonLike = "coco17",
        max_threshold: float = 30.0,
        num_thresholds: int = 20,
        normalize_by: NormalizeBy = "pixel",
        convention: AUCConvention = "mmpose",
    ) -> None:
        if convention not in get_args(AUCConvention):
            raise MetricError(f"convention is '{convention}'; AUC knows mmpose and mpii.")
        super().__init__(skeleton, normalize_by)
        self.thresholds = tuple(auc_thresholds(max_threshold, num_thresholds, convention))
        self.convention: AUCConvention = convention
        self._fractions: list[float] = []

    def compute(self) -> dict[str, Tensor]:
        """Return ``AUC`` and ``AUC/<keypoint>``; NaN where nothing counts."""
        errors, mmpose = self.errors(), self.convention == "mmpose"
        counted = list(range(self.skeleton.num_keypoints)) if mmpose else pckh_keypoints(self.skeleton)
        rule: Literal["mean", "trapezoid"] = "mean" if mmpose else "trapezoid"
        whole = fractions_within(errors[:, counted], self.thresholds, mmpose, average="macro" if mmpose else "micro")
        single = fractions_within(errors, self.thresholds, mmpose, average=None)
        self._fractions = whole.tolist()
        values = {"AUC": area_under_curve(whole, rule)}
        for name, curve in zip(self.skeleton.names, single.unbind(dim=1), strict=True):
            values[f"AUC/{name}"] = area_under_curve(curve, rule)
        return self.results(values)

    def curve(self) -> tuple[list[float], list[float]]:
        """Return the thresholds and PCK at each; on several processes all of them have to ask."""
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
        area = float(self.compute()["AUC"])
        unit = "pixels" if self.normalize_by == "pixel" else f"sizes of the {self.normalize_by}"
        return plot_curve(*self.curve(), label=f"AUC {area:.3f}", unit=unit, ax=ax)
