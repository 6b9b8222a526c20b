"""Frames Labeled in Cinema: the upper bodies of people in films.

Dataset: Sapp and Taskar, "MODEC: Multimodal Decomposable Models for Human Pose Estimation", CVPR 2013; FLIC-plus:
Tompson et al., "Joint Training of a Convolutional Network and a Graphical Model for Human Pose Estimation", NIPS 2014.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.data.augmentation import CropAugmentation
from lightning_pose_zoo.data.base import PoseDataModule, Split
from lightning_pose_zoo.data.checks import Findings, check_pictures, pixel_problem, safe_name
from lightning_pose_zoo.data.coco_files import AREA_OF_BOX
from lightning_pose_zoo.data.crops import CropDataset, TableCrops
from lightning_pose_zoo.data.matlab import read_matlab, read_matlab_structs
from lightning_pose_zoo.data.table import AnnotationTable
from lightning_pose_zoo.detection.detectors import DetectorLike
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.geometry import CropConvention, box_area
from lightning_pose_zoo.metrics import PCK, PDJ, PoseMetric
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton

__all__ = ["FLIC", "Sides", "read_flic"]

Sides = Literal["observer", "person"]
"""What left and right mean: ``person``, the sides of the person's own body, as the file has them; ``observer``, the
left arm is the one at the right of the picture, whether the person shows front or back."""

# lsho lelb lwri rsho relb rwri lhip rhip leye reye nose; the other columns of coords are always empty.
_COLUMNS = [0, 1, 2, 3, 4, 5, 6, 9, 12, 13, 16]
_FIELDS = ("coords", "filepath", "torsobox", "istrain", "istest")
_LEFT_SHOULDER, _RIGHT_SHOULDER = 0, 3
_CENTER_BELOW_TOP = 0.3
_THRESHOLDS = (0.2, 0.15, 0.1, 0.05)


class FLIC(PoseDataModule):
    """Frames Labeled in Cinema: eleven keypoints of upper bodies, scored by PDJ and PCK.

    Expected are ``examples.mat`` and ``images/`` in the folder, of FLIC (3,987 people for training, 1,016 for test) or
    FLIC-full. Validation takes the test set. Published are the scores of elbows and wrists: means of left and right.

    Args:
        root: Folder of FLIC or FLIC-full.
        plus: MATLAB file with the numbers, from 1, of FLIC-full's examples that FLIC-plus trains on
            (tr_plus_indices.mat); without it the examples marked istrain are taken.
        sides: What left and right mean. "person" is as annotated; "observer" exchanges the sides of people whose left
            shoulder is left of the right one in the picture, as the published scores do.
        torso_scale: Side of a person's square box in heights of the torso's box that comes with the data; the box's
            centre is 0.3 of that height below the top. 2.75, padded by 1.25, is close to the crop of Convolutional Pose
            Machines (3.46 heights).
        image_size: Height and width of a crop in pixels.
        batch_size: Persons per batch and process.
        num_workers: Worker processes per loader.
        padding: Factor on a person's box before it is cut out.
        crop_convention: How box and crop relate: center, msra or udp.
        augmentation: How training crops are varied; "default" is scale 0.25, rotation 30 degrees and mirrored 0.5, null
            is none.
        predict_images: A picture or a folder to predict on; without it predict takes the test set.
        predict_boxes: A COCO file with the boxes in predict_images; without it each picture is one person's.
        predict_detector: Finds the persons in predict_images: a detector of torchvision by its name, or one of your own
            by its dotted path; see detection.get_detector.
        seed: Of the order and the augmentation.
    """

    def __init__(
        self,
        root: str = "data/flic",
        plus: str | None = None,
        sides: Sides = "observer",
        torso_scale: float = 2.75,
        image_size: tuple[int, int] = (256, 256),
        batch_size: int = 32,
        num_workers: int = 4,
        padding: float = 1.25,
        crop_convention: CropConvention = "center",
        augmentation: CropAugmentation | Literal["default"] | None = "default",
        predict_images: str | None = None,
        predict_boxes: str | None = None,
        seed: int = 0,
        predict_detector: DetectorLike | None = None,
    ) -> None:
        if augmentation == "default":
            augmentation = CropAugmentation(scale=0.25, rotation=30.0)
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
            predict_detector=predict_detector,
        )
        if sides not in ("observer", "person"):
            raise DatasetError(f"sides is '{sides}'; FLIC knows observer and person.")
        if not 0 < torso_scale < np.inf:
            raise DatasetError(
                f"torso_scale is {torso_scale}; give the box's side in heights of the torso, as in 2.75."
            )
        self.root = Path(root)
        self.plus = None if plus is None else Path(plus)
        self.sides: Sides = sides
        self.torso_scale = torso_scale

    @property
    def skeleton(self) -> Skeleton:
        """FLIC's 11 keypoints."""
        return get_skeleton("flic")

    def dataset(self, split: Split) -> CropDataset:
        """Build the crops of one split.

        Raises:
            DatasetError: Where annotations or pictures are missing or wrong.
        """
        table, for_training = read_flic(self.root, self.plus, self.sides, self.torso_scale)
        wanted = table.trainable() & (for_training if split == "train" else ~for_training)
        if split == "train":
            return TableCrops(table.select(wanted), self.settings, self.augmentation, self.seed)
        return TableCrops(table.select(wanted), self.settings)

    def metrics(self) -> Sequence[PoseMetric]:
        """Return PDJ, by left shoulder to right hip, and PCK, by right shoulder to left hip, from 0.2 down to 0.05."""
        return [
            PDJ(self.skeleton, thresholds=_THRESHOLDS),
            PCK(self.skeleton, thresholds=_THRESHOLDS, normalize_by="torso"),
        ]


def read_flic(
    root: Path, plus: Path | None = None, sides: Sides = "observer", torso_scale: float = 2.75
) -> tuple[AnnotationTable, npt.NDArray[np.bool_]]:
    """Read the training and test sets into columns.

    ``examples`` is an array of structs. Of each are read ``coords`` (2, 29), x and y, of which 11 columns are labelled
    and NaN means not labelled; ``torsobox`` x0, y0, x1, y1, found by a detector; ``filepath``, the picture's name;
    ``istrain`` and ``istest``. Pixels count from 1 and are shifted by -1. Hidden keypoints are not told from visible
    ones. Examples of FLIC-full that are in neither set are left out unseen: they are bad or unchecked.

    Args:
        root: The folder with ``examples.mat`` and ``images``.
        plus: MATLAB file with ``tr_plus_indices``, numbers from 1 of the examples to train on; None for ``istrain``.
        sides: What left and right mean.
        torso_scale: Side of a person's box in heights of the torso's box.

    Returns:
        The annotations in the order of the file, and (n,) which persons are for training; the others are the test set.
        A person's id is the number of the example, from 1; a picture's is that of its first example.

    Raises:
        DatasetError: Where a file is wrong or pictures are missing; all problems at once.
    """
    examples = read_matlab_structs(root / "examples.mat", "examples", _FIELDS)
    findings = Findings(root / "examples.mat")
    chosen, for_training = _split(examples, plus, findings)
    people = [_read_person(number, examples[number - 1], findings) for number in chosen]
    present = _check_pictures(root, [name for name, _, _ in people], findings)
    findings.settle()
    numbers, for_training = chosen[present], for_training[present]
    names, points, torsos = (np.array(column)[present] for column in zip(*people, strict=True))
    unique, first, image_rows = np.unique(names, return_index=True, return_inverse=True)
    if sides == "observer":
        points = _observed(points)
    labelled = ~np.isnan(points).any(axis=2)
    boxes = _boxes(torsos, torso_scale).astype(np.float32)
    table = AnnotationTable(
        source=root / "examples.mat",
        folder=root / "images",
        skeleton=get_skeleton("flic"),
        file_names=unique,
        image_ids=numbers[first],
        image_sizes=np.zeros((len(unique), 2), dtype=np.int32),
        image_rows=image_rows.reshape(-1),
        person_ids=numbers,
        keypoints=np.where(labelled[..., None], points - 1, 0).astype(np.float32),
        visibility=np.where(labelled, 2, 0).astype(np.uint8),
        boxes=boxes,
        areas=AREA_OF_BOX * box_area(boxes),
        head_sizes=np.full(len(numbers), np.nan, dtype=np.float32),
        is_crowd=np.zeros(len(numbers), dtype=np.bool_),
    )
    return table, for_training


def _split(
    examples: list[dict[str, Any]], plus: Path | None, findings: Findings
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the numbers, from 1, of the examples of both sets, and which are for training."""
    train, test = (
        np.array([_flag(number, example[field], field, findings) for number, example in enumerate(examples, 1)])
        for field in ("istrain", "istest")
    )
    why = "istrain and istest"
    if plus is not None:
        indices = read_matlab(plus, "tr_plus_indices").reshape(-1)
        if not ((indices >= 1) & (indices <= len(examples)) & (indices % 1 == 0)).all():
            raise DatasetError(
                f"'{plus}' needs whole numbers from 1 to {len(examples)}, the examples of "
                f"'{findings.source}'; it belongs to FLIC-full, not to FLIC."
            )
        train = np.isin(np.arange(1, len(examples) + 1), indices)
        why = f"'{plus}' and istest"
    for row in np.flatnonzero(train & test):
        findings.add(f"example {row + 1}: in the training and the test set, by {why}")
    chosen = np.flatnonzero(train | test)
    if not len(chosen):
        findings.add("no example is marked istrain or istest")
    return chosen + 1, train[chosen]


def _flag(number: int, value: Any, field: str, findings: Findings) -> bool:
    """Read a mark; empty is no."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "buif" or value.size > 1:
        findings.add(f"example {number}: {field} is neither 0 nor 1")
        return False
    return bool((value == 1).all() and value.size)


def _read_person(
    number: int, example: dict[str, Any], findings: Findings
) -> tuple[str, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the picture's name, (11, 2) keypoints and (4,) torso box, as in the file; note what is wrong."""
    name = safe_name(example["filepath"]) if isinstance(example["filepath"], str) else None
    coords, torso = _numbers(example["coords"]), _numbers(example["torsobox"]).reshape(-1)
    points = np.full((len(_COLUMNS), 2), np.nan)
    if name is None:
        findings.add(f"example {number}: the filepath {example['filepath']!r} is missing or points out of the folder")
    if coords.ndim != 2 or coords.shape[0] != 2 or coords.shape[1] <= max(_COLUMNS):
        findings.add(f"example {number}: coords has the shape {coords.shape}, (2, 29) is needed")
    else:
        points = coords[:, _COLUMNS].T
        empty = np.isnan(points)
        if (empty[:, 0] != empty[:, 1]).any():
            findings.add(f"example {number}: a keypoint has one coordinate only")
        elif (reason := pixel_problem(points[~empty])) is not None:
            findings.add(f"example {number}: {reason}")
    if torso.shape != (4,) or pixel_problem(torso) or torso[0] >= torso[2] or torso[1] >= torso[3]:
        findings.add(f"example {number}: the torsobox {torso.tolist()} is no box x0, y0, x1, y1")
        torso = np.zeros(4)
    return name or "", points, torso


def _numbers(value: Any) -> npt.NDArray[np.float64]:
    """Return an array of numbers, an empty one where it is something else."""
    is_numeric = isinstance(value, np.ndarray) and value.dtype.kind in "buif"
    return value.astype(np.float64) if is_numeric else np.zeros(0)


def _check_pictures(root: Path, names: list[str], findings: Findings) -> npt.NDArray[np.bool_]:
    """Tell which people's pictures are there; warn of the others, and note broken ones."""
    folder = root / "images"
    try:
        listed = set(os.listdir(folder))
    except OSError as error:
        findings.add(f"the folder of its pictures, '{folder}', cannot be read: {error.strerror}")
        return np.zeros(len(names), dtype=np.bool_)
    existing = np.array([name != "" and (name in listed or (folder / name).exists()) for name in names], dtype=np.bool_)
    unique = sorted({name for name, exists in zip(names, existing, strict=True) if exists})
    if names and not unique:
        findings.add(f"'{folder}' has none of its pictures, such as '{names[0]}'")
    elif not existing.all():
        missing = int((~existing).sum())
        warnings.warn(
            f"{root}: the pictures of {missing} of {len(names)} people are missing and left out.", stacklevel=3
        )
    findings.general += check_pictures(folder, unique).values()
    return existing


def _observed(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Exchange the sides of all (n, 11, 2) people whose left shoulder is left of the right one in the picture."""
    back = points[:, _LEFT_SHOULDER, 0] < points[:, _RIGHT_SHOULDER, 0]
    return np.where(back[:, None, None], points[:, get_skeleton("flic").flip_permutation], points)


def _boxes(torsos: npt.NDArray[np.float64], scale: float) -> npt.NDArray[np.float64]:
    """Return square boxes around upper bodies, (n, 4) pixels from 0, from the boxes of their torsos, from 1.

    Source: the training code of Convolutional Pose Machines, ``genJSON.m``.
    """
    height = torsos[:, 3] - torsos[:, 1]
    center = np.stack([(torsos[:, 0] + torsos[:, 2]) / 2 - 1, torsos[:, 1] + _CENTER_BELOW_TOP * height - 1], axis=1)
    half = (scale * height / 2)[:, None]
    return np.concatenate([center - half, center + half], axis=1)
