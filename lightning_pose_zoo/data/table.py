"""Annotations as columns.

A list of dicts costs every worker hundreds of megabytes as soon as Python counts its references; arrays cost nothing,
because workers share their pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.data.regions import Regions
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
        regions: The outlines of persons, where ``is_crowd`` and those without a label are ignored in whole pictures;
            None where nobody asked, and then boxes stand for outlines.
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
    regions: Regions | None = None

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
        if self.regions is not None and len(self.regions) != persons:
            raise ValueError(f"column regions has {len(self.regions)} rows instead of {persons}")

    def __len__(self) -> int:
        """Return the number of persons."""
        return len(self.person_ids)

    def select(self, persons: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> AnnotationTable:
        """Keep some persons (a mask or rows), and all pictures."""
        columns = ("image_rows", "person_ids", "keypoints", "visibility", "boxes", "areas", "head_sizes", "is_crowd")
        regions = None if self.regions is None else self.regions.select(persons)
        return replace(self, regions=regions, **{name: getattr(self, name)[persons] for name in columns})

    def without_pictures(self, image_rows: Sequence[int] | npt.NDArray[np.int64]) -> AnnotationTable:
        """Leave out some pictures (rows), in which nobody may be."""
        kept = np.ones(len(self.file_names), dtype=bool)
        kept[list(image_rows)] = False
        columns = {name: getattr(self, name)[kept] for name in ("file_names", "image_ids", "image_sizes")}
        return replace(self, image_rows=(np.cumsum(kept) - 1)[self.image_rows], **columns)

    def path(self, image_row: int) -> Path:
        """Return the path of a picture by its row."""
        return self.folder / str(self.file_names[image_row])

    def labelled(self) -> npt.NDArray[np.bool_]:
        """Tell which persons have a labelled keypoint and are no crowd, (n,) bool: who a picture's people are."""
        return np.asarray(~self.is_crowd & (self.visibility > 0).any(axis=1))

    def trainable(self) -> npt.NDArray[np.bool_]:
        """Tell which persons a top-down method can learn from and be scored on, (n,) bool.

        As in the HRNet repository: no crowds, some area, at least one labelled keypoint.
        """
        size = self.boxes[:, 2:] - self.boxes[:, :2]
        return self.labelled() & (size > 0).all(axis=1) & (self.areas > 0)
