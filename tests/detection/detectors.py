"""Detectors of known answers, for tests; also what a user writes and names by a dotted path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_pose_zoo.detection import PersonDetector


class Fixed(PersonDetector):
    """Answers what it was told for each size of picture, and counts the pictures that it was shown."""

    def __init__(self, answers: dict[tuple[int, int], Any], batch_size: int = 1) -> None:
        self.answers = answers
        self.batch_size = batch_size
        self.seen: list[tuple[int, int]] = []
        self.batches: list[int] = []

    def detect(self, pictures: Sequence[np.ndarray]) -> list[Any]:
        sizes = [(picture.shape[1], picture.shape[0]) for picture in pictures]
        self.seen += sizes
        self.batches.append(len(pictures))
        return [self.answers[size] for size in sizes]


class Kept(Fixed):
    """One whose answers are kept."""

    def __init__(self, answers: dict[tuple[int, int], Any], cache: str, settings: str = "a") -> None:
        super().__init__(answers)
        self.cache = cache
        self.settings = settings

    def fingerprint(self) -> str:
        return self.settings


class Bright:
    """A detector that knows nothing of this package: the box around all bright pixels, and its upper half."""

    def detect(self, pictures):
        answers = []
        for picture in pictures:
            rows, columns = np.nonzero(picture.max(axis=2) > 128)
            low, high = [columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]
            half = (low[1] + high[1]) / 2
            answers.append(([[*low, *high], [*low, high[0], half]], [0.9, 0.4]))
        return answers


class Thresholded:
    """One with an argument, as the command line passes it."""

    def __init__(self, least: float = 0.0) -> None:
        self.least = least

    def detect(self, images: list[np.ndarray]) -> list[Any]:
        every = Bright().detect(images)
        kept = [[score >= self.least for score in scores] for _, scores in every]
        return [
            (np.array(boxes)[keep], np.array(scores)[keep]) for (boxes, scores), keep in zip(every, kept, strict=True)
        ]


def demanding(something):
    """Cannot be called without arguments."""


not_a_detector = dict
