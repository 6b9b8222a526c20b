"""The average precision of MPII's multi-person challenge, for methods that find people in whole pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import rank_zero_warn

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.keypoint_error import precise
from lightning_pose_zoo.metrics.pose_track import PoseTrackAP
from lightning_pose_zoo.metrics.rows import PoseMetric, Truth, read_truth
from lightning_pose_zoo.skeletons import SkeletonLike, get_skeleton
from lightning_pose_zoo.structures import PoseBatch, Poses

__all__ = ["PCKhMeanAveragePrecision"]

_NOT_SCORED = ("pelvis", "thorax")


class PCKhMeanAveragePrecision(PoseTrackAP, PoseMetric):
    """Mean average precision over keypoints that are right within half of the head's size, in 0..1: MPII's mAP.

    The protocol is ``functional.pose_track.pose_track_ap``, which PoseTrack took over from MPII: each pose goes to the
    person of whom it has the largest fraction of keypoints right, each person keeps the best one, and every keypoint is
    scored by itself. ``AP`` is the mean over MPII's fourteen keypoints (no pelvis, no thorax), ``AP/left_wrist`` and so
    on their own, ``precision`` and ``recall`` those of all predicted keypoints together.

    MPII annotates groups of people, not everybody. A picture's group is who is annotated in it, and reaches from the
    first to the last of their boxes. Poses whose box has its middle outside are of others and do not count, nor do
    pictures in which nobody is annotated. The groups of the test set are not public, so a published mAP is of other
    groups than this one's. Persons without a head size cannot be scored; they are left out with a warning, and who
    finds them is wrong.

    Sources: Andriluka et al., "2D Human Pose Estimation: New Benchmark and State of the Art Analysis", CVPR 2014;
    Pishchulin et al., "DeepCut: Joint Subset Partition and Labeling for Multi Person Pose Estimation", CVPR 2016.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        threshold: A keypoint is right within this fraction of the head's size.
        keypoint_threshold: Only keypoints with a confidence above it count as predicted.
        keypoints: Names of the keypoints that are scored; None: all but pelvis and thorax.
        groups: Leave out poses that lie outside of a picture's group; False where everybody is annotated.

    Raises:
        MetricError: Where the skeleton has no keypoint of a name, or ``threshold`` is not above 0.

    Example:
        >>> import torch
        >>> from lightning_pose_zoo.structures import Poses
        >>> points, box = torch.rand(1, 16, 2) * 100, torch.tensor([[0.0, 0.0, 100.0, 100.0]])
        >>> batch = {
        ...     "image_id": torch.tensor([7]), "image_index": torch.tensor([0]), "keypoints": points,
        ...     "visibility": torch.ones(1, 16), "head_size": torch.tensor([20.0]), "box": box,
        ... }
        >>> found = Poses(points, torch.ones(1, 16), torch.ones(1), box, image_ids=torch.tensor([7]))
        >>> metric = PCKhMeanAveragePrecision("mpii16")
        >>> metric.update_batch(found, batch)
        >>> float(metric.compute()["AP"])
        1.0
    """

    def __init__(
        self,
        skeleton: SkeletonLike = "mpii16",
        threshold: float = 0.5,
        keypoint_threshold: float = 0.0,
        keypoints: Sequence[str] | None = None,
        groups: bool = True,
    ) -> None:
        names = [name for name in get_skeleton(skeleton).names if name not in _NOT_SCORED]
        super().__init__(skeleton, threshold, keypoint_threshold, names if keypoints is None else keypoints)
        self.groups = groups

    def update_batch(self, poses: Poses, batch: PoseBatch) -> None:
        """Take in one evaluation batch: any number of poses for each picture, in pixels of the original pictures.

        Raises:
            MetricError: Where the batch has no ids, head sizes or boxes, or something is NaN or infinite.
        """
        truth = read_truth(batch)
        if truth.image_ids is None or truth.head_sizes is None or (self.groups and truth.boxes is None):
            raise MetricError(
                f"{type(self).__name__} needs image_id, head_size{' and box' * self.groups} in the batch."
            )
        rows = truth.images.unique().tolist()
        counted = torch.zeros(len(poses), dtype=torch.bool, device=poses.image_ids.device)
        targets = []
        for row in rows:
            image = int(truth.image_ids[row])
            here = truth.images == row
            counted |= (poses.image_ids == image) & self._in_group(poses, truth, here)
            targets.append(self._target(image, truth, here))
        self.update(poses[counted], targets)

    def _in_group(self, poses: Poses, truth: Truth, here: Tensor) -> Tensor:
        """Tell which poses have their middle inside of what the boxes of some persons span, (P,)."""
        if not self.groups:
            return torch.ones(len(poses), dtype=torch.bool, device=poses.boxes.device)
        assert truth.boxes is not None
        boxes = precise(truth.boxes[here]).to(poses.boxes.device)
        middles = (precise(poses.boxes[:, :2]) + precise(poses.boxes[:, 2:])) / 2
        low, high = boxes[:, :2].amin(dim=0), boxes[:, 2:].amax(dim=0)
        return ((middles >= low) & (middles <= high)).all(dim=1)

    def _target(self, image: int, truth: Truth, here: Tensor) -> dict[str, Any]:
        """Write the persons of one picture as the protocol takes them."""
        assert truth.head_sizes is not None
        keypoints, seen, sizes = precise(truth.keypoints[here]), truth.visibility[here], truth.head_sizes[here]
        sized = (sizes > 0) & sizes.isfinite()
        left_out = int((~sized & (seen > 0).any(dim=1)).sum())
        if left_out:
            rank_zero_warn(
                f"{type(self).__name__}: {left_out} persons of image {image} are left out, because the size of their "
                "heads is unknown."
            )
        visibility = torch.where(sized[:, None], seen, 0).to(keypoints)
        return {
            "image_id": image,
            "video_id": 0,
            "keypoints": torch.cat([keypoints, visibility[..., None]], dim=-1)[sized],
            "head_size": sizes[sized],
        }

    def protocol(self) -> str:
        """Say how poses are scored; see ``methods.top_down.evaluation_protocol``."""
        of = "poses inside of the annotated groups" if self.groups else "all poses"
        return f"AP of keypoints within {self.threshold:g} of the head's size, {of}"
