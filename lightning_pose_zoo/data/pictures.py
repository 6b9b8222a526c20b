"""Pictures to predict on: a file or a folder, with or without boxes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.data.checks import (
    Findings,
    is_number,
    number_list,
    pixel_problem,
    read_json,
    safe_name,
)
from lightning_pose_zoo.data.crops import CropSettings, TableCrops
from lightning_pose_zoo.data.images import IMAGE_SUFFIXES, image_size
from lightning_pose_zoo.data.table import AnnotationTable
from lightning_pose_zoo.data.whole_pictures import TablePictures
from lightning_pose_zoo.detection.boxes import box_problem
from lightning_pose_zoo.detection.detectors import DetectorLike, get_detector
from lightning_pose_zoo.detection.running import detect_pictures
from lightning_pose_zoo.errors import DatasetError, ImageError
from lightning_pose_zoo.geometry import FAR_AWAY, box_area
from lightning_pose_zoo.skeletons import Skeleton
from lightning_pose_zoo.stage_times import StageTimes

__all__ = [
    "PictureBoxes",
    "detected_crops",
    "find_pictures",
    "natural_key",
    "numbers_of",
    "picture_crops",
    "read_picture_boxes",
    "whole_pictures",
]


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts names as people do: frame2 before frame10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def find_pictures(path: Path) -> tuple[Path, list[str]]:
    """Find a picture, or those in a folder and the folders below it.

    Hidden files (with a dot in front) are left out; the rest is sorted as people do.

    Returns:
        The folder, and the names relative to it with forward slashes.

    Raises:
        DatasetError: Where there is none.
    """
    if path.is_file():
        return path.parent, [path.name]
    if not path.is_dir():
        raise DatasetError(f"'{path}' does not exist; give a picture or a folder of pictures.")
    names = [
        Path(folder, file).relative_to(path).as_posix()
        for folder, _, files in os.walk(path)
        for file in files
        if Path(file).suffix.lower() in IMAGE_SUFFIXES and not file.startswith(".")
    ]
    if not names:
        raise DatasetError(
            f"there is no picture in '{path}'; files that end in {', '.join(IMAGE_SUFFIXES)} are looked for."
        )
    return path, sorted(names, key=natural_key)


def picture_crops(path: Path, boxes: str | None, skeleton: Skeleton, settings: CropSettings) -> TableCrops:
    """Make a data set of pictures without keypoints.

    Args:
        path: A picture or a folder.
        boxes: A COCO file with the persons' boxes, all of which are taken: annotations, whose pictures are matched by
            file name, or a list of detections, whose image_id is matched with the number in the file's name (785 with
            000000000785.jpg) or, if it is a string, with the name. Without it every picture is one person's. Boxes
            without area and boxes outside of their picture are left out, with a warning that counts them.
        skeleton: What will be predicted.
        settings: How boxes become crops.

    Returns:
        The crops, in the order of the pictures. Picture ids are those of the boxes' file, else 0, 1, 2, ...

    Raises:
        DatasetError: Where there is no picture, one is unreadable, or boxes speak of unknown pictures.
    """
    folder, names = find_pictures(path)
    if boxes is None:
        table, _ = _table(path, folder, names, _whole(folder, names), skeleton)
        return TableCrops(table, settings)
    table, scores = _table(Path(boxes), folder, names, read_picture_boxes(Path(boxes), folder, names), skeleton)
    return TableCrops(table, settings, box_scores=None if np.isnan(scores).all() else scores)


def detected_crops(
    path: Path,
    detector: DetectorLike,
    skeleton: Skeleton,
    settings: CropSettings,
    times: StageTimes | None = None,
    ranks: tuple[int, int] = (0, 1),
) -> TableCrops:
    """Make a data set of the persons that a detector finds in pictures.

    Args:
        path: A picture or a folder.
        detector: Who finds them, or its name.
        skeleton: What will be predicted.
        settings: How boxes become crops.
        times: Where the seconds for reading and detecting are added up.
        ranks: Which process this is, and how many share the pictures; all of them get all boxes.

    Returns:
        The crops, in the order of the pictures and of each picture's boxes. Picture ids are the numbers in the files'
        names where each has another one, else 0, 1, 2, ...

    Raises:
        DatasetError: Where there is no picture, some are unreadable, or nobody is found in any.
    """
    folder, names = find_pictures(path)
    _whole(folder, names)  # tells at once of all pictures that are none
    found = detect_pictures([folder / name for name in names], get_detector(detector), times, *ranks)
    counts = [len(scores) for _, scores in found]
    if not sum(counts):
        raise DatasetError(
            f"nobody was detected in the {len(names)} pictures of '{path}'. Lower the detector's min_score, or take "
            "each picture as one person's: leave predict_detector out."
        )
    persons = PictureBoxes(
        image_ids=numbers_of(names)[1],
        image_rows=np.repeat(np.arange(len(names)), counts).tolist(),
        person_ids=list(range(sum(counts))),
        boxes=[box for boxes, _ in found for box in boxes.astype(np.float64)],
        scores=[score for _, scores in found for score in scores.tolist()],
    )
    table, scores = _table(path, folder, names, persons, skeleton)
    return TableCrops(table, settings, box_scores=scores)


def whole_pictures(path: Path, skeleton: Skeleton, settings: CropSettings) -> TablePictures:
    """Make a data set of pictures in which people are to be found.

    Args:
        path: A picture or a folder.
        skeleton: What will be predicted.
        settings: The size that all pictures are brought to.

    Returns:
        The pictures in their order, numbered from 0, with nobody in them.

    Raises:
        DatasetError: Where there is no picture, or one is unreadable.
    """
    folder, names = find_pictures(path)
    table, _ = _table(path, folder, names, _whole(folder, names), skeleton)
    sizes = (table.boxes[:, 2:] - table.boxes[:, :2]).astype(np.int32)
    return TablePictures(replace(table.select(np.arange(0)), image_sizes=sizes), settings)


def _table(
    source: Path, folder: Path, names: list[str], found: PictureBoxes, skeleton: Skeleton
) -> tuple[AnnotationTable, npt.NDArray[np.float32]]:
    """Return the pictures with their boxes, sorted by picture, and the boxes' scores (n,), NaN where not given."""
    count, order = len(found.image_rows), np.argsort(found.image_rows, kind="stable")
    values = np.array(found.boxes, dtype=np.float64).reshape(-1, 4)[order].astype(np.float32)
    table = AnnotationTable(
        source=source,
        folder=folder,
        skeleton=skeleton,
        file_names=np.array(names, dtype=np.str_),
        image_ids=np.array(found.image_ids, dtype=np.int64),
        image_sizes=np.zeros((len(names), 2), dtype=np.int32),
        image_rows=np.array(found.image_rows, dtype=np.int64)[order],
        person_ids=np.array(found.person_ids, dtype=np.int64)[order],
        keypoints=np.zeros((count, skeleton.num_keypoints, 2), dtype=np.float32),
        visibility=np.zeros((count, skeleton.num_keypoints), dtype=np.uint8),
        boxes=values,
        areas=box_area(values),
        head_sizes=np.full(count, np.nan, dtype=np.float32),
        is_crowd=np.zeros(count, dtype=np.bool_),
    )
    return table, np.array(found.scores, dtype=np.float32)[order]


@dataclass
class PictureBoxes:
    """Where the persons of I pictures are, one entry for each of n persons.

    Attributes:
        image_ids: (I,) of the pictures.
        image_rows: (n,) the row of each person's picture.
        person_ids: (n,).
        boxes: (n, 4) x0, y0, x1, y1, pixels of the picture.
        scores: (n,) the detector's; NaN where not given.
    """

    image_ids: list[int]
    image_rows: list[int]
    person_ids: list[int]
    boxes: list[npt.NDArray[np.float64]]
    scores: list[float]


def _whole(folder: Path, names: list[str]) -> PictureBoxes:
    """Take each picture as one box.

    Raises:
        DatasetError: Where pictures cannot be read, all of them at once.
    """
    findings = Findings(folder, "Take these pictures out, or mend them.")
    boxes = []
    for name in names:
        try:
            width, height = image_size(folder / name)
        except ImageError as error:
            findings.add(str(error))
            continue
        boxes.append(np.array([0.0, 0.0, width, height]))
    findings.settle()
    rows = list(range(len(names)))
    return PictureBoxes(rows, rows, rows, boxes, [float("nan")] * len(names))


def read_picture_boxes(
    path: Path, folder: Path, names: list[str], row_of: dict[int | str, int] | None = None
) -> PictureBoxes:
    """Read the boxes of pictures from a COCO file of annotations or detections.

    Args:
        path: The file.
        folder: Where the pictures are.
        names: Their names in it.
        row_of: The row of each picture by its id, where that is known; else ids and names are matched as
            ``picture_crops`` says.

    Raises:
        DatasetError: Where entries are malformed or of unknown pictures, or no box is left.
    """
    entries, row_of, image_ids = _entries(path, names, row_of)
    findings = Findings(path, f"Its boxes must belong to the pictures in '{folder}', as x, y, width, height.")
    found = PictureBoxes(image_ids, [], [], [], [])
    unknown: dict[Any, int] = {}
    sizes: dict[int, tuple[int, int]] = {}
    for position, entry in enumerate(entries):
        given = entry if isinstance(entry, dict) else {}
        image, box = given.get("image_id"), _box(given.get("bbox"))
        score: Any = given.get("score", 0)
        if box is None or not is_number(score) or not abs(score) < FAR_AWAY:
            findings.add(f"entry {position}: it has no usable bbox or score: {str(entry)[:100]}")
        elif not isinstance(image, int | str) or image not in row_of:
            unknown[str(image)] = unknown.get(str(image), 0) + 1
        else:
            row = row_of[image]
            if row not in sizes:
                sizes[row] = _size(folder / names[row], findings)
            problem = box_problem(box, *sizes[row])
            if problem is not None:
                findings.reject(position, f"entry {position} of '{names[row]}'", problem)
                continue
            found.image_rows.append(row)
            found.person_ids.append(position)
            found.boxes.append(box)
            found.scores.append(float(score) if "score" in given else float("nan"))
    for image, number in unknown.items():
        findings.add(f"picture {image}: {number} boxes, but no such picture")
    findings.settle("skip")
    if not found.boxes:
        raise DatasetError(f"'{path}' has no box in the {len(names)} pictures of '{folder}'.")
    return found


def _entries(
    path: Path, names: list[str], row_of: dict[int | str, int] | None
) -> tuple[list[Any], dict[int | str, int], list[int]]:
    """Return what a file says of boxes, the rows of the pictures by their ids, and the pictures' ids."""
    content = read_json(path)
    whole = isinstance(content, dict)
    if whole and isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list):
        rows, image_ids = _rows_by_file(content["images"], names)
        entries = [entry for entry in content["annotations"] if not (isinstance(entry, dict) and entry.get("iscrowd"))]
    elif isinstance(content, list):
        rows, image_ids = numbers_of(names)
        entries = content
    else:
        raise DatasetError(f"'{path}' is neither a COCO annotation file nor a list of detections.")
    return entries, rows if row_of is None else row_of, image_ids


def _size(file: Path, findings: Findings) -> tuple[int, int]:
    try:
        return image_size(file)
    except ImageError as error:
        findings.add(str(error))
        return 0, 0


def _box(value: Any) -> npt.NDArray[np.float64] | None:
    """Turn x, y, width, height of a JSON file into x0, y0, x1, y1; None where they are no box."""
    box = number_list(value, 4)
    if box is None or pixel_problem(box) is not None or (box[2:] < 0).any():
        return None
    return np.concatenate([box[:2], box[:2] + box[2:]])


def _rows_by_file(images: list[Any], names: list[str]) -> tuple[dict[int | str, int], list[int]]:
    """Match the pictures of an annotation file by name, or by the last part of it where that is unique."""
    by_name: dict[str, int] = {}
    for row, name in enumerate(names):
        last = name.rpartition("/")[2]
        by_name[last] = row if last not in by_name else -1
    by_name |= {name: row for row, name in enumerate(names)}
    rows: dict[int | str, int] = {}
    for entry in images:
        if (
            not isinstance(entry, dict)
            or type(entry.get("id")) is not int
            or not isinstance(entry.get("file_name"), str)
        ):
            continue
        safe = safe_name(entry["file_name"]) or ""
        row = by_name.get(safe, by_name.get(safe.rpartition("/")[2], -1))
        if row >= 0:
            rows[entry["id"]] = row
    ids = {row: int(identity) for identity, row in rows.items()}
    free = iter(number for number in range(len(names) + len(ids) + 1) if number not in rows)
    return rows, [ids[row] if row in ids else next(free) for row in range(len(names))]


def numbers_of(names: list[str]) -> tuple[dict[int | str, int], list[int]]:
    """Number pictures by the last number in their names, or from 0 where two have the same one, or one has none.

    Returns:
        The row of each picture by its number, name and stem; and the numbers.
    """
    digits = [re.findall(r"\d+", Path(name).stem) for name in names]
    numbers = [int(found[-1]) if found and len(found[-1]) < 19 else -1 for found in digits]
    rows: dict[int | str, int] = {}
    for row, name in enumerate(names):
        rows |= {Path(name).stem: row, Path(name).name: row, name: row}
    unique = len(set(numbers)) == len(numbers) and -1 not in numbers
    ids = numbers if unique else list(range(len(names)))
    return rows | {identity: row for row, identity in enumerate(ids)}, ids
