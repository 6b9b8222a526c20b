"""Scoring files of predictions against PoseTrack18's annotations, without poseval and py-motmetrics."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.errors import DatasetError, MetricError, PoseZooError, complain
from lightning_pose_zoo.geometry import xywh_to_xyxy
from lightning_pose_zoo.metrics.coco_reading import read_columns, read_json, refuse, repeated_ids
from lightning_pose_zoo.metrics.functional.clear_mot import TrackingConvention, clear_mot
from lightning_pose_zoo.metrics.functional.ground_truth import Booleans, Floats
from lightning_pose_zoo.metrics.functional.pose_track import (
    POSETRACK_KEYPOINTS,
    TrackedFrames,
    head_size,
    inside_regions,
    mean_over_keypoints,
    pose_track_ap,
    repeated_tracks,
)

__all__ = ["evaluate_posetrack", "read_posetrack"]

PathLike = str | os.PathLike[str]
Columns = dict[str, npt.NDArray[Any]]

# What files call keypoints that are called otherwise here.
_NAMES = {"head_bottom": "neck"}


def evaluate_posetrack(
    annotations: PathLike | Sequence[PathLike],
    results: PathLike | Sequence[PathLike],
    convention: TrackingConvention = "poseval",
) -> dict[str, dict[str, float]]:
    """Score predictions by PoseTrack's protocol: average precision of keypoints, and how well people are tracked.

    By default the numbers equal those of poseval (``python -m poseval.evaluate -g ... -p ... -e -t``) with
    py-motmetrics 1.4.0, its faults in tracking included; ``convention="clear_mot"`` gives MOTA and MOTP by their
    definition. What the difference is stands at ``functional.clear_mot.clear_mot``. Two things differ in AP: of equal
    scores the later one goes first, where poseval leaves their order to numpy's unstable sort, so that its AP varies by
    some hundredths with the version of numpy and the processor; and a keypoint that is never annotated has no AP, where
    poseval counts 0 if it is never predicted either.

    Args:
        annotations: Folder of PoseTrack18's JSON files, one of them, or several.
        results: The same for the predictions: files of the same names and layout, with a ``track_id`` and ``scores``
            (K numbers) of each person. A keypoint of (0, 0, 0) is not predicted. Single files may have any names.
        convention: ``poseval`` or ``clear_mot``.

    Returns:
        ``AP``, ``precision``, ``recall``, ``MOTA``, ``MOTP``, ``mot_precision`` and ``mot_recall``, in percent as
        poseval gives them, each by keypoint and as ``total``, the mean of the keypoints; NaN where nothing counts.

    Raises:
        DatasetError: Where annotations cannot be read or contradict themselves.
        MetricError: Where results are missing, cannot be read, hold NaN, or do not belong to the annotations, or the
            convention is unknown.
    """
    frames = read_posetrack(annotations, results)
    values = pose_track_ap(frames) | clear_mot(frames, convention=convention)
    return {
        name: dict(zip(POSETRACK_KEYPOINTS, (100 * of_keypoints).tolist(), strict=True))
        | {"total": 100 * mean_over_keypoints(of_keypoints)}
        for name, of_keypoints in values.items()
    }


def read_posetrack(annotations: PathLike | Sequence[PathLike], results: PathLike | Sequence[PathLike]) -> TrackedFrames:
    """Read annotations and predictions in PoseTrack18's layout.

    Args:
        annotations: As for ``evaluate_posetrack``.
        results: As for ``evaluate_posetrack``.

    Returns:
        The fifteen scored keypoints of all frames. A video is what has one ``vid_id`` in one file, its frames stand in
        the order of ``images``.

    Raises:
        DatasetError: As for ``evaluate_posetrack``.
        MetricError: As for ``evaluate_posetrack``.
    """
    parts: list[Columns] = []
    frame_count = video_count = 0
    for truth_path, results_path in _pairs(_files(annotations, DatasetError), _files(results, MetricError)):
        part = _read_pair(truth_path, results_path)
        for name in ("person_frames", "pose_frames"):
            part[name] += frame_count
        part["videos"] += video_count
        frame_count += len(part["videos"])
        video_count = int(part["videos"].max(initial=video_count - 1)) + 1
        parts.append(part)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    has_regions = joined.pop("has_regions")
    twice = repeated_tracks(joined["person_frames"], joined["person_tracks"])
    if twice:
        warnings.warn(
            f"in {len(twice)} cases several annotated people of one frame have the same track_id; each counts.",
            stacklevel=3,
        )
    sizeless = int(((joined["head_sizes"] <= 0) & joined["labelled"].any(axis=1)).sum())
    if sizeless:
        warnings.warn(f"{sizeless} annotated people have a bbox_head of no size; nothing matches them.", stacklevel=3)
    return TrackedFrames(**joined).without_ignored_people(has_regions)


def _files(place: PathLike | Sequence[PathLike], error: type[PoseZooError]) -> list[Path]:
    """Return the files of a folder, one file, or several."""
    if isinstance(place, (str, os.PathLike)):
        path = Path(place)
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    else:
        files = [Path(one) for one in place]
    if not files:
        raise error(f"'{place}' holds no .json files; give PoseTrack18's files, one for each video.")
    return files


def _pairs(truths: list[Path], results: list[Path]) -> list[tuple[Path, Path]]:
    """Return each file of annotations with the results of the same name."""
    if len(truths) == len(results) == 1:
        return [(truths[0], results[0])]
    by_name = {path.name: path for path in results}
    missing = [f"no results for '{path.name}'" for path in truths if path.name not in by_name]
    if missing:
        remedy = "Each file of annotations needs one of the same name, with an empty list of 'annotations' for nobody."
        raise MetricError(complain(f"'{results[0].parent}'", missing, remedy))
    unused = sorted(by_name.keys() - {path.name for path in truths})
    if unused:
        warnings.warn(f"{len(unused)} files of results have no annotations, such as {unused[:3]}.", stacklevel=4)
    return [(path, by_name[path.name]) for path in truths]


def _read_pair(truth_path: Path, results_path: Path) -> Columns:
    """Return the columns of ``TrackedFrames`` for one file, and has_regions (F,)."""
    content = _content(truth_path, DatasetError, ("images", "annotations"))
    images = content["images"]
    image_ids = read_columns(images, truth_path, DatasetError, "image", ("id",))["id"]
    refuse(truth_path, DatasetError, [f"{n} images have the id {image}" for image, n in repeated_ids(image_ids)])
    video_names = [str(image.get("vid_id", "")) for image in images]
    names = sorted(set(video_names), key=video_names.index)
    videos = np.array([names.index(name) for name in video_names], dtype=np.int64)
    order = np.argsort(videos, kind="stable")
    regions = [_regions(images[row], truth_path) for row in order]
    count, scored = _scored(content, truth_path, DatasetError)
    truth = _people(content, truth_path, DatasetError, count, image_ids[order], {"bbox_head": 4})
    found = _content(results_path, MetricError, ("annotations",))
    if found.get("categories"):
        count, scored_of_results = _scored(found, results_path, MetricError)
    else:
        scored_of_results = scored
    poses = _people(found, results_path, MetricError, count, image_ids[order], {"scores": count})
    refuse(
        results_path,
        MetricError,
        [
            f"image {image_ids[order][row]}: several predictions have the track_id {track}"
            for row, track in repeated_tracks(poses["frames"], poses["track_id"])
        ],
    )
    keypoints, predicted = _counted(poses, scored_of_results, regions)
    person_keypoints, labelled = _counted(truth, scored, regions)
    return {
        "videos": videos[order],
        "scored": np.bincount(truth["frames"], minlength=len(images)) > 0,
        "person_frames": truth["frames"],
        "truth": person_keypoints,
        "labelled": labelled,
        "head_sizes": head_size(np.asarray(xywh_to_xyxy(truth["bbox_head"]), np.float64)),
        "person_tracks": truth["track_id"],
        "pose_frames": poses["frames"],
        "keypoints": keypoints,
        "predicted": predicted,
        "scores": poses["scores"][:, scored_of_results],
        "pose_tracks": poses["track_id"],
        "has_regions": np.array([bool(polygons) for polygons in regions], dtype=bool),
    }


def _content(path: Path, error: type[PoseZooError], lists: Sequence[str]) -> dict[str, Any]:
    content = read_json(path, error)
    if isinstance(content, dict) and "annolist" in content:
        raise error(f"'{path}' has the layout of PoseTrack17 ('annolist'); convert it to PoseTrack18's.")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in lists):
        raise error(f"'{path}' is no PoseTrack18 file: it needs lists of {' and '.join(lists)}.")
    return content


def _scored(content: dict[str, Any], path: Path, error: type[PoseZooError]) -> tuple[int, list[int]]:
    """Return the number of keypoints of a file, and where the fifteen that are scored stand."""
    for category in content.get("categories") or ():
        if isinstance(category, dict) and isinstance(category.get("keypoints"), list):
            names = [_NAMES.get(name, name) for name in category["keypoints"]]
            missing = [name for name in POSETRACK_KEYPOINTS if name not in names]
            if missing:
                raise error(f"'{path}': its category has no keypoints {', '.join(missing)}, which PoseTrack scores.")
            return len(names), [names.index(name) for name in POSETRACK_KEYPOINTS]
    raise error(f"'{path}': no category names its keypoints; PoseTrack18's files have 'categories'.")


def _people(
    content: dict[str, Any],
    path: Path,
    error: type[PoseZooError],
    count: int,
    image_ids: npt.NDArray[np.int64],
    lengths: dict[str, int],
) -> Columns:
    """Read the people of a file as columns, ordered by the rows of their frames."""
    what = "annotation" if error is DatasetError else "prediction"
    columns = read_columns(
        content["annotations"], path, error, what, ("image_id", "track_id"), {"keypoints": 3 * count, **lengths}
    )
    lost = np.flatnonzero(~np.isin(columns["image_id"], image_ids))
    refuse(path, error, [f"{what} {row}: image {columns['image_id'][row]} is not in the annotations" for row in lost])
    sorter = np.argsort(image_ids)
    frames = sorter[np.searchsorted(image_ids, columns["image_id"], sorter=sorter)] if len(image_ids) else lost
    order = np.argsort(frames, kind="stable")
    return {name: column[order] for name, column in {**columns, "frames": frames}.items()}


def _counted(people: Columns, scored: list[int], regions: list[list[Floats]]) -> tuple[Floats, Booleans]:
    """Return the scored keypoints (n, K, 2), and which of them are there and in no ignored region (n, K)."""
    triples = people["keypoints"].reshape(len(people["frames"]), people["keypoints"].shape[1] // 3, 3)[:, scored]
    points = triples[..., :2]
    there = np.asarray((triples != 0).any(axis=-1))
    for row in np.unique(people["frames"]).tolist():
        if regions[row]:
            own = people["frames"] == row
            there[own] &= ~inside_regions(points[own], regions[row])
    return points, there


def _regions(image: dict[str, Any], path: Path) -> list[Floats]:
    """Return the ignored regions of an image, (n, 2) each."""
    columns = [image.get(f"ignore_regions_{axis}") or [] for axis in "xy"]
    try:
        regions = [np.stack([np.array(x, float), np.array(y, float)], 1) for x, y in zip(*columns, strict=True)]
    except (TypeError, ValueError):
        regions = [np.full((1, 2), np.nan)]
    if not all(len(corners) >= 3 and np.isfinite(corners).all() for corners in regions):
        raise DatasetError(
            f"'{path}': ignore_regions_x and _y of image {image['id']} are no polygons; needed are as many lists of x "
            "as of y, each of three numbers or more."
        )
    return regions
