"""The annotated persons of a data set, as columns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.errors import MetricError, complain

__all__ = ["AREA_OF_BOX", "Booleans", "Floats", "GroundTruth", "Integers"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

AREA_OF_BOX = 0.53
"""A person's area as a part of the box, where no area is annotated: what CrowdPose's evaluation takes."""


@dataclass(frozen=True)
class GroundTruth:
    """The annotated persons of a whole data set as columns: I images, G persons, K keypoints.

    Attributes:
        image_ids: (I,) int64, each once; images without a person belong here as well.
        image_rows: (G,) int64, the image (row of ``image_ids``) of each person.
        person_ids: (G,) int64.
        keypoints: (G, K, 2), pixels of the image.
        visibility: (G, K); above 0 where labelled.
        boxes: (G, 4) x0, y0, x1, y1; twice the box is the region that an ignored person covers.
        areas: (G,) square pixels.
        is_crowd: (G,) bool; crowds are ignored, and match any number of predictions.
        is_ignored: (G,) bool, who else is ignored, that is, counts neither as missed nor, for the prediction that
            matches, as wrong. None: whoever has no label, as in COCO. (CrowdPose also ignores who is hidden entirely.)
        sampled_image_ids: Images that a full run visits; for crops of detected boxes, for example, the images with a
            detection. None: those with somebody who counts.
        crowd_index: (I,) how crowded each image is, as annotated in CrowdPose; NaN or None where nobody says.

    Raises:
        MetricError: Where columns differ in length, ids repeat, or something is NaN or infinite.
    """

    image_ids: npt.NDArray[Any]
    image_rows: npt.NDArray[Any]
    person_ids: npt.NDArray[Any]
    keypoints: npt.NDArray[Any]
    visibility: npt.NDArray[Any]
    boxes: npt.NDArray[Any]
    areas: npt.NDArray[Any]
    is_crowd: npt.NDArray[Any]
    is_ignored: npt.NDArray[Any] | None = None
    sampled_image_ids: npt.NDArray[Any] | None = None
    crowd_index: npt.NDArray[Any] | None = None

    def __post_init__(self) -> None:
        """Check the columns."""
        images, persons = len(self.image_ids), len(self.person_ids)
        keypoints = self.keypoints.shape[1] if self.keypoints.ndim == 3 else -1
        shapes = {
            "image_rows": (persons,), "keypoints": (persons, keypoints, 2), "visibility": (persons, keypoints),
            "boxes": (persons, 4), "areas": (persons,), "is_crowd": (persons,), "is_ignored": (persons,),
            "crowd_index": (images,),
        }  # fmt: skip
        columns = {name: getattr(self, name) for name in shapes}
        problems = [
            f"{name} has the shape {column.shape} instead of {shapes[name]}"
            for name, column in columns.items()
            if column is not None and column.shape != shapes[name]
        ]
        if problems:
            raise MetricError(complain("ground truth", problems, "Give columns of equal length."))
        if len(np.unique(self.image_ids)) < images:
            raise MetricError("ground truth: image_ids repeat; give every image once.")
        if persons and (self.image_rows.min() < 0 or self.image_rows.max() >= images):
            raise MetricError(f"ground truth: image_rows are not all in 0 to {images - 1}.")
        finite = np.isfinite(self.keypoints).all(axis=2) | ~self.labelled
        bad = ~(finite.all(axis=1) & np.isfinite(self.areas) & np.isfinite(self.boxes).all(axis=1))
        if bad.any():
            lines = [f"person {person}: keypoints, box or area are NaN or infinite" for person in self.person_ids[bad]]
            raise MetricError(complain("ground truth", lines, "Mend the annotations."))

    @property
    def labelled(self) -> Booleans:
        """(G, K), which keypoints have a label."""
        return np.asarray(self.visibility > 0)

    @property
    def ignored(self) -> Booleans:
        """(G,), who counts for nothing: crowds, and whoever is ignored."""
        others = ~np.any(self.labelled, axis=1) if self.is_ignored is None else self.is_ignored.astype(bool)
        return np.asarray(self.is_crowd.astype(bool) | others)

    def scored_images(self) -> Integers:
        """Return the ids of the images with somebody who counts."""
        return np.asarray(self.image_ids[np.unique(self.image_rows[~self.ignored])])

    def of_persons(self, persons: npt.NDArray[Any]) -> GroundTruth:
        """Return some of the persons (a mask or rows), and all images."""
        columns = ("image_rows", "person_ids", "keypoints", "visibility", "boxes", "areas", "is_crowd")
        is_ignored = None if self.is_ignored is None else self.is_ignored[persons]
        return replace(self, is_ignored=is_ignored, **{name: getattr(self, name)[persons] for name in columns})

    def of_images(self, image_ids: Integers) -> GroundTruth:
        """Return some of the images and the persons in them."""
        kept = np.isin(self.image_ids, image_ids)
        part = self.of_persons(kept[self.image_rows])
        row = np.cumsum(kept) - 1
        crowd_index = None if self.crowd_index is None else self.crowd_index[kept]
        return replace(part, image_ids=self.image_ids[kept], image_rows=row[part.image_rows], crowd_index=crowd_index)
