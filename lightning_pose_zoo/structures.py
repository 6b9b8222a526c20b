"""What flows between the parts: ``PoseBatch`` goes into a method, ``Poses`` comes out.

Coordinates, everywhere in this package: x to the right, y down, floats, in pixels, and the centre of the top left
pixel is (0, 0). A box is (x0, y0, x1, y1) with its edges where COCO's are: x1 = x + width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict

import torch
from torch import Tensor

__all__ = ["PoseBatch", "Poses", "person_images"]


class PoseBatch(TypedDict, total=False):
    """One batch: a plain dict of tensors, so that any Dataset can produce it.

    B pictures, N persons, K keypoints. Top-down batches hold one person's crop per picture, so N = B and
    ``image_index`` is absent. To predict, ``image`` is enough; to train, ``keypoints`` and ``visibility`` beside it.
    """

    image: Tensor
    """(B, 3, H, W), RGB; uint8, or float where it is normalised already."""
    keypoints: Tensor
    """(N, K, 2) float32, pixels of ``image``."""
    visibility: Tensor
    """(N, K) uint8; 0 not labelled, 1 labelled but hidden, 2 visible."""
    others_keypoints: Tensor
    """(N, M, K, 2) float32, pixels of ``image``: the other persons of each person's picture, M the most that any has;
    only in top-down batches."""
    others_visibility: Tensor
    """(N, M, K) uint8, 0 also where there is no such person."""
    box: Tensor
    """(N, 4) float32, x0, y0, x1, y1 in pixels of ``image``."""
    area: Tensor
    """(N,) float32, the person's area in square pixels of the original image; OKS divides by it."""
    head_size: Tensor
    """(N,) float32, pixels of the original image; PCKh divides by it."""
    image_index: Tensor
    """(N,) int64, the row of ``image`` that a person is in; absent where person n is in picture n."""
    image_id: Tensor
    """(B,) int64, the data set's id of each picture."""
    person_id: Tensor
    """(N,) int64, the data set's id of each person; results are de-duplicated by it."""
    box_score: Tensor
    """(N,) float32, the detector's score of the box that a crop was cut by; absent where the box is the truth."""
    to_original: Tensor
    """(B, 2, 3) float32, affine map from pixels of ``image`` to pixels of the original image."""
    original_keypoints: Tensor
    """(N, K, 2) float32, pixels of the original image as annotated; only in evaluation batches."""
    original_box: Tensor
    """(N, 4) float32, pixels of the original image; only in evaluation batches."""
    ignore: Tensor
    """(B, H, W) bool, True in regions (crowds) that no loss may count."""
    content: Tensor
    """(B, 2) int64, height and width of the upper left part of each ``image`` that holds the picture; the rest was
    filled up. Absent where all of it is picture."""
    mask: Tensor
    """(N, H, W) bool, the pixels of ``image`` that a person covers, as far as it is seen; all False where that is
    unknown. Absent where nobody asked."""


def person_images(batch: PoseBatch) -> Tensor:
    """Return for each person the row of ``batch["image"]`` that it is in, (N,) int64."""
    if "image_index" in batch:
        return batch["image_index"]
    return torch.arange(batch["image"].shape[0], device=batch["image"].device)


@dataclass
class Poses:
    """What every method predicts: P persons with K keypoints, in pixels of the original image.

    Attributes:
        keypoints: (P, K, 2) float32, pixels of the original image.
        keypoint_scores: (P, K) float32, confidence of each keypoint.
        scores: (P,) float32, confidence of each person; what average precision sorts by.
        boxes: (P, 4) float32, x0, y0, x1, y1 in pixels of the original image.
        image_ids: (P,) int64, the picture that a person is in.
        person_ids: (P,) int64 where each crop came from an annotation, else None.
        track_ids: (P,) int64 after tracking, else None.
    """

    keypoints: Tensor
    keypoint_scores: Tensor
    scores: Tensor
    boxes: Tensor
    image_ids: Tensor
    person_ids: Tensor | None = None
    track_ids: Tensor | None = None

    def __post_init__(self) -> None:
        """Check that all parts speak of the same persons.

        Raises:
            ValueError: Where two parts differ in their number of persons or of keypoints.
        """
        persons, keypoints = self.keypoints.shape[:2]
        expected = {
            "keypoints": (persons, keypoints, 2),
            "keypoint_scores": (persons, keypoints),
            "scores": (persons,),
            "boxes": (persons, 4),
            "image_ids": (persons,),
            "person_ids": (persons,),
            "track_ids": (persons,),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"Poses.{name} has the shape {tuple(value.shape)}, but {shape} is needed.")

    def __len__(self) -> int:
        """Return the number of persons."""
        return self.keypoints.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Poses:
        """Select persons by a slice, a boolean mask (P,) or indices (n,)."""
        return self._each(lambda value: value[index])

    def parts(self) -> dict[str, Tensor | None]:
        """Return the tensors by name, without copying them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _each(self, change: Callable[[Tensor], Tensor]) -> Poses:
        changed: dict[str, Any] = {
            name: None if value is None else change(value) for name, value in self.parts().items()
        }
        return Poses(**changed)

    def to(self, device: torch.device | str) -> Poses:
        """Return the same poses on another device."""
        return self._each(lambda value: value.to(device))

    def cpu(self) -> Poses:
        """Return the same poses in main memory."""
        return self.to("cpu")

    @staticmethod
    def empty(keypoints: int) -> Poses:
        """Return nobody, with K = ``keypoints``."""
        return Poses(
            keypoints=torch.zeros(0, keypoints, 2),
            keypoint_scores=torch.zeros(0, keypoints),
            scores=torch.zeros(0),
            boxes=torch.zeros(0, 4),
            image_ids=torch.zeros(0, dtype=torch.int64),
        )

    @staticmethod
    def cat(several: Sequence[Poses]) -> Poses:
        """Join several sets of poses into one.

        A part that any of them lacks (``person_ids``, ``track_ids``) is absent from the result.

        Raises:
            ValueError: Where the sequence is empty.
        """
        if not several:
            raise ValueError("Poses.cat needs at least one Poses; use Poses.empty(K) for nobody.")
        joined: dict[str, Any] = {}
        for name in several[0].parts():
            values = [value for poses in several if (value := poses.parts()[name]) is not None]
            joined[name] = torch.cat(values) if len(values) == len(several) else None
        return Poses(**joined)
