"""Leeds Sports Pose, original and extended.

Datasets: Johnson and Everingham, "Clustered Pose and Nonlinear Appearance Models for Human Pose Estimation", BMVC 2010;
"Learning Effective Human Pose Estimation from Inaccurate Annotation", CVPR 2011 (extended).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.data.augmentation import Augmentation, CropAugmentation, PictureAugmentation
from lightning_pose_zoo.data.base import PoseDataModule, Samples, Split
from lightning_pose_zoo.data.checks import Findings, check_pictures, number_list, pixel_problem, read_json
from lightning_pose_zoo.data.coco_files import AREA_OF_BOX
from lightning_pose_zoo.data.crops import PoseDataset
from lightning_pose_zoo.data.matlab import read_matlab
from lightning_pose_zoo.data.table import AnnotationTable
from lightning_pose_zoo.detection.detectors import DetectorLike
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.geometry import CropConvention, box_area, boxes_from_keypoints
from lightning_pose_zoo.metrics import PCK, PCP, PDJ, GivenPersons, PoseMetric
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton

__all__ = ["LSP", "read_lsp"]

_MARGIN = 0.1
_ORIGINAL_TRAIN = 1000
_FIRST_EXTENDED_ID = 100_000


class LSP(PoseDataModule):
    """Leeds Sports Pose: one person per picture, scored by PCK, PDJ and strict PCP.

    Expected are ``joints.mat`` and ``images/`` in the folder; which of the two data sets it holds is seen from the
    annotations. The original's first 1000 pictures are for training and the last 1000 for validation and test, as
    published. The extended one has no test set: the last ``val_fraction`` of its pictures are taken. In whole pictures
    the pose counts that overlaps the annotated person's box most (``metrics.GivenPersons``).

    Args:
        root: Folder of the original, or of the extended data set alone.
        extended: Folder of the extended data set, added to the original's training pictures.
        val_fraction: Share of the extended data set that is kept for validation where root holds it.
        image_size: Height and width of a crop, or of a whole picture (best multiples of 32), in pixels.
        batch_size: Samples per batch and process.
        num_workers: Worker processes per loader.
        padding: Factor on a person's box (the keypoints', grown by a tenth on each side) before it is cut out.
        crop_convention: How box and crop relate: center, msra or udp.
        augmentation: How training crops are varied; "default" is scale 0.25, rotation 30 degrees and mirrored 0.5, for
            whole pictures OpenPose's; null is none.
        predict_images: A picture or a folder to predict on; without it predict takes the test set.
        predict_boxes: A COCO file with the boxes in predict_images; without it each picture is one person's.
        predict_detector: Finds the persons in predict_images: a detector of torchvision by its name, or one of your own
            by its dotted path; see detection.get_detector.
        seed: Of the order and the augmentation.
        samples: What a sample is: persons, one crop each, for top-down methods, or pictures with all of their people,
            for bottom-up ones.
    """

    def __init__(
        self,
        root: str = "data/lsp",
        extended: str | None = None,
        val_fraction: float = 0.1,
        image_size: tuple[int, int] = (256, 256),
        batch_size: int = 32,
        num_workers: int = 4,
        padding: float = 1.25,
        crop_convention: CropConvention = "center",
        augmentation: Augmentation | Literal["default"] | None = "default",
        predict_images: str | None = None,
        predict_boxes: str | None = None,
        seed: int = 0,
        samples: Samples = "persons",
        predict_detector: DetectorLike | None = None,
    ) -> None:
        if augmentation == "default":
            crops = CropAugmentation(scale=0.25, rotation=30.0)
            augmentation = PictureAugmentation() if samples == "pictures" else crops
        super().__init__(
            image_size,
            batch_size,
            num_workers,
            padding,
            crop_convention,
            augmentation,
            predict_images,
            predict_boxes,
            seed,
            samples,
            predict_detector=predict_detector,
        )
        if not 0 < val_fraction < 1:
            raise DatasetError(f"val_fraction is {val_fraction}; give the share of pictures for validation, as in 0.1.")
        self.root = Path(root)
        self.extended = None if extended is None else Path(extended)
        self.val_fraction = val_fraction

    @property
    def skeleton(self) -> Skeleton:
        """LSP's 14 keypoints."""
        return get_skeleton("lsp14")

    def dataset(self, split: Split) -> PoseDataset:
        """Build the samples of one split.

        Raises:
            DatasetError: Where annotations or pictures are missing or wrong.
        """
        table = read_lsp(self.root)
        is_original = bool((table.person_ids < _FIRST_EXTENDED_ID).all())
        if is_original:
            held_out = table.person_ids > _ORIGINAL_TRAIN
        else:
            held_out = np.arange(len(table)) >= round(len(table) * (1 - self.val_fraction))
        wanted = held_out if split != "train" else ~held_out
        # A picture's row is that of its person.
        table = table.select(wanted).without_pictures(np.flatnonzero(~wanted))
        if split != "train":
            return self.samples_of(table, split)
        if self.extended is not None:
            if not is_original:
                raise DatasetError(f"'{self.root}' holds the extended data set already; give the original as root.")
            table = _join(table, read_lsp(self.extended))
        return self.samples_of(table, split)

    def metrics(self) -> Sequence[PoseMetric]:
        """Return PCK and PDJ at 0.2 and 0.1 of the torso's diameter, and strict PCP."""
        metrics: list[PoseMetric] = [
            PCK(self.skeleton, thresholds=(0.2, 0.1), normalize_by="torso"),
            PDJ(self.skeleton, thresholds=(0.2, 0.1)),
            PCP(self.skeleton, variant="strict"),
        ]
        return metrics if self.samples == "persons" else [GivenPersons(metric) for metric in metrics]


def read_lsp(root: Path) -> AnnotationTable:
    """Read one of the two data sets into columns.

    The original's ``joints`` is (3, 14, 2000) with 1 in the third row where a joint is hidden; the extended one's is
    (14, 3, 10000) with 1 where it is labelled. Of a part of a data set the pictures that ``available.json`` names
    (``available_indices_1based``: [first, last]) are read, or else those that exist.

    Args:
        root: The folder with ``joints.mat`` and ``images``.

    Returns:
        The annotations in the order of the pictures. A person's id is the picture's: its number, from 1, and 100,000
        more in the extended data set.

    Raises:
        DatasetError: Where a file is wrong or pictures are missing; all problems at once.
    """
    joints = read_matlab(root / "joints.mat", "joints")
    if joints.ndim == 3 and joints.shape[:2] == (3, 14):
        points, first_id, digits = joints.transpose(2, 1, 0), 0, 4
        visibility = np.where(points[..., 2] == 0, 2, 1).astype(np.uint8)
    elif joints.ndim == 3 and joints.shape[:2] == (14, 3):
        points, first_id, digits = joints.transpose(2, 0, 1), _FIRST_EXTENDED_ID, 5
        visibility = np.where(points[..., 2] == 1, 2, 0).astype(np.uint8)
    else:
        raise DatasetError(
            f"'{root / 'joints.mat'}' has joints of the shape {joints.shape}; "
            "LSP's is (3, 14, n), the extended one's (14, 3, n)."
        )
    numbers = _available(root, len(points), digits)
    points, visibility = points[numbers - 1], visibility[numbers - 1]
    names = [f"im{number:0{digits}d}.jpg" for number in numbers]
    findings = Findings(root / "joints.mat")
    findings.general += check_pictures(root / "images", names).values()
    for number, where, flags in zip(numbers, points, visibility, strict=True):
        if (reason := pixel_problem(where[flags > 0][:, :2])) is not None:
            findings.add(f"picture {number}: {reason}")
    findings.settle()
    keypoints = np.where(visibility[..., None] > 0, points[..., :2], 0)
    boxes = boxes_from_keypoints(keypoints, visibility, _MARGIN).astype(np.float32)
    return AnnotationTable(
        source=root / "joints.mat",
        folder=root / "images",
        skeleton=get_skeleton("lsp14"),
        file_names=np.array(names, dtype=np.str_),
        image_ids=numbers + first_id,
        image_sizes=np.zeros((len(names), 2), dtype=np.int32),
        image_rows=np.arange(len(names)),
        person_ids=numbers + first_id,
        keypoints=keypoints.astype(np.float32),
        visibility=visibility,
        boxes=boxes,
        areas=AREA_OF_BOX * box_area(boxes),
        head_sizes=np.full(len(names), np.nan, dtype=np.float32),
        is_crowd=np.zeros(len(names), dtype=np.bool_),
    )


def _available(root: Path, count: int, digits: int) -> npt.NDArray[np.int64]:
    """Return the numbers, from 1, of the pictures that are there."""
    numbers = np.arange(1, count + 1)
    if (root / "available.json").exists():
        content = read_json(root / "available.json")
        limits = number_list(content.get("available_indices_1based") if isinstance(content, dict) else None, 2)
        if limits is None or not 1 <= limits[0] <= limits[1] <= count:
            raise DatasetError(
                f"'{root / 'available.json'}' needs available_indices_1based: [first, last] within 1..{count}."
            )
        return np.arange(int(limits[0]), int(limits[1]) + 1)
    existing = np.array([(root / "images" / f"im{number:0{digits}d}.jpg").exists() for number in numbers])
    if not existing.any():
        raise DatasetError(
            f"'{root / 'images'}' has none of the pictures im{1:0{digits}d}.jpg ... im{count:0{digits}d}.jpg."
        )
    if not existing.all():
        warnings.warn(f"{root}: {int((~existing).sum())} of {count} pictures are missing and left out.", stacklevel=2)
    present: npt.NDArray[np.int64] = numbers[existing]
    return present


def _join(first: AnnotationTable, second: AnnotationTable) -> AnnotationTable:
    """Append the persons and pictures of another folder."""
    folder = Path(os.path.commonpath([first.folder.resolve(), second.folder.resolve()]))
    names = [
        str(table.folder.resolve().relative_to(folder) / name) for table in (first, second) for name in table.file_names
    ]
    columns = (
        "image_ids",
        "image_sizes",
        "person_ids",
        "keypoints",
        "visibility",
        "boxes",
        "areas",
        "head_sizes",
        "is_crowd",
    )
    joined: dict[str, Any] = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in columns}
    rows = np.concatenate([first.image_rows, second.image_rows + len(first.file_names)])
    return replace(first, folder=folder, file_names=np.array(names, dtype=np.str_), image_rows=rows, **joined)
