"""Reading COCO's JSON files: keypoint annotations and detections, as columns.

The format: cocodataset.org/#format-data. All that is wrong with a file is told at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.data.checks import (
    Findings,
    OnBad,
    check_pictures,
    is_number,
    number_list,
    pixel_problem,
    read_json,
    safe_name,
)
from lightning_pose_zoo.data.regions import Regions, outline_problem
from lightning_pose_zoo.data.table import AnnotationTable
from lightning_pose_zoo.detection.boxes import box_problem
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.geometry import box_area, xywh_to_xyxy
from lightning_pose_zoo.skeletons import Skeleton

__all__ = ["AREA_OF_BOX", "choose_category", "read_boxes", "read_coco", "read_content", "read_images"]

AREA_OF_BOX = 0.53
"""Share of its box that a person is taken to fill where no area is annotated, as CrowdPose's evaluation has it."""


@dataclass
class _Rows:
    """The usable annotations of one file, still as lists."""

    ids: list[int]
    image_rows: list[int]
    keypoints: list[npt.NDArray[np.float64]]
    boxes: list[list[float]]
    areas: list[float]
    crowd: list[bool]
    outlines: list[Any]


def read_coco(
    annotations: Path,
    images: Path | None,
    skeleton: Skeleton,
    category: str | None = None,
    on_bad: OnBad = "refuse",
    outlines: Literal["ignored", "all"] | None = None,
    every_picture: bool = False,
) -> AnnotationTable:
    """Read a COCO keypoint file into columns.

    Where no area is annotated, 0.53 of the box is taken. Annotations of other
    categories are left out; pictures without persons stay, because average precision counts them.

    Args:
        annotations: The JSON file.
        images: Folder of the pictures; None where annotations are read alone, and no picture is looked for.
        skeleton: What the keypoints are.
        category: Name of the category; None takes the only one that has keypoints.
        on_bad: Whether unusable annotations are refused or skipped.
        outlines: Whose ``segmentation`` to read: ``ignored``, of those persons and crowds whose region may have to be
            ignored, ``all`` or None.
        every_picture: Look also for the pictures that nobody is in; those that cannot be used are refused, or left out.

    Returns:
        The annotations.

    Raises:
        DatasetError: Where the file is wrong or pictures are missing; all problems at once.
    """
    content = read_content(annotations)
    chosen = choose_category(annotations, content, category)
    _check_names(annotations, chosen, skeleton)
    findings = Findings(annotations)
    image_rows, file_names, sizes = read_images(content["images"], findings)
    known = {entry["id"] for entry in content["categories"] if isinstance(entry, dict) and type(entry.get("id")) is int}
    rows = _read_annotations(content["annotations"], findings, image_rows, known, chosen["id"], skeleton.num_keypoints)
    if outlines:
        _check_outlines(rows, findings, sizes, everybody=outlines == "all")
    unusable: list[int] = []
    if not findings.general and images is not None:
        unusable = _drop_missing(rows, findings, images, file_names, sizes, every_picture)
    findings.settle(on_bad)
    if not rows.ids:
        raise DatasetError(f"'{annotations}' has no usable annotation of the category '{chosen['name']}'.")
    ids = np.array(list(image_rows), dtype=np.int64)
    table = _table(rows, annotations, images or Path(), skeleton, file_names, ids, sizes)
    if outlines:
        table = replace(table, regions=Regions.encode(rows.outlines, sizes[table.image_rows]))
    return table.without_pictures(unusable) if every_picture else table


def read_content(path: Path) -> dict[str, Any]:
    """Read an annotation file as far as its lists of images, annotations and categories.

    Raises:
        DatasetError: Where it is missing, no JSON, or lacks one of them.
    """
    content = read_json(path)
    lacking = [key for key in ("images", "annotations", "categories")
               if not isinstance(content, dict) or not isinstance(content.get(key), list)]  # fmt: skip
    if lacking:
        raise DatasetError(f"'{path}' is no COCO annotation file: it lacks the lists {', '.join(lacking)}.")
    return dict(content)


def choose_category(path: Path, content: dict[str, Any], name: str | None) -> dict[str, Any]:
    """Choose a category by name, or the only one that has keypoints.

    Raises:
        DatasetError: Where there is none, or more than one.
    """
    entries = [entry for entry in content["categories"] if isinstance(entry, dict) and type(entry.get("id")) is int]
    if name is None:
        found = [entry for entry in entries if entry.get("keypoints")]
        wanted = "exactly one category with keypoints"
    else:
        found = [entry for entry in entries if entry.get("name") == name]
        wanted = f"exactly one category '{name}'"
    if len(found) != 1:
        names = ", ".join(repr(entry.get("name")) for entry in entries) or "none"
        raise DatasetError(f"'{path}' needs {wanted}, but its categories are: {names}. Choose one by category: <name>.")
    return {"name": "?", **found[0]}


def _check_names(path: Path, category: dict[str, Any], skeleton: Skeleton) -> None:
    """Refuse a skeleton that orders the category's keypoints differently."""
    names = category.get("keypoints") or list(skeleton.names)
    if not isinstance(names, list):
        raise DatasetError(
            f"'{path}': the keypoints of the category '{category['name']}' are no list of names: {names!r}"
        )
    same_names = sorted(map(str, names)) == sorted(skeleton.names)
    if len(names) != skeleton.num_keypoints or (same_names and tuple(names) != skeleton.names):
        raise DatasetError(
            f"'{path}': the category '{category['name']}' has the {len(names)} keypoints {', '.join(map(str, names))}, "
            f"but the skeleton '{skeleton.name}' the {skeleton.num_keypoints} {', '.join(skeleton.names)}. "
            "Give the skeleton that fits, or null to take the category's."
        )


def read_images(entries: list[Any], findings: Findings) -> tuple[dict[int, int], list[str], npt.NDArray[np.int32]]:
    """Return the row of each picture by its id, their names, and their sizes (I, 2).

    Args:
        entries: The list ``images`` of a COCO file.
        findings: Where what is wrong with them is noted.
    """
    rows: dict[int, int] = {}
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    for position, entry in enumerate(entries):
        given = entry if isinstance(entry, dict) else {}
        identity, name = given.get("id"), given.get("file_name")
        if type(identity) is not int or abs(identity) >= 2**63:
            findings.add(f"entry {position} of 'images' has no integer id")
        elif identity in rows:
            findings.add(f"picture {identity}: the id is given twice")
        elif not isinstance(name, str) or (safe := safe_name(name)) is None:
            findings.add(f"picture {identity}: the file_name {name!r} is missing or points out of the folder")
        else:
            rows[identity] = len(rows)
            names.append(safe)
            width, height = given.get("width", 0), given.get("height", 0)
            known = type(width) is int and type(height) is int and 0 < width < 2**31 and 0 < height < 2**31
            sizes.append((width, height) if known else (0, 0))
    return rows, names, np.array(sizes, dtype=np.int32).reshape(-1, 2)


def _read_annotations(
    entries: list[Any],
    findings: Findings,
    image_rows: dict[int, int],
    categories: set[int],
    category: int,
    num_keypoints: int,
) -> _Rows:
    """Sort the annotations of one category into usable ones and findings."""
    rows = _Rows([], [], [], [], [], [], [])
    seen: set[int] = set()
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or type(entry.get("id")) is not int or abs(entry["id"]) >= 2**63:
            findings.reject(f"#{position}", f"entry {position} of 'annotations'", "it has no integer id")
            continue
        identity = entry["id"]
        if identity in seen:
            findings.add(f"annotation {identity}: the id is given twice")
            continue
        seen.add(identity)
        if type(entry.get("category_id")) is not int or entry["category_id"] not in categories:
            findings.reject(identity, f"annotation {identity}", f"unknown category: {entry.get('category_id')!r}")
        elif entry["category_id"] != category:
            continue
        elif type(entry.get("image_id")) is not int or entry["image_id"] not in image_rows:
            findings.reject(identity, f"annotation {identity}", f"unknown picture: {entry.get('image_id')!r}")
        else:
            reason = _read_person(entry, rows, image_rows[entry["image_id"]], num_keypoints)
            if reason is not None:
                findings.reject(identity, f"annotation {identity}", reason)
    return rows


def _read_person(entry: dict[str, Any], rows: _Rows, image_row: int, num_keypoints: int) -> str | None:
    """Append one annotation to the columns, or say why it cannot be used."""
    crowd = entry.get("iscrowd", 0)
    flat = entry.get("keypoints", [0] * (3 * num_keypoints) if crowd else None)
    keypoints, box = number_list(flat, 3 * num_keypoints), number_list(entry.get("bbox"), 4)
    if crowd not in (0, 1):
        return f"iscrowd is neither 0 nor 1: {crowd!r}"
    if keypoints is None:
        found = f"{len(flat)} values" if isinstance(flat, list) else repr(flat)
        return f"keypoints are no list of {3 * num_keypoints} numbers (x, y, v of each keypoint): {found}"
    if box is None:
        return f"bbox is no list of 4 numbers (x, y, width, height): {entry.get('bbox')!r}"
    triples = keypoints.reshape(-1, 3)
    if not np.isin(triples[:, 2], (0, 1, 2)).all():
        return "a visibility is none of 0, 1, 2"
    reason = pixel_problem(triples[triples[:, 2] > 0]) or pixel_problem(box)
    if reason is not None:
        return reason
    if box[2] < 0 or box[3] < 0:
        return f"the box has a negative side: {box.tolist()}"
    area = entry.get("area")
    if area is not None and (not is_number(area) or not 0 <= area < 1e12):
        return f"area is no positive number: {area!r}"
    rows.ids.append(entry["id"])
    rows.image_rows.append(image_row)
    rows.keypoints.append(keypoints)
    rows.boxes.append(box.tolist())
    rows.areas.append(float("nan") if area is None else float(area))
    rows.crowd.append(bool(crowd))
    rows.outlines.append(entry.get("segmentation"))
    return None


def _check_outlines(rows: _Rows, findings: Findings, sizes: npt.NDArray[np.int32], everybody: bool) -> None:
    """Keep the outlines of crowds, of whoever has no label, and of all who are beside a crowd, or everybody's.

    Malformed ones are dropped.
    """
    crowded = {row for row, crowd in zip(rows.image_rows, rows.crowd, strict=True) if crowd}
    unlabelled = [not (keypoints[2::3] > 0).any() for keypoints in rows.keypoints]
    for position, row in enumerate(rows.image_rows):
        if not everybody and row not in crowded and not unlabelled[position]:
            rows.outlines[position] = None
    reasons = [
        outline_problem(outline, sizes[row].tolist())
        for outline, row in zip(rows.outlines, rows.image_rows, strict=True)
    ]
    for identity, reason in zip(rows.ids, reasons, strict=True):
        if reason is not None:
            findings.reject(identity, f"annotation {identity}", reason)
    _keep(rows, [position for position, reason in enumerate(reasons) if reason is None])


def _keep(rows: _Rows, positions: list[int]) -> None:
    for name, values in vars(rows).items():
        setattr(rows, name, [values[position] for position in positions])


def _drop_missing(
    rows: _Rows, findings: Findings, folder: Path, names: list[str], sizes: npt.NDArray[np.int32], every_picture: bool
) -> list[int]:
    """Look for the pictures that persons are in, or for all; reject the persons of those that are missing or broken.

    Returns:
        The rows of the pictures that cannot be used.
    """
    if not folder.is_dir():
        findings.add(f"the folder of its pictures, '{folder}', does not exist")
        return []
    used = np.arange(len(names)) if every_picture else np.unique(np.array(rows.image_rows, dtype=np.int64))
    problems = check_pictures(folder, [names[row] for row in used], sizes[used])
    unusable = {int(used[position]): reason for position, reason in problems.items()}
    persons: dict[int, list[str]] = {}
    for identity, row in zip(rows.ids, rows.image_rows, strict=True):
        persons.setdefault(row, []).append(str(identity))
    for row, reason in unusable.items():
        name = f"annotation {', '.join(persons[row])}" if row in persons else f"picture {names[row]}"
        findings.reject(f"picture {row}", name, reason)
    _keep(rows, [position for position, row in enumerate(rows.image_rows) if row not in unusable])
    return list(unusable)


def _table(
    rows: _Rows,
    source: Path,
    folder: Path,
    skeleton: Skeleton,
    names: list[str],
    image_ids: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int32],
) -> AnnotationTable:
    count = len(rows.ids)
    triples = np.stack(rows.keypoints).reshape(count, -1, 3)
    visibility = triples[..., 2].astype(np.uint8)
    boxes, image_rows = xywh_to_xyxy(np.array(rows.boxes)), np.array(rows.image_rows, dtype=np.int64)
    areas = np.array(rows.areas)
    areas = np.where(np.isnan(areas), AREA_OF_BOX * box_area(boxes), areas)
    return AnnotationTable(
        source=source,
        folder=folder,
        skeleton=skeleton,
        file_names=np.array(names, dtype=np.str_),
        image_ids=image_ids,
        image_sizes=sizes,
        image_rows=image_rows,
        person_ids=np.array(rows.ids, dtype=np.int64),
        keypoints=np.where(visibility[..., None] > 0, triples[..., :2], 0).astype(np.float32),
        visibility=visibility,
        boxes=boxes.astype(np.float32),
        areas=areas.astype(np.float32),
        head_sizes=np.full(count, np.nan, dtype=np.float32),
        is_crowd=np.array(rows.crowd, dtype=np.bool_),
    )


def read_boxes(
    path: Path, table: AnnotationTable, category: int = 1
) -> tuple[AnnotationTable, npt.NDArray[np.float32]]:
    """Read a detector's boxes of the pictures of a table.

    Args:
        path: JSON list of {image_id, category_id, bbox, score}.
        table: Which pictures there are.
        category: Detections of other categories are left out. So are boxes without area and boxes outside of their
            picture, with a warning that counts them.

    Returns:
        A table whose persons are the detections, without keypoints, numbered as in the file; and the scores (n,).

    Raises:
        DatasetError: Where the file is no list of detections or speaks of unknown pictures.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise DatasetError(f"'{path}' holds no list of detections ([{{image_id, category_id, bbox, score}}, ...]).")
    findings = Findings(path, "Take the detections of the same pictures as the annotations.")
    row_of = {int(identity): row for row, identity in enumerate(table.image_ids)}
    numbers: list[int] = []
    image_rows: list[int] = []
    values: list[list[float]] = []
    for position, entry in enumerate(content):
        given = entry if isinstance(entry, dict) else {}
        if given.get("category_id", category) != category:
            continue
        identity, box = given.get("image_id"), number_list(given.get("bbox"), 4)
        score: Any = given.get("score")
        if box is None or pixel_problem(box) or (box[2:] < 0).any() or not is_number(score) or not abs(score) < np.inf:
            findings.add(f"detection {position}: it has no bbox of 4 numbers or no score: {str(entry)[:100]}")
        elif type(identity) is not int or identity not in row_of:
            findings.add(f"detection {position}: unknown picture {identity!r}")
        elif (problem := box_problem(xywh_to_xyxy(box), *table.image_sizes[row_of[identity]].tolist())) is not None:
            findings.reject(position, f"detection {position} of picture {identity}", problem)
        else:
            numbers.append(position)
            image_rows.append(row_of[identity])
            values.append([*box.tolist(), float(score)])
    findings.settle("skip")
    columns = np.array(values, dtype=np.float64).reshape(-1, 5)
    boxes, count, keypoints = xywh_to_xyxy(columns[:, :4]).astype(np.float32), len(values), table.skeleton.num_keypoints
    detected = replace(
        table,
        source=path,
        image_rows=np.array(image_rows, dtype=np.int64),
        person_ids=np.array(numbers, dtype=np.int64),
        keypoints=np.zeros((count, keypoints, 2), dtype=np.float32),
        visibility=np.zeros((count, keypoints), dtype=np.uint8),
        boxes=boxes,
        areas=box_area(boxes),
        head_sizes=np.full(count, np.nan, dtype=np.float32),
        is_crowd=np.zeros(count, dtype=np.bool_),
    )
    return detected, columns[:, 4].astype(np.float32)
