"""The command ``pose-zoo detect``: find persons in pictures, and write a COCO file of detections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

# No import for types alone: the parser would carry it out to read them, and --help would take seconds.

__all__ = ["detect", "main"]


def main(words: Sequence[str]) -> None:
    """Parse the words after ``detect``, and detect.

    Raises:
        SystemExit: With 2 where the command line is wrong.
        PoseZooError: Where pictures, files or weights cannot be used.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="pose-zoo detect")
    parser.add_function_arguments(detect, as_positional=False, sub_configs=False)
    detect(**parser.parse_args(list(words)).as_dict())


def detect(
    images: str,
    out: str,
    annotations: str | None = None,
    detector: str = "fasterrcnn_resnet50_fpn_v2",
    boxes: str | None = None,
    weights: str | None = "default",
    category: int = 1,
    min_score: float = 0.05,
    nms: float | None = None,
    max_boxes: int = 100,
    min_size: int | None = None,
    batch_size: int = 1,
    device: str = "auto",
    cache: str | None = "~/.cache/lightning_pose_zoo/detections",
) -> None:
    """Find persons in pictures, and write a COCO file of detections.

    The file is what --data.val_boxes and --data.predict_boxes read.

    Args:
        images: A picture or a folder of pictures.
        out: The JSON file to write: image_id, category_id 1, bbox as x, y, width, height, and score of every person.
        annotations: A COCO file whose pictures, in the folder of images, are looked at and whose ids are written; by
            default ids are the numbers in the files' names, or 0, 1, 2, ... where two have the same one.
        detector: A detector of torchvision by name; whole_picture; or the dotted path of a class or function that makes
            one of your own.
        boxes: A COCO file of boxes to choose from, by the three settings below, instead of looking for persons.
        weights: Of torchvision's detector: default for those trained on COCO, which are downloaded at the first use; a
            file; or null for random ones.
        category: Which of its labels is the person.
        min_score: Boxes of a lower score are left out. Low scores help average precision; for drawings 0.3 is better.
        nms: Largest overlap (IoU) of two boxes of a picture; by default the detector's own.
        max_boxes: The best boxes of a picture that are written.
        min_size: Pixels that torchvision's detectors bring the shorter side of a picture to; less is faster.
        batch_size: How many pictures torchvision's detectors look at together.
        device: Where torchvision's detectors run; auto takes the GPU where there is one.
        cache: Folder in which torchvision's detectors keep boxes, by the pictures' content; null for none.

    Raises:
        PoseZooError: Where pictures, files or weights cannot be used.
    """
    from lightning_pose_zoo.data.pictures import find_pictures, numbers_of
    from lightning_pose_zoo.data.results import write_coco_detections
    from lightning_pose_zoo.detection.boxes import check_selection, select_boxes
    from lightning_pose_zoo.detection.running import detect_pictures

    check_selection(min_score, nms, max_boxes)
    if annotations is None:
        folder, names = find_pictures(Path(images))
        image_ids = numbers_of(names)[1]
    else:
        folder = Path(images)
        image_ids, names = _pictures_of(Path(annotations), folder)
    if boxes is None:
        settings = (weights, category, min_score, nms, max_boxes, min_size, batch_size, device, cache)
        found = detect_pictures([folder / name for name in names], _detector(detector, *settings))
    else:
        found = _given(Path(boxes), folder, names, None if annotations is None else image_ids)
    chosen = []
    for some in found:
        rows = select_boxes(some, min_score, nms, max_boxes)
        chosen.append((some[0][rows], some[1][rows]))
    write_coco_detections(Path(out), image_ids, chosen)
    counts = [len(scores) for _, scores in chosen]
    print(
        f"{sum(counts)} persons in {len(names)} pictures, {counts.count(0)} of them without any, are written to {out}."
    )


def _detector(
    name: str,
    weights: str | None,
    category: int,
    min_score: float,
    nms: float | None,
    max_boxes: int,
    min_size: int | None,
    batch_size: int,
    device: str,
    cache: str | None,
) -> Any:
    """Build a ``PersonDetector``: one of torchvision with its settings, or one that has its own."""
    from lightning_pose_zoo.detection.detectors import get_detector
    from lightning_pose_zoo.detection.torchvision_detector import TorchvisionDetector

    if "." in name or name == "whole_picture":
        return get_detector(name)
    return TorchvisionDetector(name, weights, category, min_score, nms, max_boxes, min_size, batch_size, device, cache)


def _pictures_of(annotations: Path, folder: Path) -> tuple[list[int], list[str]]:
    """Return the ids and names of the pictures of an annotation file, all of which must be there.

    Raises:
        DatasetError: Where the file is wrong or pictures are missing; all problems at once.
    """
    from lightning_pose_zoo.data.checks import Findings, check_pictures
    from lightning_pose_zoo.data.coco_files import read_content, read_images
    from lightning_pose_zoo.errors import DatasetError

    findings = Findings(annotations, f"Its pictures must lie in '{folder}'.")
    rows, names, sizes = read_images(read_content(annotations)["images"], findings)
    for problem in check_pictures(folder, names, sizes).values():
        findings.add(problem)
    findings.settle()
    if not names:
        raise DatasetError(f"'{annotations}' has no pictures.")
    return list(rows), names


def _given(boxes: Path, folder: Path, names: list[str], image_ids: list[int] | None) -> list[Any]:
    """Return the boxes and scores of a file for each picture; boxes without a score have 1."""
    import numpy as np

    from lightning_pose_zoo.data.pictures import read_picture_boxes

    rows: dict[int | str, int] | None = None
    if image_ids is not None:
        rows = {identity: row for row, identity in enumerate(image_ids)}
    given = read_picture_boxes(boxes, folder, names, rows)
    values = np.array(given.boxes, dtype=np.float32).reshape(-1, 4)
    scores = np.nan_to_num(np.array(given.scores, dtype=np.float32), nan=1.0)
    owners = np.array(given.image_rows)
    return [(values[owners == row], scores[owners == row]) for row in range(len(names))]
