"""The percentage of correct parts as a torchmetrics class."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import get_args

from torch import Tensor

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.pck import fraction_within
from lightning_pose_zoo.metrics.functional.pcp import PCPVariant, limb_errors, pcp_limbs, worse_or_mean
from lightning_pose_zoo.metrics.rows import KeypointMetric, Truth
from lightning_pose_zoo.skeletons import SkeletonLike, get_skeleton

__all__ = ["PCP"]


class PCP(KeypointMetric):
    """Percentage of correct parts: limbs whose ends are within a fraction of the limb's true length, in 0..1.

    With d1 and d2 the distances of the two ends from their true places and l the true length, a limb is right where
    max(d1, d2) <= threshold * l (``strict``) or (d1 + d2) / 2 <= threshold * l (``relaxed``). The first description
    allows both readings: tables on LSP and PARSE are strict; those on Buffy, PASCAL Stickmen and in DeepPose relaxed.

    ``PCP@0.5`` is over all limbs of all persons, ``PCP@0.5/left_elbow-left_wrist`` the fraction of one limb, and
    ``PCP@0.5/Torso``, Upper Leg, Lower Leg, Upper Arm, Forearm and Head are the columns of published tables: the plain
    means of left and right. Limbs of a human body are the sticks of those tables, the torso from the middle of the
    shoulders to the middle of the hips; other skeletons are scored on their ``limbs``. A limb counts where all its
    keypoints are labelled and it has a length.

    Source: Ferrari et al., "Progressive Search Space Reduction for Human Pose Estimation", CVPR 2008; strict:
    Pishchulin et al., "Articulated People Detection and Pose Estimation: Reshaping the Future", CVPR 2012; relaxed:
    Eichner et al., "2D Articulated Human Pose Estimation and Retrieval in (Almost) Unconstrained Still Images", IJCV
    2012.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        thresholds: Fractions of a limb's length within which its ends are right.
        variant: ``strict`` or ``relaxed``, see above.
        limbs: Names of the keypoints at both ends of the limbs to score; None: as said above.

    Raises:
        MetricError: Where the variant is unknown or there is no limb.
        SkeletonError: Where the skeleton has no keypoint of a name in ``limbs``.

    Example:
        >>> import torch
        >>> metric = PCP(skeleton="lsp14")
        >>> target = torch.rand(8, 14, 2) * 100
        >>> metric.update(target, target, torch.ones(8, 14))
        >>> float(metric.compute()["PCP@0.5/Forearm"])
        1.0
    """

    higher_is_better = True
    plot_upper_bound = 1.0

    def __init__(
        self,
        skeleton: SkeletonLike = "lsp14",
        thresholds: Sequence[float] = (0.5,),
        variant: PCPVariant = "strict",
        limbs: Sequence[tuple[str, str]] | None = None,
    ) -> None:
        if variant not in get_args(PCPVariant):
            raise MetricError(f"variant is '{variant}'; PCP knows strict and relaxed.")
        known = get_skeleton(skeleton)
        scored = pcp_limbs(known, limbs)
        # The name of the state tells other limbs apart, so that no collection takes their rows for the same.
        digest = zlib.crc32(repr([limb.ends for limb in scored]).encode())
        super().__init__(known, f"limb_{digest:08x}", (len(scored), 2))
        self.thresholds = tuple(thresholds)
        self.variant: PCPVariant = variant
        self.limbs = tuple(scored)

    def update(self, keypoints: Tensor, target: Tensor, visibility: Tensor, ids: Tensor | None = None) -> None:
        """Take in persons.

        Args:
            keypoints: (N, K, 2) predicted, pixels.
            target: (N, K, 2) true, pixels.
            visibility: (N, K); a limb counts where all its keypoints are above 0.
            ids: (N,) int64, by which persons that a distributed sampler repeats are dropped; None: every row counts.

        Raises:
            MetricError: Where a shape does not fit, or something is NaN or infinite.
        """
        self.add(keypoints, target, visibility, target.new_ones(len(target)), ids)

    def sizes(self, truth: Truth) -> Tensor:
        """Return ones: every limb is measured by its own length."""
        return truth.keypoints.new_ones(len(truth.keypoints))

    def measure(self, keypoints: Tensor, target: Tensor, visibility: Tensor, sizes: Tensor) -> Tensor:
        """Return how far both ends of each limb are off, (N, L, 2), in units of its length."""
        return limb_errors(keypoints, target, visibility, self.limbs)

    def compute(self) -> dict[str, Tensor]:
        """Return ``PCP@<threshold>``, its limbs and its groups; NaN where nothing counts."""
        errors = worse_or_mean(self.errors(), self.variant)
        values: dict[str, float] = {}
        for threshold in self.thresholds:
            name = f"PCP@{threshold:g}"
            values[name] = float(fraction_within(errors, threshold))
            single = fraction_within(errors, threshold, average=None).tolist()
            values |= {f"{name}/{limb.name}": value for limb, value in zip(self.limbs, single, strict=True)}
            for group in dict.fromkeys(limb.group for limb in self.limbs if limb.group):
                members = [value for limb, value in zip(self.limbs, single, strict=True) if limb.group == group]
                values[f"{name}/{group}"] = sum(members) / len(members)
        return self.results(values)
