"""Annotations as columns.

A list of dicts costs every worker hundreds of megabytes as soon as Python counts its references; arrays cost nothing,
because workers share their pages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.skeletons import Skeleton

__all__ = ["AnnotationTable"]


@dataclass(frozen=True)
class AnnotationTable:
    """All annotated persons of one split: I pictures, n persons, K keypoints.

    Attributes:
        source: The file that the annotations came from, for messages.
        folder: Where the pictures are.
        skeleton: What the keypoints are.
        file_names: (I,) str, relative to ``folder``.
        image_ids: (I,) int64, the data set's ids, each once.
        image_sizes: (I, 2) int32, width and height as annotated; 0 where the file does not say.
        image_rows: (n,) int64, the picture (row of ``file_names``) of each person.
        person_ids: (n,) int64, the data set's ids, each once.
        keypoints: (n, K, 2) float32, pixels of the picture; 0 where not labelled.
        visibility: (n, K) uint8; 0 not labelled, 1 labelled but hidden, 2 visible.
        boxes: (n, 4) float32, x0, y0, x1, y1, pixels of the picture.
        areas: (n,) float32, square pixels.
        head_sizes: (n,) float32, pixels; NaN where unknown.
        is_crowd: (n,) bool, regions of many people that count neither as right nor as wrong.
    """

    source: Path
    folder: Path
    skeleton: Skeleton
    file_names: npt.NDArray[np.str_]
    image_ids: npt.NDArray[np.int64]
    image_sizes: npt.NDArray[np.int32]
    image_rows: npt.NDArray[np.int64]
    person_ids: npt.NDArray[np.int64]
    keypoints: npt.NDArray[np.float32]
    visibility: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    areas: npt.NDArray[np.float32]
    head_sizes: npt.NDArray[np.float32]
    is_crowd: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Check that the columns are equally long.

        Raises:
            ValueError: Where they are not.
        """
        images, persons, keypoints = len(self.file_names), len(self.person_ids), self.skeleton.num_keypoints
        shapes = {
            "image_ids": (images,), "image_sizes": (images, 2), "image_rows": (persons,),
            "keypoints": (persons, keypoints, 2), "visibility": (persons, keypoints), "boxes": (persons, 4),
            "areas": (persons,), "head_sizes": (persons,), "is_crowd": (persons,),
        }  # fmt: skip
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"column {name} has the shape {getattr(self, name).shape} instead of {shape}")

    def __len__(self) -> int:
        """Return the number of persons."""
        return len(self.person_ids)

    def select(self, persons: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> AnnotationTable:
        """Keep some persons (a mask or rows), and all pictures."""
        columns = ("image_rows", "person_ids", "keypoints", "visibility", "boxes", "areas", "head_sizes", "is_crowd")
        return replace(self, **{name: getattr(self, name)[persons] for name in columns})

    def path(self, image_row: int) -> Path:
        """Return the path of a picture by its row."""
        return self.folder / str(self.file_names[image_row])

    def trainable(self) -> npt.NDArray[np.bool_]:
        """Tell which persons a top-down method can learn from and be scored on, (n,) bool.

        As in the HRNet repository: no crowds, some area, at least one labelled keypoint.
        """
        size = self.boxes[:, 2:] - self.boxes[:, :2]
        return ~self.is_crowd & (size > 0).all(axis=1) & (self.areas > 0) & (self.visibility > 0).any(axis=1)
