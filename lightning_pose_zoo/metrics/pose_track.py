"""PoseTrack's average precision and tracking accuracy as torchmetrics classes."""

from __future__ import annotations

from collections.abc import Sequence

from torchmetrics.utilities import rank_zero_warn

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.clear_mot import TrackingConvention, clear_mot
from lightning_pose_zoo.metrics.functional.ground_truth import Floats
from lightning_pose_zoo.metrics.functional.pose_track import pose_track_ap, repeated_tracks
from lightning_pose_zoo.metrics.video_metric import VideoMetric
from lightning_pose_zoo.skeletons import SkeletonLike

__all__ = ["MOTA", "PoseTrackAP"]


class PoseTrackAP(VideoMetric):
    """PoseTrack's mean average precision over keypoints, in 0..1: how well people are found, whatever their tracks.

    ``AP`` is the mean over the keypoints, ``AP/left_wrist`` and so on their own; the same for ``precision`` and
    ``recall`` of all predicted keypoints together. The protocol is ``functional.pose_track.pose_track_ap``. Frames in
    which nobody is annotated do not count. Sort out no keypoints for it: ``keypoint_threshold`` only lowers AP.

    Source: Andriluka et al., "PoseTrack: A Benchmark for Human Pose Estimation and Tracking", CVPR 2018.

    Example:
        >>> import torch
        >>> from lightning_pose_zoo.structures import Poses
        >>> truth = torch.rand(1, 17, 3) * 100
        >>> found = Poses(
        ...     truth[..., :2], torch.ones(1, 17), torch.ones(1), torch.zeros(1, 4), image_ids=torch.tensor([7])
        ... )
        >>> metric = PoseTrackAP()
        >>> target = {"image_id": 7, "video_id": 1, "keypoints": truth, "head_size": torch.tensor([20.0])}
        >>> metric.update(found, [target])
        >>> float(metric.compute()["AP"])
        1.0
    """

    def keypoint_values(self) -> dict[str, Floats]:
        """Return AP, precision and recall of every scored keypoint, (K,) each."""
        return pose_track_ap(self.frames(), self.threshold)


class MOTA(VideoMetric):
    """Tracking accuracy of keypoints, as PoseTrack scores it: misses, false positives and changes of track cost alike.

    ``MOTA`` = 1 - (misses + false positives + switches) / annotated keypoints, 1 at best and below 0 where most is
    wrong. ``MOTP`` says how near the found ones are, ``mot_precision`` and ``mot_recall`` how many predicted ones are
    right and how many annotated ones are found. Each is the mean over the keypoints; ``MOTA/left_wrist`` and so on are
    their own. The protocol, and what ``convention`` changes, stands at ``functional.clear_mot.clear_mot``.

    MOTA counts every predicted keypoint, sure or not, so a ``keypoint_threshold`` raises it, unlike AP.

    Source: Bernardin & Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics", EURASIP
    Journal on Image and Video Processing 2008.

    Args:
        skeleton: What the keypoints are: a built-in name, a YAML file, a definition or a ``Skeleton``.
        threshold: A keypoint is right within this fraction of the head's size.
        keypoint_threshold: Only keypoints with a confidence above it count as predicted.
        keypoints: Names of the keypoints that are scored; None: PoseTrack's fifteen (no ears) where the skeleton has
            them all, else every keypoint.
        convention: ``poseval``: comparable with published PoseTrack scores, the last frame of every video and its other
            faults included; ``clear_mot``: by the definition.

    Raises:
        MetricError: Where the skeleton has no keypoint of a name, the convention is unknown or ``threshold`` is not
            above 0.
    """

    needs_tracks = True

    def __init__(
        self,
        skeleton: SkeletonLike = "posetrack17",
        threshold: float = 0.5,
        keypoint_threshold: float = 0.0,
        keypoints: Sequence[str] | None = None,
        convention: TrackingConvention = "poseval",
    ) -> None:
        if convention not in ("poseval", "clear_mot"):
            raise MetricError(f"convention is '{convention}'; MOTA knows poseval and clear_mot.")
        super().__init__(skeleton, threshold, keypoint_threshold, keypoints)
        self.convention: TrackingConvention = convention

    def keypoint_values(self) -> dict[str, Floats]:
        """Return MOTA, MOTP, mot_precision and mot_recall of every scored keypoint, (K,) each."""
        frames = self.frames()
        twice = repeated_tracks(frames.person_frames, frames.person_tracks)
        if twice:
            rank_zero_warn(
                f"MOTA: in {len(twice)} cases several annotated people of a frame have the same track id; each counts."
            )
        return clear_mot(frames, self.threshold, self.convention)
