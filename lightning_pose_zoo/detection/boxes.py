"""Checking and choosing boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lightning_pose_zoo.errors import DatasetError, SettingsError
from lightning_pose_zoo.geometry import FAR_AWAY

__all__ = ["Found", "LeftOut", "box_problem", "check_selection", "found_boxes", "select_boxes", "usable"]

Floats = npt.NDArray[np.floating]
Found = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Boxes (n, 4), x0, y0, x1, y1 in pixels, and scores (n,), of one picture."""


def box_problem(box: Floats, width: float, height: float) -> str | None:
    """Say why nobody can be cut out by a box, None where somebody can.

    Boxes that only partly lie in the picture are none, nor are small ones.

    Args:
        box: (4,) x0, y0, x1, y1, pixels.
        width: Of the picture; 0 where it is not known, and then no box is outside of it.
        height: Likewise.
    """
    if not np.isfinite(box).all() or (np.abs(box) > FAR_AWAY).any():
        return "a box that is not finite"
    if box[2] <= box[0] or box[3] <= box[1]:
        return "a box without area"
    right, bottom = width or np.inf, height or np.inf
    if width and height and (box[2] <= 0 or box[3] <= 0 or box[0] >= right or box[1] >= bottom):
        return "a box outside of its picture"
    return None


@dataclass
class LeftOut:
    """Counts the boxes of a detector that nobody can be cut out by.

    Attributes:
        counts: How many there are, by what is wrong with them.
        first: The picture in which each of these came first.
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, problem: str, picture: str) -> None:
        """Count one box."""
        self.counts[problem] += 1
        self.first.setdefault(problem, picture)

    def join(self, others: Iterable[LeftOut]) -> LeftOut:
        """Return the sum of this and others."""
        joined = LeftOut(Counter(self.counts), dict(self.first))
        for other in others:
            joined.counts.update(other.counts)
            joined.first = other.first | joined.first
        return joined

    def __str__(self) -> str:
        """Say how many boxes are left out, and why."""
        kinds = [
            f"{number} x {problem} (first in '{self.first[problem]}')" for problem, number in self.counts.most_common()
        ]
        return f"{self.counts.total()} boxes are left out: {', '.join(kinds)}."


def found_boxes(answer: Any, who: str, picture: Path) -> Found:
    """Bring what a detector answered for one picture to arrays.

    Raises:
        DatasetError: Where it is not boxes (n, 4) and scores (n,).
    """
    try:
        boxes, scores = (_array(part) for part in answer)
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"{who} answered for '{picture}' with what is no pair of boxes and scores: {error}. Its detect() must "
            "return (boxes (n, 4), scores (n,)) for each picture."
        ) from error
    if boxes.size == 0 and scores.size == 0:
        boxes, scores = boxes.reshape(0, 4), scores.reshape(0)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise DatasetError(
            f"{who} answered for '{picture}' with boxes of the shape {boxes.shape} and scores of the shape "
            f"{scores.shape}; needed are (n, 4), as x0, y0, x1, y1, and (n,)."
        )
    return boxes, scores


def _array(values: Any) -> npt.NDArray[np.float32]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().float().numpy()
    return np.asarray(values, dtype=np.float32)


def usable(found: Found, size: tuple[int, int], picture: Path, left_out: LeftOut) -> Found:
    """Keep the boxes that somebody can be cut out by, and count the others.

    Args:
        found: Of one picture.
        size: Width and height of the picture; 0 where unknown.
        picture: Its file, for the message.
        left_out: Where the others are counted.
    """
    boxes, scores = found
    keep = np.ones(len(boxes), dtype=np.bool_)
    for row, (box, score) in enumerate(zip(boxes.astype(np.float64), scores.tolist(), strict=True)):
        problem = box_problem(box, *size)
        if problem is None and not np.isfinite(score):
            problem = "a score that is not finite"
        if problem is not None:
            left_out.add(problem, str(picture))
            keep[row] = False
    return boxes[keep], scores[keep]


def check_selection(min_score: float, nms: float | None, max_boxes: int | None) -> None:
    """Refuse settings of ``select_boxes`` that make no sense.

    Raises:
        SettingsError: Where one does not.
    """
    if not np.isfinite(min_score):
        raise SettingsError(f"min_score is {min_score}; give the least score, as in 0.3.")
    if nms is not None and not 0 < nms <= 1:
        raise SettingsError(f"nms is {nms}; give the largest overlap (IoU) of two persons, above 0 and up to 1.")
    if max_boxes is not None and max_boxes < 1:
        raise SettingsError(f"max_boxes is {max_boxes}; give the most persons in a picture, at least 1.")


def select_boxes(
    found: Found, min_score: float = 0.0, nms: float | None = None, max_boxes: int | None = None
) -> npt.NDArray[np.int64]:
    """Choose boxes of one picture: sure ones, each person once, the best only.

    Args:
        found: Boxes (n, 4), x0, y0, x1, y1, and scores (n,), all finite.
        min_score: Boxes of a lower score go.
        nms: Boxes that overlap with a better one by a larger IoU go; None keeps them.
        max_boxes: How many are kept at most; None for all.

    Returns:
        (m,) the rows that are kept, the best first.

    Raises:
        SettingsError: Where a setting makes no sense.
    """
    check_selection(min_score, nms, max_boxes)
    boxes, scores = found
    rows = np.argsort(-scores, kind="stable")
    rows = rows[scores[rows] >= min_score]
    if nms is not None and len(rows):
        from torchvision.ops import nms as suppress

        kept = suppress(torch.from_numpy(boxes[rows]), torch.from_numpy(scores[rows]), nms)
        rows = rows[np.sort(kept.numpy())]
    return rows[:max_boxes].astype(np.int64)
