"""Reading a file of annotations and a file of predictions, both in COCO's format, as columns.

A damaged file is refused with the ids of what is wrong in it; nothing is mended in silence.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.errors import DatasetError, MetricError, PoseZooError, complain
from lightning_pose_zoo.geometry import xywh_to_xyxy
from lightning_pose_zoo.metrics.functional.average_precision import AREA_OF_BOX, GroundTruth, keypoint_extents
from lightning_pose_zoo.metrics.functional.ground_truth import Booleans, Floats, Integers
from lightning_pose_zoo.skeleton_files import read_coco_category
from lightning_pose_zoo.skeletons import DEFAULT_SIGMA, SKELETON_NAMES, Skeleton, SkeletonLike, get_skeleton

__all__ = [
    "CocoFiles",
    "CocoPredictions",
    "read_coco_files",
    "read_coco_skeleton",
    "read_columns",
    "read_json",
    "refuse",
    "repeated_ids",
]

Entries = list[dict[str, Any]]
Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class CocoPredictions:
    """Predicted persons as columns: P persons, K keypoints, in the order of the file.

    Attributes:
        image_ids: (P,) int64.
        category_ids: (P,) int64.
        keypoints: (P, K, 2), pixels of the image.
        scores: (P,) confidence.
        areas: (P,) square pixels: of ``bbox`` where the first result has one, else of the box around the keypoints.
    """

    image_ids: Integers
    category_ids: Integers
    keypoints: Floats
    scores: Floats
    areas: Floats

    def of_category(self, category: int) -> CocoPredictions:
        """Return those of one category."""
        kept = self.category_ids == category
        return CocoPredictions(*(getattr(self, field.name)[kept] for field in fields(self)))


@dataclass(frozen=True)
class CocoFiles:
    """What stands in a pair of files.

    Attributes:
        skeleton: What the keypoints are, and whose sigmas count.
        sigmas_from: Where the sigmas come from, in words.
        truths: The annotated persons of each category, by its id in rising order; all images belong to each.
        predictions: The predicted persons.
        image_sizes: (I, 2) width and height, in the order of ``GroundTruth.image_ids``; NaN where the file has none.
    """

    skeleton: Skeleton
    sigmas_from: str
    truths: dict[int, GroundTruth]
    predictions: CocoPredictions
    image_sizes: Floats


def read_coco_files(
    annotations: str | os.PathLike[str], results: str | os.PathLike[str], skeleton: SkeletonLike | None = None
) -> CocoFiles:
    """Read annotations and the results of them.

    An annotation id of 0 is an id like others. A person without an ``area`` has 0.53 of the box, and then all have, as
    for CrowdPose; an area of 0 stays 0, as in pycocotools. Persons whose ``num_keypoints`` is 0 are ignored.

    Args:
        annotations: JSON with ``images``, ``annotations`` and ``categories``.
        results: JSON list of ``image_id``, ``category_id``, ``keypoints`` (x, y and score, K times) and ``score``.
        skeleton: Whose sigmas count; None: by the names of the category's keypoints.

    Returns:
        Both as columns.

    Raises:
        DatasetError: Where the annotations cannot be read or contradict themselves; names the first ids.
        MetricError: Where the results cannot be read, hold NaN, or do not belong to the annotations; names the first
            rows.
        SkeletonError: Where the skeleton is unknown.
    """
    truth_path, results_path = Path(annotations), Path(results)
    content = _read_annotations(truth_path)
    rows = read_json(results_path, MetricError)
    if not isinstance(rows, list):
        raise MetricError(f"'{results_path}' is no COCO results file: it needs a list of predictions.")
    known, sigmas_from = _skeleton(content, skeleton, truth_path)
    truths = _read_truth(content, known.num_keypoints, truth_path)
    return CocoFiles(
        skeleton=known,
        sigmas_from=sigmas_from,
        truths=truths,
        predictions=_read_results(rows, known.num_keypoints, results_path, truths),
        image_sizes=_image_sizes(content["images"]),
    )


def read_coco_skeleton(annotations: str | os.PathLike[str], skeleton: SkeletonLike | None = None) -> Skeleton:
    """Return the skeleton whose sigmas count: as given, or by the names of the category's keypoints.

    Raises:
        DatasetError: Where the annotations cannot be read, or name no keypoints.
        SkeletonError: Where the skeleton is unknown.
    """
    if skeleton is not None:
        return get_skeleton(skeleton)
    return _skeleton(_read_annotations(Path(annotations)), None, Path(annotations))[0]


def _read_annotations(path: Path) -> dict[str, Any]:
    content = read_json(path, DatasetError)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise DatasetError(f"'{path}' is no COCO annotation file: it needs lists of 'images' and 'annotations'.")
    return content


def read_json(path: Path, error: type[PoseZooError]) -> Any:
    """Read a file of JSON; raises ``error`` where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise error(f"'{path}' does not exist.") from None
    except (OSError, ValueError, RecursionError) as reason:
        raise error(f"'{path}' cannot be read as JSON: {reason}") from reason


def _skeleton(content: dict[str, Any], skeleton: SkeletonLike | None, path: Path) -> tuple[Skeleton, str]:
    """Return the skeleton, and where its sigmas come from."""
    if skeleton is not None:
        known = get_skeleton(skeleton)
        return known, f"skeleton '{known.name}', as given"
    categories = content.get("categories", ())
    for category in categories if isinstance(categories, list) else ():
        if isinstance(category, dict) and category.get("keypoints"):
            # Only its sigmas matter here, so limbs cannot be wrong (CrowdPose's file lists those of COCO).
            known = read_coco_category({**category, "skeleton": []})
            return known, _origin(known)
    raise DatasetError(
        f"'{path}': no category names its keypoints; say which skeleton it is (skeleton='coco17', --skeleton coco17)."
    )


def _origin(skeleton: Skeleton) -> str:
    if skeleton.name in SKELETON_NAMES:
        return f"skeleton '{skeleton.name}', by the names of the category's keypoints"
    unknown = sum(sigma == DEFAULT_SIGMA for sigma in skeleton.sigmas)
    if unknown < len(skeleton.sigmas):
        rest = f"; {unknown} names tell nothing and have {DEFAULT_SIGMA}" if unknown else ""
        return f"the body parts in the names of the category's keypoints{rest}"
    warnings.warn(
        f"the names of the keypoints tell no sigmas, so {DEFAULT_SIGMA} is taken for all; give a skeleton with sigmas "
        "to compare with others' numbers.",
        stacklevel=5,
    )
    return f"a uniform default of {DEFAULT_SIGMA}"


def _image_sizes(images: Entries) -> Floats:
    """Return width and height in the order of the ids, (I, 2); NaN where there are none."""

    def side(value: Any) -> float:
        return float(value) if type(value) in (int, float) and value > 0 else np.nan

    sizes = {image["id"]: [side(image.get("width")), side(image.get("height"))] for image in images}
    return np.array([sizes[number] for number in sorted(sizes)], dtype=np.float64).reshape(-1, 2)


def _read_truth(content: dict[str, Any], count: int, path: Path) -> dict[int, GroundTruth]:
    """Return the ground truth of each category by its id, in rising order."""
    entries: Entries = content["annotations"]
    images = read_columns(content["images"], path, DatasetError, "image", whole=("id",))["id"]
    integers, lengths = ("id", "image_id", "category_id"), {"keypoints": 3 * count, "bbox": 4}
    columns = read_columns(entries, path, DatasetError, "annotation", integers, lengths)
    persons, image_ids = columns["id"], columns["image_id"]
    problems = [f"{n} images have the id {image}" for image, n in repeated_ids(images)]
    problems += [f"{n} annotations have the id {person}" for person, n in repeated_ids(persons)]
    lost = np.flatnonzero(~np.isin(image_ids, images))
    problems += [f"annotation {persons[row]}: image {image_ids[row]} is not listed" for row in lost]
    refuse(path, DatasetError, problems)
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
        crowd_index=_crowd_index(content["images"], path),
    )
    listed = read_columns(content.get("categories") or [], path, DatasetError, "category", whole=("id",))["id"]
    categories = np.unique(listed if len(listed) else columns["category_id"]).tolist()
    return {category: whole.of_persons(columns["category_id"] == category) for category in categories}


def _crowd_index(images: Entries, path: Path) -> Floats | None:
    """Return CrowdPose's ``crowdIndex`` in the order of the ids, (I,), NaN for images without; None where all are."""
    given = {image["id"]: image["crowdIndex"] for image in images if image.get("crowdIndex") is not None}
    wrong = [number for number, value in given.items() if type(value) not in (int, float)]
    refuse(path, DatasetError, [f"image {number} has a crowdIndex that is no number" for number in wrong])
    ids = sorted(image["id"] for image in images)
    return np.array([given.get(number, np.nan) for number in ids], dtype=np.float64) if given else None


def _areas(entries: Entries, boxes: Floats, path: Path) -> Floats:
    """Return the annotated areas (G,); those of the boxes, scaled, where an annotation has none."""
    without = sum("area" not in entry for entry in entries)
    if not without:
        return read_columns(entries, path, DatasetError, "annotation", lengths={"area": 1})["area"][:, 0]
    warnings.warn(
        f"'{path}': {without} annotations have no area; {AREA_OF_BOX} of the box is taken for all, as for CrowdPose.",
        stacklevel=5,
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
            stacklevel=5,
        )
    return ignored


def _read_results(rows: Entries, count: int, path: Path, truths: Mapping[int, GroundTruth]) -> CocoPredictions:
    with_boxes = bool(rows) and isinstance(rows[0], dict) and bool(rows[0].get("bbox"))
    lengths = {"keypoints": 3 * count, "score": 1, **({"bbox": 4} if with_boxes else {})}
    columns = read_columns(rows, path, MetricError, "result", ("image_id", "category_id"), lengths)
    images = next(iter(truths.values())).image_ids if truths else np.zeros(0, dtype=np.int64)
    problems = []
    for what, known in (("image", images), ("category", np.array(list(truths), dtype=np.int64))):
        ids = columns[f"{what}_id"]
        unknown = np.flatnonzero(~np.isin(ids, known))
        if len(unknown) and len(unknown) == len(ids):
            problems.append(
                f"no {what}_id of the results is in the annotations: here {np.unique(ids)[:3].tolist()} and so on, "
                f"there {known[:3].tolist()}; are they of another split or file?"
            )
        else:
            problems += [f"result {row}: {what} {ids[row]} is not in the annotations" for row in unknown]
    refuse(path, MetricError, problems)
    keypoints = columns["keypoints"].reshape(-1, count, 3)[..., :2]
    area = columns["bbox"][:, 2] * columns["bbox"][:, 3] if with_boxes else keypoint_extents(keypoints)
    return CocoPredictions(columns["image_id"], columns["category_id"], keypoints, columns["score"][:, 0], area)


def read_columns(
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
    refuse(path, error, problems)
    columns: Columns = {key: np.array([entry[key] for entry in entries], dtype=np.int64) for key in whole}
    for key, length in lengths.items():
        values = np.array([entry[key] for entry in entries], dtype=np.float64).reshape(-1, length)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist()
        problems += [f"{what} {entries[row].get('id', row)}: {key} is NaN or infinite" for row in bad]
        columns[key] = values
    refuse(path, error, problems)
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


def repeated_ids(ids: Integers) -> list[tuple[int, int]]:
    """Return the ids that occur more than once, and how often."""
    values, counts = np.unique(ids, return_counts=True)
    return [(int(value), int(n)) for value, n in zip(values[counts > 1], counts[counts > 1], strict=True)]


def refuse(path: Path, error: type[PoseZooError], problems: Sequence[str]) -> None:
    """Raise ``error`` with all problems of a file, if it has any."""
    if problems:
        raise error(complain(f"'{path}'", problems, "Mend the file, or leave these out."))
