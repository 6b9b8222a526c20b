"""Scoring a file of predictions against a file of annotations, both in COCO's format, without pycocotools."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.errors import DatasetError, MetricError, PoseZooError, complain
from lightning_pose_zoo.geometry import xywh_to_xyxy
from lightning_pose_zoo.metrics.functional.average_precision import (
    AREA_OF_BOX,
    GroundTruth,
    keypoint_extents,
    precision_and_recall,
    summarize,
)
from lightning_pose_zoo.skeleton_files import read_coco_category
from lightning_pose_zoo.skeletons import Skeleton, SkeletonLike, get_skeleton

__all__ = ["evaluate_coco"]

Entries = list[dict[str, Any]]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]
Columns = dict[str, npt.NDArray[Any]]


def evaluate_coco(
    annotations: str | os.PathLike[str], results: str | os.PathLike[str], skeleton: SkeletonLike | None = None
) -> dict[str, float]:
    """Score a results file by COCO's keypoint protocol.

    The numbers equal those of pycocotools' ``COCOeval`` with ``iouType="keypoints"``; several categories are averaged
    as there. Unlike there, a damaged file is refused instead of scored, an annotation id of 0 counts, and no results
    score 0. As in pycocotools, the area of a prediction (it matters for AP_M and AP_L only) is that of ``bbox`` where
    the first result has one, else that of the box around its keypoints.

    Args:
        annotations: JSON with ``images``, ``annotations`` and ``categories``.
        results: JSON list of ``image_id``, ``category_id``, ``keypoints`` (x, y and score, K times) and ``score``.
        skeleton: Whose sigmas count; None: by the names of the category's keypoints.

    Returns:
        AP, AP50, AP75, AP_M, AP_L, AR, AR50, AR75, AR_M and AR_L in 0..1; -1, as in pycocotools, where no person of
        that size is annotated.

    Raises:
        DatasetError: Where the annotations cannot be read or contradict themselves; names the first ids.
        MetricError: Where the results cannot be read, hold NaN, or do not belong to the annotations; names the first
            rows.
        SkeletonError: Where the skeleton is unknown.
    """
    truth_path, results_path = Path(annotations), Path(results)
    content = _read_json(truth_path, DatasetError)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise DatasetError(f"'{truth_path}' is no COCO annotation file: it needs lists of 'images' and 'annotations'.")
    rows = _read_json(results_path, MetricError)
    if not isinstance(rows, list):
        raise MetricError(f"'{results_path}' is no COCO results file: it needs a list of predictions.")
    known = _skeleton(content, skeleton, truth_path)
    truths = _read_truth(content, known.num_keypoints, truth_path)
    found = _read_results(rows, known.num_keypoints, results_path, truths)
    curves = []
    for category, truth in truths.items():
        of_category = found["category_id"] == category
        images, keypoints, scores, areas = (
            found[name][of_category] for name in ("image_id", "keypoints", "score", "area")
        )
        curves.append(precision_and_recall(truth, images, keypoints, scores, known.sigmas, areas))
    return summarize(np.stack([precision for precision, _ in curves]), np.stack([recall for _, recall in curves]))


def _read_json(path: Path, error: type[PoseZooError]) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise error(f"'{path}' does not exist.") from None
    except (OSError, ValueError, RecursionError) as reason:
        raise error(f"'{path}' cannot be read as JSON: {reason}") from reason


def _skeleton(content: dict[str, Any], skeleton: SkeletonLike | None, path: Path) -> Skeleton:
    if skeleton is not None:
        return get_skeleton(skeleton)
    for category in content.get("categories", ()):
        if isinstance(category, dict) and category.get("keypoints"):
            # Only its sigmas matter here, so limbs cannot be wrong (CrowdPose's file lists those of COCO).
            return read_coco_category({**category, "skeleton": []})
    raise DatasetError(f"'{path}': no category names its keypoints; say which skeleton it is.")


def _read_truth(content: dict[str, Any], count: int, path: Path) -> dict[int, GroundTruth]:
    """Return the ground truth of each category by its id, in rising order."""
    entries: Entries = content["annotations"]
    images = _columns(content["images"], path, DatasetError, "image", whole=("id",))["id"]
    integers, lengths = ("id", "image_id", "category_id"), {"keypoints": 3 * count, "bbox": 4}
    columns = _columns(entries, path, DatasetError, "annotation", integers, lengths)
    persons, image_ids = columns["id"], columns["image_id"]
    problems = [f"{n} images have the id {image}" for image, n in _repeated(images)]
    problems += [f"{n} annotations have the id {person}" for person, n in _repeated(persons)]
    lost = np.flatnonzero(~np.isin(image_ids, images))
    problems += [f"annotation {persons[row]}: image {image_ids[row]} is not listed" for row in lost]
    _refuse(path, DatasetError, problems)
    keypoints = columns["keypoints"].reshape(-1, count, 3)
    sorted_images = np.sort(images)
    whole = GroundTruth(
        image_ids=sorted_images,
        image_rows=np.searchsorted(sorted_images, image_ids),
        person_ids=persons,
        keypoints=keypoints[..., :2],
        visibility=keypoints[..., 2],
        boxes=xywh_to_xyxy(columns["bbox"]),
        areas=_areas(entries, columns["bbox"], path),
        is_crowd=np.array([bool(entry.get("iscrowd", 0)) for entry in entries], dtype=bool),
        is_ignored=_ignored(entries, keypoints[..., 2] > 0, path),
    )
    categories = [entry["id"] for entry in content.get("categories", ())] or np.unique(columns["category_id"]).tolist()
    return {category: whole.of_persons(columns["category_id"] == category) for category in sorted(categories)}


def _areas(entries: Entries, boxes: Floats, path: Path) -> Floats:
    """Return the annotated areas (G,); those of the boxes, scaled, where an annotation has none."""
    without = sum("area" not in entry for entry in entries)
    if not without:
        return _columns(entries, path, DatasetError, "annotation", lengths={"area": 1})["area"][:, 0]
    warnings.warn(
        f"'{path}': {without} annotations have no area; {AREA_OF_BOX} of the box is taken for all, as for CrowdPose.",
        stacklevel=4,
    )
    return AREA_OF_BOX * boxes[:, 2] * boxes[:, 3]


def _ignored(entries: Entries, labelled: Booleans, path: Path) -> Booleans:
    """Return who has a ``num_keypoints`` of 0, (G,): pycocotools goes by it, whatever the keypoints say."""
    unlabelled = ~np.any(labelled, axis=1)
    ignored = np.array(
        [entry.get("num_keypoints", not nothing) == 0 for entry, nothing in zip(entries, unlabelled, strict=True)],
        dtype=bool,
    )
    wrong = np.flatnonzero(ignored != unlabelled)
    if len(wrong):
        warnings.warn(
            f"'{path}': num_keypoints contradicts the keypoints of {len(wrong)} annotations, such as "
            f"{[entries[row]['id'] for row in wrong[:5]]}; those with 0 are ignored, as in pycocotools.",
            stacklevel=4,
        )
    return ignored


def _read_results(rows: Entries, count: int, path: Path, truths: Mapping[int, GroundTruth]) -> Columns:
    """Return the predictions as columns: image_id, category_id, keypoints (P, K, 2), score and area."""
    with_boxes = bool(rows) and isinstance(rows[0], dict) and bool(rows[0].get("bbox"))
    lengths = {"keypoints": 3 * count, "score": 1, **({"bbox": 4} if with_boxes else {})}
    columns = _columns(rows, path, MetricError, "result", ("image_id", "category_id"), lengths)
    images = next(iter(truths.values())).image_ids if truths else np.zeros(0, dtype=np.int64)
    problems = []
    for what, known in (("image", images), ("category", np.array(list(truths), dtype=np.int64))):
        ids = columns[f"{what}_id"]
        problems += [
            f"result {row}: {what} {ids[row]} is not in the annotations" for row in np.flatnonzero(~np.isin(ids, known))
        ]
    _refuse(path, MetricError, problems)
    keypoints = columns["keypoints"].reshape(-1, count, 3)[..., :2]
    area = columns["bbox"][:, 2] * columns["bbox"][:, 3] if with_boxes else keypoint_extents(keypoints)
    return {**columns, "keypoints": keypoints, "score": columns["score"][:, 0], "area": area}


def _columns(
    entries: Sequence[Any],
    path: Path,
    error: type[PoseZooError],
    what: str,
    whole: Sequence[str] = (),
    lengths: Mapping[str, int] = MappingProxyType({}),
) -> Columns:
    """Read some keys of all entries: whole numbers as (n,) int64, lists of numbers as (n, length) float64."""
    problems = []
    for row, entry in enumerate(entries):
        fault = _fault(entry, whole, lengths)
        if fault:
            name = entry.get("id", row) if isinstance(entry, dict) else row
            problems.append(f"{what} {name} {fault}")
    _refuse(path, error, problems)
    columns: Columns = {key: np.array([entry[key] for entry in entries], dtype=np.int64) for key in whole}
    for key, length in lengths.items():
        values = np.array([entry[key] for entry in entries], dtype=np.float64).reshape(-1, length)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist()
        problems += [f"{what} {entries[row].get('id', row)}: {key} is NaN or infinite" for row in bad]
        columns[key] = values
    _refuse(path, error, problems)
    return columns


def _fault(entry: Any, whole: Sequence[str], lengths: Mapping[str, int]) -> str | None:
    """Say what is wrong with an entry; None where nothing is but perhaps a NaN."""
    if not isinstance(entry, dict):
        return "is no object"
    missing = [key for key in (*whole, *lengths) if key not in entry]
    if missing:
        return f"has no {' and no '.join(missing)}"
    for key in whole:
        if type(entry[key]) is not int or not 0 <= entry[key] < 2**63:
            return f"has the {key} {entry[key]!r}, which is no id"
    for key, length in lengths.items():
        values = [entry[key]] if length == 1 else entry[key]
        if not isinstance(values, list) or len(values) != length:
            return f"has {key} that are no {length} numbers"
        if not {type(value) for value in values} <= {int, float}:
            return f"has {key} that are not all numbers"
    return None


def _repeated(ids: Integers) -> list[tuple[int, int]]:
    values, counts = np.unique(ids, return_counts=True)
    return [(int(value), int(n)) for value, n in zip(values[counts > 1], counts[counts > 1], strict=True)]


def _refuse(path: Path, error: type[PoseZooError], problems: Sequence[str]) -> None:
    if problems:
        raise error(complain(f"'{path}'", problems, "Mend the file, or leave these out."))
