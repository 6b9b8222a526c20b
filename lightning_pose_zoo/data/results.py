"""COCO results: predictions as the JSON that COCO's evaluation and most other tools read.

A file of keypoints is a list with one entry per person: ``image_id``, ``category_id``, ``keypoints`` as x, y, score for
each of the K keypoints in pixels of the original image, and ``score``. Where they are known, ``person_id`` and
``track_id`` stand beside these. Boxes are left out: with them COCO's evaluation takes a prediction's area from the box,
and AP by size would differ from that of the usual files.

A file of detections has ``image_id``, ``category_id``, ``bbox`` as x, y, width, height, and ``score`` for each box.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_pose_zoo.errors import DatasetError, complain
from lightning_pose_zoo.files import write_atomically
from lightning_pose_zoo.geometry import xywh_to_xyxy, xyxy_to_xywh
from lightning_pose_zoo.structures import PoseBatch, Poses

__all__ = ["picture_rows", "read_coco_results", "write_coco_detections", "write_coco_results"]


Floats = npt.NDArray[np.float32]


def write_coco_results(path: Path, poses: Poses, category_id: int = 1) -> None:
    """Write poses as COCO results, the whole file or nothing.

    A keypoint that is not finite was not found: it becomes 0, 0 with the score 0, as COCO writes it. A person's own
    score that is not finite becomes 0 too, with a warning.

    Args:
        path: The file; one person per line.
        poses: P persons, pixels of the original image; written in their order.
        category_id: COCO's category of every person.
    """
    poses = poses.cpu()
    found = torch.isfinite(poses.keypoints).all(dim=-1) & torch.isfinite(poses.keypoint_scores)
    triples = torch.cat([poses.keypoints, poses.keypoint_scores[..., None]], dim=-1)
    triples[~found] = 0.0
    sound = torch.isfinite(poses.scores)
    if not sound.all():
        warnings.warn(
            f"'{path}': {int((~sound).sum())} of {len(poses)} persons have a score that is not finite.",
            stacklevel=2,
        )
    scores = poses.scores.nan_to_num(0, 0, 0)
    names = {"person_id": poses.person_ids, "track_id": poses.track_ids}
    ids = {name: values.tolist() for name, values in names.items() if values is not None}
    lines = []
    for person, image_id in enumerate(poses.image_ids.tolist()):
        entry = {
            "image_id": image_id,
            "category_id": category_id,
            "keypoints": _numbers(triples[person].flatten()),
            "score": _numbers(scores[person : person + 1])[0],
            **{name: values[person] for name, values in ids.items()},
        }
        lines.append(json.dumps(entry, allow_nan=False))
    write_atomically(path, f"[{','.join(chr(10) + line for line in lines)}\n]\n".encode())


def write_coco_detections(
    path: Path, image_ids: Sequence[int], found: Sequence[tuple[Floats, Floats]], category_id: int = 1
) -> None:
    """Write a detector's boxes as COCO detections, the whole file or nothing.

    Args:
        path: The file; one box per line, in the order that is given.
        image_ids: Of the pictures.
        found: For each picture its boxes (n, 4), x0, y0, x1, y1 in pixels, and scores (n,), all finite.
        category_id: COCO's category of every box.
    """
    lines = []
    for image_id, (boxes, scores) in zip(image_ids, found, strict=True):
        for box, score in zip(xyxy_to_xywh(boxes), scores, strict=True):
            values = _numbers(torch.from_numpy(np.append(box, score).astype(np.float32)))
            entry = {"image_id": image_id, "category_id": category_id, "bbox": values[:4], "score": values[4]}
            lines.append(json.dumps(entry, allow_nan=False))
    write_atomically(path, f"[{','.join(chr(10) + line for line in lines)}\n]\n".encode())


def _numbers(values: Tensor) -> list[float]:
    """Return float32 values as the shortest decimals that read back as the same float32."""
    return [float(text) for text in values.numpy().astype(np.float32).astype(str)]


def read_coco_results(path: Path) -> Poses:
    """Read COCO results.

    Args:
        path: A JSON file as ``write_coco_results`` and other projects write it. A missing ``bbox`` is drawn around the
            keypoints; ids are read where every entry has them.

    Returns:
        The persons in the order of the file; a file without any has K = 0.

    Raises:
        DatasetError: Where the file is missing or no JSON list of results, or its entries are malformed or differ in
            their number of keypoints.
    """
    entries = _load(path)
    problems = [f"entry {number}: {problem}" for number, entry in enumerate(entries) for problem in _problems(entry)]
    lengths = {len(entry["keypoints"]) for entry in entries} if not problems else set()
    if len(lengths) > 1:
        counts = ", ".join(str(length // 3) for length in sorted(lengths))
        problems.append(f"its persons differ in their number of keypoints: {counts}")
    if problems:
        remedy = "COCO keypoint results are a list of {image_id, category_id, keypoints: [x, y, score, ...], score}."
        raise DatasetError(complain(f"results '{path}'", problems, remedy))
    if not entries:
        return Poses.empty(0)
    triples = np.array([entry["keypoints"] for entry in entries], dtype=np.float32).reshape(len(entries), -1, 3)
    around = np.concatenate([triples[..., :2].min(axis=1), np.ptp(triples[..., :2], axis=1)], axis=1)
    boxes = np.array([entry.get("bbox") or box for entry, box in zip(entries, around, strict=True)], dtype=np.float32)
    return Poses(
        keypoints=torch.from_numpy(triples[..., :2].copy()),
        keypoint_scores=torch.from_numpy(triples[..., 2].copy()),
        scores=torch.tensor([entry["score"] for entry in entries], dtype=torch.float32),
        boxes=xywh_to_xyxy(torch.from_numpy(boxes)),
        image_ids=torch.tensor([entry["image_id"] for entry in entries], dtype=torch.int64),
        person_ids=_ids(entries, "person_id"),
        track_ids=_ids(entries, "track_id"),
    )


def _load(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DatasetError(f"results file '{path}' does not exist.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"results file '{path}' cannot be read: {error}") from error
    if not isinstance(content, list):
        found = (
            f"a mapping with {', '.join(map(str, list(content)[:5]))}"
            if isinstance(content, dict)
            else repr(content)[:40]
        )
        raise DatasetError(f"'{path}' holds no list of results but {found}; is it a file of annotations?")
    return content


def _problems(entry: Any) -> list[str]:
    if not isinstance(entry, dict):
        return [f"is no mapping but {str(entry)[:40]!r}"]
    problems = [f"'{name}' is missing" for name in ("image_id", "keypoints", "score") if name not in entry]
    if problems:
        return problems
    keypoints, box = entry["keypoints"], entry.get("bbox") or [0, 0, 0, 0]
    if not _is_numbers(keypoints) or not keypoints or len(keypoints) % 3:
        length = len(keypoints) if isinstance(keypoints, list) else 0
        problems.append(
            f"'keypoints' (image {entry['image_id']}) is no list of finite x, y, score triples; its length is {length}"
        )
    if not _is_numbers(box) or len(box) != 4:
        problems.append(f"'bbox' (image {entry['image_id']}) is not x, y, width, height")
    if not _is_numbers([entry["score"]]):
        problems.append(f"'score' (image {entry['image_id']}) is no finite number")
    for name in ("image_id", "person_id", "track_id"):
        value = entry.get(name, 0)
        if not isinstance(value, int) or abs(value) >= 2**63:
            problems.append(f"'{name}' is {str(value)[:40]}, no whole number")
    return problems


def _is_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, (int, float)) and abs(value) < 1e30 for value in values)


def _ids(entries: list[Any], name: str) -> Tensor | None:
    if not all(name in entry for entry in entries):
        return None
    return torch.tensor([entry[name] for entry in entries], dtype=torch.int64)


def picture_rows(batch: PoseBatch, poses: Poses) -> Tensor:
    """Say for each predicted person which row of ``batch["image"]`` it was found in.

    Args:
        batch: With ``image_id`` wherever a picture may hold several persons.
        poses: P persons that were predicted for this batch.

    Returns:
        (P,) int64; the person's own crop for top-down methods, the first row with its ``image_id`` for others.

    Raises:
        DatasetError: Where the batch lacks ``image_id`` or the poses speak of pictures that are not in it.
    """
    rows, ids = len(batch["image"]), poses.image_ids
    if "image_id" not in batch:
        if len(poses) != rows:
            what = f"{len(poses)} persons were predicted in {rows} pictures"
            raise DatasetError(f"{what}, but the batch has no 'image_id' to tell whose they are.")
        return torch.arange(rows, device=ids.device)
    given = batch["image_id"].to(ids.device)
    if torch.equal(ids, given):
        return torch.arange(rows, device=ids.device)
    same = ids[:, None] == given[None]
    if not same.any(dim=1).all():
        strangers = sorted(set(ids[~same.any(dim=1)].tolist()))[:5]
        raise DatasetError(f"persons were predicted in pictures {strangers}, which are not in the batch.")
    return same.int().argmax(dim=1)
