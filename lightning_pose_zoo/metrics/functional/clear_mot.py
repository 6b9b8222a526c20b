"""The CLEAR MOT metrics of keypoints, as PoseTrack scores tracking: a pure function."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.ground_truth import Booleans, Floats, Integers
from lightning_pose_zoo.metrics.functional.pose_track import TrackedFrames

__all__ = ["ClearMOTCounts", "TrackingConvention", "clear_mot", "clear_mot_counts"]

TrackingConvention = Literal["poseval", "clear_mot"]
"""``poseval``: the numbers of PoseTrack's own evaluation, with its faults; ``clear_mot``: as published by Bernardin and
Stiefelhagen. See ``clear_mot``."""


@dataclass
class ClearMOTCounts:
    """What the CLEAR MOT metrics are made of: sums over all frames, (K,) each.

    Attributes:
        objects: Annotated keypoints.
        matches: Those that a predicted keypoint was matched with, switches included.
        misses: Those without a match.
        switches: Matches with another track than the one that the person was last matched with.
        false_positives: Predicted keypoints without a match.
        distance: Of the matches, in sizes of the head.
    """

    objects: Integers
    matches: Integers
    misses: Integers
    switches: Integers
    false_positives: Integers
    distance: Floats

    @classmethod
    def zeros(cls, keypoints: int) -> ClearMOTCounts:
        """Return nothing counted, with K = ``keypoints``."""
        objects, matches, misses, switches, false_positives = np.zeros((5, keypoints), dtype=np.int64)
        return cls(objects, matches, misses, switches, false_positives, distance=np.zeros(keypoints))


def clear_mot(
    frames: TrackedFrames, threshold: float = 0.5, convention: TrackingConvention = "poseval"
) -> dict[str, Floats]:
    """Return the CLEAR MOT metrics of each keypoint: every keypoint is an object of its own, with its person's track.

    In each frame, people stay with the track that they were last matched with while it is within ``threshold`` sizes of
    the head; the rest is matched so that as many as possible are, at the smallest sum of distances. Then

    - ``MOTA`` = 1 - (misses + switches + false positives) / annotated keypoints; below 0 where most is wrong,
    - ``MOTP`` = 1 - mean distance of the matches, in sizes of the head; 0 without a match,
    - ``mot_precision`` = matches / predicted keypoints, ``mot_recall`` = matches / annotated keypoints,

    each from the sums over all videos. ``poseval`` differs from the definition in three ways, and published scores of
    PoseTrack were made with it: the last annotated frame of every video is left out; a frame in which nothing is
    predicted, or in which everybody annotated is in an ignored region, counts as one miss and one false positive of
    every keypoint, whatever is in it; and MOTP sums all rows of py-motmetrics' table of events, where a match stands
    at least twice and any other pair within the threshold once.

    Sources: Bernardin & Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics", EURASIP
    Journal on Image and Video Processing 2008; Andriluka et al., "PoseTrack: A Benchmark for Human Pose Estimation and
    Tracking", CVPR 2018; svenkreiss/poseval with py-motmetrics 1.4.0.

    Args:
        frames: Annotations and predictions with tracks.
        threshold: In sizes of the head.
        convention: ``poseval`` or ``clear_mot``.

    Returns:
        The four, (K,) each; NaN where nothing is annotated (MOTA, mot_recall) or predicted (mot_precision).

    Raises:
        MetricError: Where the convention is unknown.
    """
    counts = clear_mot_counts(frames, threshold, convention)
    with np.errstate(divide="ignore", invalid="ignore"):
        annotated = np.where(counts.objects > 0, counts.objects, np.nan)
        precision = counts.matches / (counts.matches + counts.false_positives)
        mean_distance = np.where(counts.matches > 0, counts.distance / counts.matches, 1.0)
    return {
        "MOTA": 1 - (counts.misses + counts.switches + counts.false_positives) / annotated,
        "MOTP": 1 - mean_distance,
        "mot_precision": precision,
        "mot_recall": counts.matches / annotated,
    }


def clear_mot_counts(
    frames: TrackedFrames, threshold: float = 0.5, convention: TrackingConvention = "poseval"
) -> ClearMOTCounts:
    """Return what ``clear_mot`` computes its metrics from.

    With ``poseval``, ``distance`` is the sum over py-motmetrics' events.

    Args:
        frames: Annotations and predictions with tracks.
        threshold: In sizes of the head.
        convention: ``poseval`` or ``clear_mot``.

    Returns:
        The counts.

    Raises:
        MetricError: Where the convention is unknown.
    """
    if convention not in ("poseval", "clear_mot"):
        raise MetricError(f"convention is '{convention}'; the tracking metrics know poseval and clear_mot.")
    counts = ClearMOTCounts.zeros(frames.labelled.shape[1])
    rows = frames.persons_and_poses()
    for _, video in itertools.groupby(rows, key=lambda row: frames.videos[row[0]]):
        own = [(persons, poses) for _, persons, poses in video]
        if convention == "poseval":
            own = own[:-1]
        people, person_rows = np.unique(frames.person_tracks[_span(own, 0)], return_inverse=True)
        tracks, pose_rows = np.unique(frames.pose_tracks[_span(own, 1)], return_inverse=True)
        matcher = _Matcher(counts, len(people), len(tracks), convention == "poseval")
        for persons, poses in own:
            who = person_rows[_relative(persons, own[0][0])]
            which = pose_rows[_relative(poses, own[0][1])]
            matcher.add(frames, persons, poses, who, which, threshold)
    return counts


def _span(rows: list[tuple[slice, slice]], side: int) -> slice:
    """Return where all persons (0) or poses (1) of some frames of one video stand."""
    return slice(rows[0][side].start, rows[-1][side].stop) if rows else slice(0, 0)


def _relative(rows: slice, first: slice) -> slice:
    return slice(rows.start - first.start, rows.stop - first.start)


class _Matcher:
    """Matches the frames of one video, one after another, all keypoints at once.

    Args:
        counts: What is added to.
        people: Number of annotated tracks in the video.
        tracks: Number of predicted tracks in the video.
        as_poseval: Whether empty frames and distances count as in poseval.
    """

    def __init__(self, counts: ClearMOTCounts, people: int, tracks: int, as_poseval: bool) -> None:
        keypoints = len(counts.objects)
        self.counts = counts
        self.as_poseval = as_poseval
        self.track_of = np.full((people, keypoints), -1)  # the track that a person was last matched with
        # What only poseval's sum of distances needs: the person that a track was last given to, and who ever matched.
        self.owner = np.full((tracks, keypoints), -1)
        self.person_seen = np.zeros((people, keypoints), dtype=bool)
        self.track_seen = np.zeros((tracks, keypoints), dtype=bool)

    def add(
        self,
        frames: TrackedFrames,
        persons: slice,
        poses: slice,
        who: Integers,
        which: Integers,
        threshold: float,
    ) -> None:
        """Match one frame; ``who`` (g,) and ``which`` (p,) are the rows of its people and tracks."""
        counts = self.counts
        labelled, predicted = frames.labelled[persons], frames.predicted[poses]
        if self.as_poseval and not (len(labelled) and len(predicted)):
            for count in (counts.objects, counts.misses, counts.false_positives):
                count += 1
            return
        distances = frames.distances(persons, poses)
        near = distances <= threshold
        last = self.track_of[who][None]
        kept = near & (last == which[:, None, None])
        kept &= kept.cumsum(axis=1) == 1  # of several people who once had this track, the first one keeps it
        free = near & ~kept.any(axis=0)[None] & ~kept.any(axis=1)[:, None]
        assigned = _assign(distances, free)
        matched = kept | assigned
        switched = assigned & (last != -1) & (last != which[:, None, None])
        found = matched.sum(axis=(0, 1))
        counts.objects += labelled.sum(axis=0)
        counts.matches += found
        counts.misses += labelled.sum(axis=0) - found
        counts.switches += switched.sum(axis=(0, 1))
        counts.false_positives += predicted.sum(axis=0) - found
        times = self._events(near, matched, assigned, switched, who, which) if self.as_poseval else matched
        counts.distance += np.sum(np.where(near, distances, 0.0) * times, axis=(0, 1))
        pose, person, keypoint = np.nonzero(assigned)
        self.track_of[who[person], keypoint] = which[pose]
        self.owner[which[pose], keypoint] = who[person]
        pose, person, keypoint = np.nonzero(matched)
        self.person_seen[who[person], keypoint] = True
        self.track_seen[which[pose], keypoint] = True

    def _events(
        self,
        near: Booleans,
        matched: Booleans,
        assigned: Booleans,
        switched: Booleans,
        who: Integers,
        which: Integers,
    ) -> Integers:
        """Return how often py-motmetrics lists the distance of each pair, (p, g, K).

        Every pair within the threshold is listed once as it is, every match once more, and again where the track was
        somebody else's before, where such a track goes to somebody new, and where a person switches to a new track.
        """
        owner = self.owner[which][:, None]
        moved = assigned & (owner != -1) & (owner != who[None, :, None])
        migrated = moved & ~self.person_seen[who][None]
        ascended = switched & ~self.track_seen[which][:, None]
        return np.asarray(np.sum([near, matched, moved, migrated, ascended], axis=0))


def _assign(distances: Floats, free: Booleans) -> Booleans:
    """Match as many pairs as possible at the smallest sum of distances, for each keypoint by itself.

    Args:
        distances: (p, g, K).
        free: (p, g, K), pairs that may be matched.

    Returns:
        (p, g, K) bool, at most one pair in each row and column.
    """
    assigned = free.copy()
    contested = (free.sum(axis=0) > 1).any(axis=0) | (free.sum(axis=1) > 1).any(axis=0)
    if not contested.any():
        return assigned
    from scipy.optimize import linear_sum_assignment

    for keypoint in np.flatnonzero(contested).tolist():
        allowed = free[..., keypoint]
        # So dear that one pair more is worth any distances.
        dear = (1 + distances[..., keypoint][allowed].max()) * 2 * min(allowed.shape)
        rows, columns = linear_sum_assignment(np.where(allowed, distances[..., keypoint], dear))
        assigned[..., keypoint] = False
        assigned[rows, columns, keypoint] = allowed[rows, columns]
    return assigned
