"""PoseTrack's average precision per keypoint as a pure function, and the columns that tracking metrics read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.ground_truth import Booleans, Floats, Integers
from lightning_pose_zoo.skeletons import Skeleton

__all__ = [
    "POSETRACK_KEYPOINTS",
    "TrackedFrames",
    "head_size",
    "inside_regions",
    "mean_over_keypoints",
    "pose_track_ap",
    "repeated_tracks",
    "scored_keypoints",
]

POSETRACK_KEYPOINTS = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
    "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "nose", "head_top",
)  # fmt: skip
"""The fifteen keypoints that PoseTrack scores, in the order of its evaluation; the ears are never annotated."""


_PERSON_COLUMNS = ("person_frames", "truth", "labelled", "head_sizes", "person_tracks")
_POSE_COLUMNS = ("pose_frames", "keypoints", "predicted", "scores", "pose_tracks")


def scored_keypoints(skeleton: Skeleton, names: Sequence[str] | None = None) -> list[int]:
    """Return the indices of the keypoints that are scored.

    Args:
        skeleton: Whose keypoints.
        names: Those to score; None: PoseTrack's fifteen where the skeleton has them all, else every keypoint.

    Raises:
        MetricError: Where the skeleton has no keypoint of a name, or no name is given.
    """
    if names is None:
        names = POSETRACK_KEYPOINTS if set(POSETRACK_KEYPOINTS) <= set(skeleton.names) else skeleton.names
    unknown = [name for name in names if name not in skeleton.names]
    if unknown or not names:
        raise MetricError(
            f"skeleton '{skeleton.name}' has no keypoints {unknown} to score; it has {', '.join(skeleton.names)}."
        )
    return [skeleton.names.index(name) for name in names]


def head_size(boxes: Floats) -> Floats:
    """Return 0.6 times the diagonal of heads' boxes, what MPII and PoseTrack divide distances by.

    Args:
        boxes: (..., 4) x0, y0, x1, y1, pixels.

    Returns:
        (...,) pixels.
    """
    size = boxes[..., 2:] - boxes[..., :2]
    return np.asarray(0.6 * np.sqrt(size[..., 0] ** 2 + size[..., 1] ** 2))


def inside_regions(points: Floats, regions: Sequence[Floats]) -> Booleans:
    """Tell which points lie inside of any polygon (even-odd rule); a point on an edge is outside.

    Args:
        points: (..., 2), pixels.
        regions: Corners (n, 2) of each polygon, pixels; the last is joined with the first.

    Returns:
        (...,) bool.
    """
    inside = np.zeros(points.shape[:-1], dtype=bool)
    x, y = points[..., 0, None], points[..., 1, None]
    for corners in regions:
        (x0, y0), (x1, y1) = corners.T, np.roll(corners, -1, axis=0).T
        # The side of each edge that a point is on; exact for whole pixels.
        side = (x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)
        between = (np.minimum(x0, x1) <= x) & (x <= np.maximum(x0, x1))
        between &= (np.minimum(y0, y1) <= y) & (y <= np.maximum(y0, y1))
        on_edge = np.any((side == 0) & between, axis=-1)
        crossed = ((y0 > y) != (y1 > y)) & ((side > 0) == (y1 > y0))
        inside |= (crossed.sum(axis=-1) % 2 == 1) & ~on_edge
    return inside


@dataclass(frozen=True)
class TrackedFrames:
    """Annotated and predicted people of F frames: G persons, P poses and K keypoints as columns.

    Persons and poses stand frame by frame; their order in a frame decides between equally good matches.

    Attributes:
        videos: (F,) which video a frame is of; the frames of a video stand together, in their order.
        scored: (F,) bool, False for frames that nobody is annotated in: PoseTrack labels only some frames.
        person_frames: (G,) rising, row of the frame.
        truth: (G, K, 2) pixels.
        labelled: (G, K) bool, annotated keypoints outside of ignored regions.
        head_sizes: (G,) pixels; where 0, nothing matches this person.
        person_tracks: (G,) ids over the frames of one video.
        pose_frames: (P,) rising, row of the frame.
        keypoints: (P, K, 2) pixels.
        predicted: (P, K) bool, predicted keypoints outside of ignored regions.
        scores: (P, K), confidence of each keypoint.
        pose_tracks: (P,) ids over the frames of one video, different within a frame; -1 where there are none.
    """

    videos: Integers
    scored: Booleans
    person_frames: Integers
    truth: Floats
    labelled: Booleans
    head_sizes: Floats
    person_tracks: Integers
    pose_frames: Integers
    keypoints: Floats
    predicted: Booleans
    scores: Floats
    pose_tracks: Integers

    def without_ignored_people(self, has_regions: Booleans) -> TrackedFrames:
        """Leave out persons and poses of which no keypoint is left, in frames that have ignored regions, (F,) bool."""
        persons = self.labelled.any(axis=1) | ~has_regions[self.person_frames]
        poses = self.predicted.any(axis=1) | ~has_regions[self.pose_frames]
        kept = {name: getattr(self, name)[persons] for name in _PERSON_COLUMNS}
        kept |= {name: getattr(self, name)[poses] for name in _POSE_COLUMNS}
        return replace(self, **kept)

    def persons_and_poses(self) -> Iterator[tuple[int, slice, slice]]:
        """Yield the row of each scored frame, and where its persons and its poses stand."""
        rows = np.arange(len(self.videos) + 1)
        persons = np.searchsorted(self.person_frames, rows).tolist()
        poses = np.searchsorted(self.pose_frames, rows).tolist()
        for frame in np.flatnonzero(self.scored).tolist():
            yield frame, slice(persons[frame], persons[frame + 1]), slice(poses[frame], poses[frame + 1])

    def distances(self, persons: slice, poses: slice) -> Floats:
        """Return the distances between poses and persons in sizes of the person's head.

        Returns:
            (p, g, K); infinite where either has no keypoint.
        """
        offset = self.keypoints[poses, None] - self.truth[persons]
        pixels = np.sqrt(offset[..., 0] ** 2 + offset[..., 1] ** 2)
        size = self.head_sizes[persons, None]
        usable = self.predicted[poses, None] & self.labelled[persons] & (size > 0)
        return np.divide(pixels, size, out=np.full_like(pixels, np.inf), where=usable)


def pose_track_ap(frames: TrackedFrames, threshold: float = 0.5) -> dict[str, Floats]:
    """Return PoseTrack's average precision of each keypoint, for poses without regard to tracks.

    A pose goes to the person of its frame of whom it has the largest fraction of keypoints right, and each person keeps
    the best of these poses. Right is a distance of at most ``threshold`` times the size of the head. Then each keypoint
    is scored by itself: those of a pose that no person keeps are wrong, all are sorted by score, of equal scores the
    later one first, and AP is the area under the precision that is made falling, at every recall (VOC 2010).

    Sources: Pishchulin et al., "DeepCut: Joint Subset Partition and Labeling for Multi Person Pose Estimation", CVPR
    2016; Andriluka et al., "PoseTrack: A Benchmark for Human Pose Estimation and Tracking", CVPR 2018.

    Args:
        frames: Annotations and predictions.
        threshold: In sizes of the head.

    Returns:
        ``AP``, and ``precision`` and ``recall`` of all predictions together, (K,) each, 0..1. AP and recall are NaN for
        a keypoint that is never annotated, precision for one that is never predicted either; where an annotated
        keypoint is never predicted, all are 0.
    """
    right = np.zeros_like(frames.predicted)
    counted = np.zeros_like(frames.predicted)
    annotated = np.zeros(frames.labelled.shape[1], dtype=np.int64)
    for _, persons, poses in frames.persons_and_poses():
        annotated += frames.labelled[persons].sum(axis=0)
        counted[poses] = frames.predicted[poses]
        near = frames.distances(persons, poses) <= threshold
        if near.any():
            right[poses] = _of_kept_poses(near, frames.labelled[persons])
    values = [
        _average_precision(frames.scores[counted[:, k], k], right[counted[:, k], k], count)
        for k, count in enumerate(annotated.tolist())
    ]
    return {name: np.array([value[n] for value in values]) for n, name in enumerate(("AP", "precision", "recall"))}


def _of_kept_poses(near: Booleans, labelled: Booleans) -> Booleans:
    """Match the poses and the persons of one frame.

    Args:
        near: (p, g, K), keypoints within the threshold.
        labelled: (g, K).

    Returns:
        (p, K), keypoints that are right for the person that the pose goes to.
    """
    fraction = near.sum(axis=2) / labelled.sum(axis=1).clip(1)
    rows = np.arange(len(fraction))
    person = fraction.argmax(axis=1)
    own = np.zeros_like(fraction)
    own[rows, person] = fraction[rows, person]
    kept = (own.argmax(axis=0)[person] == rows) & (own[rows, person] > 0)
    return np.asarray(near[rows, person] & kept[:, None])


def _average_precision(scores: Floats, right: Booleans, annotated: int) -> tuple[float, float, float]:
    """Return AP, precision and recall of one keypoint."""
    if not len(scores):
        return (0.0, 0.0, 0.0) if annotated else (np.nan, np.nan, np.nan)
    if not annotated:
        return np.nan, 0.0, np.nan
    order = np.argsort(scores, kind="stable")[::-1]
    found = right[order].cumsum()
    recall, precision = found / annotated, found / np.arange(1, len(order) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope)), float(precision[-1]), float(recall[-1])


def repeated_tracks(frames: Integers, tracks: Integers) -> list[tuple[int, int]]:
    """Return the frames, and in each the tracks, that stand more than once among (n,) frames and tracks."""
    pairs, counts = np.unique(np.stack([frames, tracks], axis=1), axis=0, return_counts=True)
    return [(frame, track) for frame, track in pairs[counts > 1].tolist()]


def mean_over_keypoints(values: Floats) -> float:
    """Return the mean over those keypoints that have a value; NaN where none has one."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan
