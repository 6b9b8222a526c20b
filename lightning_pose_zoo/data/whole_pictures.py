"""Samples for methods that find people by themselves: whole pictures with all of their people.

A data set says only what is in its pictures (``load``); cutting, varying and batching are here. As for crops, one
matrix holds all that moves pixels, and keypoints, boxes and the mask of what no loss may count go through the same one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
import torch

from lightning_pose_zoo import geometry
from lightning_pose_zoo.data.augmentation import Augmentation, PictureAugmentation
from lightning_pose_zoo.data.crops import CropSettings, PoseDataset, warped_box
from lightning_pose_zoo.data.images import read_image
from lightning_pose_zoo.data.regions import fill_boxes
from lightning_pose_zoo.data.sampling import SampleKey, sample_rng
from lightning_pose_zoo.data.table import AnnotationTable
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.skeletons import Skeleton
from lightning_pose_zoo.structures import PoseBatch

__all__ = ["PictureDataset", "TablePictures", "WholePicture"]

_TYPES = {"visibility": np.uint8, "mask": np.bool_, "image_id": np.int64, "person_id": np.int64,
          "image_index": np.int64, "content": np.int64}  # fmt: skip


@dataclass
class WholePicture:
    """One picture with its n labelled people, before it is warped; pixels of the original picture.

    Attributes:
        image: (H, W, 3) uint8, RGB; or the file, of which as much is decoded as is needed.
        size: H and W.
        keypoints: (n, K, 2) float32.
        visibility: (n, K) uint8.
        boxes: (n, 4) float32, x0, y0, x1, y1.
        areas: (n,) float32, square pixels.
        head_sizes: (n,) float32, pixels; NaN where unknown.
        person_ids: (n,) int64, the data set's ids.
        image_id: The data set's id of the picture.
        ignore: (H, W) bool, where people may be that nobody labelled; None for nowhere.
        masks: (n, H, W) bool, what each person covers; all False where unknown. None where nobody asked.
    """

    image: npt.NDArray[np.uint8] | Path
    size: tuple[int, int]
    keypoints: npt.NDArray[np.float32]
    visibility: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    areas: npt.NDArray[np.float32]
    head_sizes: npt.NDArray[np.float32]
    person_ids: npt.NDArray[np.int64]
    image_id: int
    ignore: npt.NDArray[np.bool_] | None = None
    masks: npt.NDArray[np.bool_] | None = None


class PictureDataset(PoseDataset):
    """A data set of pictures with all of their people; its batches have ``image_index``.

    Without an augmentation a picture is scaled to fit into the size that all have, with its aspect kept, and filled up
    with zeros at the right and the bottom. With one it is cut at random: keypoints that fall outside become unlabelled,
    people who have none left are dropped, boxes are clipped.

    Args:
        skeleton: What the keypoints are.
        settings: Size and convention; the padding is for persons' boxes and does not count here.
        augmentation: How pictures are varied; None for evaluation.
        seed: Of the augmentation; sample ``index`` of epoch ``epoch`` depends on (seed, epoch, index) only.

    Raises:
        DatasetError: Where the augmentation is one for persons' crops.
    """

    def __init__(
        self, skeleton: Skeleton, settings: CropSettings, augmentation: Augmentation | None = None, seed: int = 0
    ) -> None:
        super().__init__(skeleton, settings, seed)
        if augmentation is not None and not isinstance(augmentation, PictureAugmentation):
            raise DatasetError(
                f"augmentation is a {type(augmentation).__name__}, but whole pictures are varied by "
                "PictureAugmentation; take that, or samples: persons."
            )
        self.augmentation = augmentation

    @abstractmethod
    def load(self, key: SampleKey) -> WholePicture:
        """Return one picture with its people."""

    def __getitems__(self, keys: Sequence[SampleKey | int]) -> PoseBatch:
        """Return one batch; the DataLoader calls this with all its samples at once.

        Every picture is warped straight into its place in the batch, (B, 3, H, W) uint8 in channels-last order.
        """
        height, width = self.settings.size
        images = np.empty((len(keys), height, width, 3), dtype=np.uint8)
        ignore = np.zeros((len(keys), height, width), dtype=np.bool_)
        columns: dict[str, list[npt.NDArray[np.generic]]] = {}
        for slot, key in enumerate(keys):
            sample = key if isinstance(key, SampleKey) else SampleKey(0, key)
            people = self._cut(self.load(sample), sample, images[slot], ignore[slot])
            people["image_index"] = np.full(len(people["person_id"]), slot)
            for name, value in people.items():
                columns.setdefault(name, []).append(value)
        batch = {"image": torch.from_numpy(images).permute(0, 3, 1, 2), "ignore": torch.from_numpy(ignore)}
        for name, values in columns.items():
            batch[name] = torch.from_numpy(np.concatenate(values).astype(_TYPES.get(name, np.float32), copy=False))
        return cast("PoseBatch", batch)

    def _cut(
        self, picture: WholePicture, key: SampleKey, slot: npt.NDArray[np.uint8], ignore: npt.NDArray[np.bool_]
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Warp one picture into ``slot`` (H, W, 3) and its mask into ``ignore`` (H, W); return the people in it."""
        height, width = self.settings.size
        rng = sample_rng(self.seed, key) if self.augmentation else None
        matrix, flip = self._matrix(picture, rng)
        self._warp(picture.image, matrix, slot)
        if self.augmentation and rng is not None:
            slot[:] = self.augmentation.recolor(slot, rng)
        if picture.ignore is not None and picture.ignore.any():
            ignore[:] = _warped_mask(picture.ignore, matrix, (height, width))
        keypoints, visibility = self._cropped_keypoints(picture.keypoints, picture.visibility, matrix, flip)
        boxes = np.array([warped_box(box, matrix) for box in picture.boxes]).reshape(-1, 4)
        if self.augmentation is not None:
            inside = (keypoints >= -0.5).all(axis=-1) & (keypoints < np.array([width, height]) - 0.5).all(axis=-1)
            visibility = np.where(inside, visibility, 0)
            keypoints = np.where((visibility > 0)[..., None], keypoints, 0)
            boxes = geometry.clip_boxes(boxes, width, height)
        people: dict[str, npt.NDArray[np.generic]] = {
            "keypoints": keypoints,
            "visibility": visibility,
            "box": boxes,
            "area": picture.areas,
            "head_size": picture.head_sizes,
            "person_id": picture.person_ids,
        }
        if picture.masks is not None:
            masks = [_warped_mask(mask, matrix, (height, width)) for mask in picture.masks]
            people["mask"] = np.array(masks, dtype=np.bool_).reshape(-1, height, width)
        if self.augmentation is None:
            people |= {"original_keypoints": picture.keypoints, "original_box": picture.boxes}
        else:
            there = (visibility > 0).any(axis=1)
            people = {name: value[there] for name, value in people.items()}
        edges = np.array([0, 0, picture.size[1], picture.size[0]], dtype=np.float32) - 0.5  # by the middles of pixels
        whole = warped_box(edges, matrix) + 0.5
        return people | {
            "image_id": np.array([picture.image_id]),
            "to_original": geometry.invert_affine(matrix)[None],
            # What is a rounding error beyond a pixel begins no other.
            "content": np.ceil(whole[None, [3, 2]] - 1e-3).clip(1, (height, width)),
        }

    def _matrix(self, picture: WholePicture, rng: np.random.Generator | None) -> tuple[npt.NDArray[np.float64], bool]:
        """Return the matrix (2, 3) from the picture to the cut, and whether it mirrors."""
        size = self.settings.size
        angle, flip = 0.0, False
        if self.augmentation is not None and rng is not None:
            center, window, angle, flip = self.augmentation.vary(
                picture.size, size, picture.boxes, picture.areas, picture.visibility, rng
            )
        else:
            zoom = min(size[0] / picture.size[0], size[1] / picture.size[1])
            window = np.array([size[1], size[0]]) / zoom
            center = window / 2
        return geometry.crop_affine(center, window, size, angle, flip, self.settings.convention), flip


def _warped_mask(
    mask: npt.NDArray[np.bool_], matrix: npt.NDArray[np.float64], size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Warp a mask of a picture into a cut of some height and width."""
    warped = cv2.warpAffine(mask.astype(np.uint8), matrix, size[::-1], flags=cv2.INTER_NEAREST)
    return np.asarray(warped > 0)


class TablePictures(PictureDataset):
    """The pictures of an annotation table.

    People are who has a label and is no crowd. Ignored are the regions of those who have no label, and crowds without
    what labelled people cover in them, as OpenPose was trained (Cao et al., CVPR 2017); a region is the outline, or
    where there is none, the box.

    Args:
        table: Annotations of all persons, crowds and persons without labels among them.
        settings: Size and convention.
        augmentation: How pictures are varied; None for evaluation.
        seed: Of the augmentation.
        every_picture: Take the pictures too in which nobody is labelled. Evaluation does, because whoever is found in
            them is found wrongly.
        masks: Hand over what each person covers by the outlines; nothing where somebody has none.
    """

    def __init__(
        self,
        table: AnnotationTable,
        settings: CropSettings,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        every_picture: bool = True,
        masks: bool = False,
    ) -> None:
        super().__init__(table.skeleton, settings, augmentation, seed)
        self.table = table
        self.masks = masks
        self.labelled = table.labelled()
        self.pictures = np.arange(len(table.file_names))
        if not every_picture:
            self.pictures = np.unique(table.image_rows[self.labelled])
        self._rows_by_image = np.argsort(table.image_rows, kind="stable")
        self._sorted_images = table.image_rows[self._rows_by_image]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.pictures)

    def load(self, key: SampleKey) -> WholePicture:
        """Return one picture, as a file where its size is annotated, and its people."""
        table, image_row = self.table, int(self.pictures[key.index])
        first, last = np.searchsorted(self._sorted_images, (image_row, image_row + 1))
        persons = self._rows_by_image[first:last]
        people = persons[self.labelled[persons]]
        image: npt.NDArray[np.uint8] | Path = table.path(image_row)
        width, height = table.image_sizes[image_row].tolist()
        if not (width and height):
            image = read_image(table.path(image_row))
            height, width = image.shape[:2]
        return WholePicture(
            image=image,
            size=(height, width),
            keypoints=table.keypoints[people],
            visibility=table.visibility[people],
            boxes=table.boxes[people],
            areas=table.areas[people],
            head_sizes=table.head_sizes[people],
            person_ids=table.person_ids[people],
            image_id=int(table.image_ids[image_row]),
            ignore=self._ignored(persons, (height, width)),
            masks=self._masks(people, (height, width)) if self.masks else None,
        )

    def _masks(self, rows: npt.NDArray[np.int64], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Return what some persons cover, (n, H, W), each for itself."""
        masks = np.zeros((len(rows), *size), dtype=np.bool_)
        for row, mask in zip(rows, masks, strict=True):
            if self.table.regions is not None:
                self.table.regions.fill(row[None], mask)
        return masks

    def _ignored(self, persons: npt.NDArray[np.int64], size: tuple[int, int]) -> npt.NDArray[np.bool_] | None:
        """Return where the persons (rows) of a picture are that no loss may count, (H, W); None for nowhere."""
        labelled, crowd = self.labelled[persons], self.table.is_crowd[persons]
        if labelled.all():
            return None
        ignored = self._covered(persons[~labelled & ~crowd], size)
        if crowd.any():
            ignored |= self._covered(persons[crowd], size) & ~self._covered(persons[labelled], size)
        return ignored

    def _covered(self, rows: npt.NDArray[np.int64], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Return what some persons cover, (H, W): by their outlines, and by the boxes of those who have none."""
        mask = np.zeros(size, dtype=np.bool_)
        regions = self.table.regions
        if regions is not None:
            regions.fill(rows, mask)
            rows = rows[~regions.known(rows)]
        fill_boxes(self.table.boxes[rows], mask)
        return mask
