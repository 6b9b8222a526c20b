"""Top-down samples: one person's crop, warped once from the original picture, still uint8.

A data set says only where its persons come from (``load``); cutting, varying and batching are here, for all of them.
Normalisation and targets are left to the device, where they cost next to nothing. ``PoseDataset`` is what crops share
with whole pictures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from lightning_pose_zoo import geometry
from lightning_pose_zoo.data.augmentation import Augmentation, CropAugmentation
from lightning_pose_zoo.data.images import read_image
from lightning_pose_zoo.data.sampling import SampleKey, sample_rng
from lightning_pose_zoo.data.table import AnnotationTable
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.skeletons import Skeleton
from lightning_pose_zoo.stage_times import StageTimes, timed
from lightning_pose_zoo.structures import PoseBatch

__all__ = ["CropDataset", "CropSettings", "Person", "PoseDataset", "TableCrops", "warped_box"]


@dataclass(frozen=True)
class CropSettings:
    """How boxes, or whole pictures, become crops.

    Attributes:
        size: Height and width of the crop in pixels.
        padding: Factor on a person's box after it was brought to the crop's aspect.
        convention: How box and crop relate, see ``geometry.CropConvention``.
    """

    size: tuple[int, int]
    padding: float = 1.25
    convention: geometry.CropConvention = "center"


@dataclass
class Person:
    """One person in its picture, before it is cut out; pixels of the original picture.

    Attributes:
        image: (H, W, 3) uint8, RGB; or the file, of which as much is decoded as the crop needs.
        keypoints: (K, 2) float32.
        visibility: (K,) uint8.
        box: (4,) float32, x0, y0, x1, y1.
        area: Square pixels.
        head_size: Pixels, NaN where unknown.
        image_id: The data set's id of the picture.
        person_id: The data set's id of the person.
        box_score: The detector's confidence in the box; NaN where the box is the truth.
        others_keypoints: (M, K, 2) float32, of the other persons in the picture; None where it is not known who is.
        others_visibility: (M, K) uint8.
    """

    image: npt.NDArray[np.uint8] | Path
    keypoints: npt.NDArray[np.float32]
    visibility: npt.NDArray[np.uint8]
    box: npt.NDArray[np.float32]
    area: float
    head_size: float
    image_id: int
    person_id: int
    box_score: float = float("nan")
    others_keypoints: npt.NDArray[np.float32] | None = None
    others_visibility: npt.NDArray[np.uint8] | None = None


class PoseDataset(Dataset[PoseBatch], ABC):
    """A data set that makes whole batches: of persons' crops, or of pictures with all their people.

    Args:
        skeleton: What the keypoints are.
        settings: How boxes or pictures become crops.
        seed: Of the augmentation; sample ``index`` of epoch ``epoch`` depends on (seed, epoch, index) only.
    """

    def __init__(self, skeleton: Skeleton, settings: CropSettings, seed: int = 0) -> None:
        self.skeleton = skeleton
        self.settings = settings
        self.seed = seed

    random_order = False
    """Whether the order of the samples is a random one already, so that training need not shuffle them."""
    times: StageTimes | None = None
    """Where the seconds for reading and for cutting are added up; None where nobody asks."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def __getitems__(self, keys: Sequence[SampleKey | int]) -> PoseBatch:
        """Return one batch; the DataLoader calls this with all its samples at once."""

    def __getitem__(self, key: SampleKey | int) -> PoseBatch:
        """Return the batch that holds one sample alone."""
        return self.__getitems__([key])

    def nobody(self) -> PoseBatch:
        """Return a batch of no samples, with all that a batch holds."""
        columns = cast("dict[str, torch.Tensor]", self[0])
        return cast("PoseBatch", {name: value[:0] for name, value in columns.items()})

    def _warp(
        self, image: npt.NDArray[np.uint8] | Path, matrix: npt.NDArray[np.float64], slot: npt.NDArray[np.uint8]
    ) -> None:
        """Warp a picture into ``slot`` (H, W, 3), decoding as much of a file as that looks at."""
        height, width = self.settings.size
        if isinstance(image, Path):
            with timed(self.times, "read"):
                image = read_image(image, rows=_rows_needed(matrix, self.settings.size))
        with timed(self.times, "crop"):
            cv2.warpAffine(image, matrix, (width, height), dst=slot, flags=cv2.INTER_LINEAR)

    def _cropped_keypoints(
        self,
        keypoints: npt.NDArray[np.float32],
        visibility: npt.NDArray[np.uint8],
        matrix: npt.NDArray[np.float64],
        flip: bool,
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
        """Map (..., K, 2) keypoints into a crop; those without a label are 0, mirrored ones change sides."""
        if not visibility.any():  # as in every box of a detector
            return np.zeros(keypoints.shape), visibility
        mapped = geometry.apply_affine(keypoints.reshape(-1, 2).astype(np.float64), matrix).reshape(keypoints.shape)
        if flip:
            permutation = self.skeleton.flip_permutation
            mapped, visibility = mapped[..., permutation, :], visibility[..., permutation]
        return np.where((visibility > 0)[..., None], mapped, 0), visibility


@dataclass(frozen=True)
class _Cut:
    """Where a person is cut out: (2, 3) from the picture to the crop, whether it mirrors, and the sample's numbers."""

    matrix: npt.NDArray[np.float64]
    flip: bool
    rng: np.random.Generator | None


@dataclass(frozen=True)
class _Decoded:
    """A picture's pixels, and how many rows of it may be asked for."""

    path: Path
    rows: int
    image: npt.NDArray[np.uint8]


class CropDataset(PoseDataset):
    """A data set of persons, each cut out of its picture.

    Args:
        skeleton: What the keypoints are.
        settings: How boxes become crops.
        augmentation: How crops are varied; None for evaluation.
        seed: Of the augmentation; sample ``index`` of epoch ``epoch`` depends on (seed, epoch, index) only.

    Raises:
        DatasetError: Where the augmentation is one for whole pictures.
    """

    def __init__(
        self, skeleton: Skeleton, settings: CropSettings, augmentation: Augmentation | None = None, seed: int = 0
    ) -> None:
        super().__init__(skeleton, settings, seed)
        if augmentation is not None and not isinstance(augmentation, CropAugmentation):
            raise DatasetError(
                f"augmentation is a {type(augmentation).__name__}, but persons' crops are varied by CropAugmentation; "
                "take that, or samples: pictures."
            )
        self.augmentation = augmentation
        self._decoded: _Decoded | None = None

    @abstractmethod
    def load(self, key: SampleKey) -> Person:
        """Return one person in its picture."""

    def __getitems__(self, keys: Sequence[SampleKey | int]) -> PoseBatch:
        """Return one batch; the DataLoader calls this with all its samples at once.

        Every crop is warped straight into its place in the batch, (B, 3, H, W) uint8 in channels-last order. A picture
        with several of the batch's persons is decoded once, as far down as the lowest of them reaches.
        """
        height, width = self.settings.size
        images = np.empty((len(keys), height, width, 3), dtype=np.uint8)
        samples = [key if isinstance(key, SampleKey) else SampleKey(0, key) for key in keys]
        persons = [self.load(sample) for sample in samples]
        cuts = [self._cut(person, sample) for person, sample in zip(persons, samples, strict=True)]
        self._warp_all(persons, cuts, images)
        columns: dict[str, list[npt.NDArray[np.generic] | float | int]] = {}
        for slot, (person, cut) in enumerate(zip(persons, cuts, strict=True)):
            if self.augmentation and cut.rng is not None:
                images[slot] = self.augmentation.recolor(images[slot], cut.rng)
            for name, value in self._sample(person, cut).items():
                columns.setdefault(name, []).append(value)
        _pad_others(columns)
        batch: dict[str, torch.Tensor] = {"image": torch.from_numpy(images).permute(0, 3, 1, 2)}
        for name, values in columns.items():
            dtype = np.uint8 if name.endswith("visibility") else np.int64 if name.endswith("_id") else np.float32
            batch[name] = torch.from_numpy(np.asarray(values, dtype=dtype))
        if torch.isnan(batch["box_score"]).all():
            del batch["box_score"]
        return cast("PoseBatch", batch)

    def _warp_all(self, persons: Sequence[Person], cuts: Sequence[_Cut], images: npt.NDArray[np.uint8]) -> None:
        """Warp all persons of a batch into their places in it, (B, H, W, 3), picture by picture."""
        slots: dict[Path, list[int]] = {}
        for slot, (person, cut) in enumerate(zip(persons, cuts, strict=True)):
            if isinstance(person.image, Path):
                slots.setdefault(person.image, []).append(slot)
            else:
                self._warp(person.image, cut.matrix, images[slot])
        for path, together in slots.items():
            rows = max(_rows_needed(cuts[slot].matrix, self.settings.size) for slot in together)
            pixels = self._pixels(path, rows)
            for slot in together:
                self._warp(pixels, cuts[slot].matrix, images[slot])

    def _cut(self, person: Person, key: SampleKey) -> _Cut:
        """Decide where one person is cut out, before any pixel is looked at."""
        height, width = self.settings.size
        rng = sample_rng(self.seed, key) if self.augmentation else None
        box = person.box.astype(np.float64)
        if self.augmentation and rng is not None and self.augmentation.proposals is not None:
            of_person = person.keypoints, person.visibility, self.skeleton
            box = self.augmentation.proposals.propose(box, *of_person, key.epoch, rng)
        center, size = geometry.box_center_size(box)
        size = geometry.fit_aspect(size, width / height, self.settings.padding)
        angle, flip = 0.0, False
        if self.augmentation and rng is not None:
            center, size, angle, flip = self.augmentation.vary(
                center, size, person.keypoints, person.visibility, self.skeleton, rng
            )
        matrix = geometry.crop_affine(center, size, self.settings.size, angle, flip, self.settings.convention)
        return _Cut(matrix, flip, rng)

    def _pixels(self, path: Path, rows: int) -> npt.NDArray[np.uint8]:
        """Return so many rows of a picture, or more, from the one that was decoded last where that will do.

        A picture with many people comes again in the next batch.
        """
        last = self._decoded
        if last is None or last.path != path or last.rows < rows:
            with timed(self.times, "read"):
                image = read_image(path, rows=rows)
            # Of a picture with fewer rows than were asked for there are no more to come.
            enough = rows if len(image) >= rows else np.iinfo(np.int64).max
            self._decoded = last = _Decoded(path, enough, image)
        return last.image

    def _sample(self, person: Person, cut: _Cut) -> dict[str, npt.NDArray[np.generic] | float | int]:
        """Return all of one person's sample but its pixels."""
        matrix, flip = cut.matrix, cut.flip
        keypoints, visibility = self._cropped_keypoints(person.keypoints, person.visibility, matrix, flip)
        sample: dict[str, npt.NDArray[np.generic] | float | int] = {
            "keypoints": keypoints,
            "visibility": visibility,
            "box": warped_box(person.box, matrix),
            "area": person.area,
            "head_size": person.head_size,
            "image_id": person.image_id,
            "person_id": person.person_id,
            "box_score": person.box_score,
            "to_original": geometry.invert_affine(matrix),
        }
        if self.augmentation is None:
            sample |= {"original_keypoints": person.keypoints, "original_box": person.box}
        if person.others_keypoints is not None and person.others_visibility is not None:
            sample["others_keypoints"], sample["others_visibility"] = self._cropped_keypoints(
                person.others_keypoints, person.others_visibility, matrix, flip
            )
        return sample


def _pad_others(columns: dict[str, list[Any]]) -> None:
    """Bring the other persons of a batch's pictures to the same number, by persons without a label."""
    for name in ("others_keypoints", "others_visibility"):
        if name in columns:
            most = max(len(value) for value in columns[name])
            columns[name] = [
                np.concatenate([value, np.zeros((most - len(value), *value.shape[1:]), value.dtype)])
                for value in columns[name]
            ]


def _rows_needed(matrix: npt.NDArray[np.float64], size: tuple[int, int]) -> int:
    """Return how many rows from the top of a picture a crop of some height and width looks at."""
    height, width = size
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], dtype=np.float64)
    lowest = geometry.apply_affine(corners, geometry.invert_affine(matrix))[:, 1].max()
    # The row of the lowest pixel, the next one for interpolation, and one more because warpAffine rounds coordinates.
    return max(int(np.floor(lowest)) + 3, 1)


def warped_box(box: npt.NDArray[np.float32], matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the upright box around a box that was mapped into the crop, (4,), pixels of the crop."""
    corners = geometry.apply_affine(box[[[0, 1], [2, 1], [2, 3], [0, 3]]].astype(np.float64), matrix)
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


class TableCrops(CropDataset):
    """The persons of an annotation table.

    Args:
        table: Annotations; all of its persons are samples, so select before.
        settings: How boxes become crops.
        augmentation: How crops are varied; None for evaluation.
        seed: Of the augmentation.
        box_scores: (n,) detector's confidence in each box, where the boxes are a detector's.
    """

    def __init__(
        self,
        table: AnnotationTable,
        settings: CropSettings,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        box_scores: npt.NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__(table.skeleton, settings, augmentation, seed)
        self.table = table
        self.box_scores = box_scores
        # Whoever has no label is nobody's neighbour; a detector's boxes all have none.
        self._labelled = bool((table.visibility > 0).any())
        self._rows_by_image = np.argsort(table.image_rows, kind="stable")
        self._sorted_images = table.image_rows[self._rows_by_image]

    def __len__(self) -> int:
        """Return the number of persons."""
        return len(self.table)

    def load(self, key: SampleKey) -> Person:
        """Return one person and the file of its picture."""
        table, row = self.table, key.index
        image_row = int(table.image_rows[row])
        first, last = np.searchsorted(self._sorted_images, (image_row, image_row + 1))
        beside = self._rows_by_image[first:last]
        beside = beside[beside != row]
        others = (table.keypoints[beside], table.visibility[beside]) if self._labelled else (None, None)
        return Person(
            image=table.path(image_row),
            keypoints=table.keypoints[row],
            visibility=table.visibility[row],
            box=table.boxes[row],
            area=float(table.areas[row]),
            head_size=float(table.head_sizes[row]),
            image_id=int(table.image_ids[image_row]),
            person_id=int(table.person_ids[row]),
            box_score=float("nan") if self.box_scores is None else float(self.box_scores[row]),
            others_keypoints=others[0],
            others_visibility=others[1],
        )
