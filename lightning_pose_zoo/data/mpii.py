"""MPII Human Pose, in the JSON layout of the HRNet repository.

Dataset: Andriluka et al., "2D Human Pose Estimation: New Benchmark and State of the Art Analysis", CVPR 2014.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.data.augmentation import Augmentation, CropAugmentation, PictureAugmentation
from lightning_pose_zoo.data.base import PoseDataModule, Samples, Split
from lightning_pose_zoo.data.checks import (
    Findings,
    check_pictures,
    is_number,
    number_list,
    pixel_problem,
    read_json,
    safe_name,
)
from lightning_pose_zoo.data.coco_files import AREA_OF_BOX
from lightning_pose_zoo.data.crops import PoseDataset
from lightning_pose_zoo.data.matlab import read_matlab
from lightning_pose_zoo.data.mpii_visibility import hidden_keypoints
from lightning_pose_zoo.data.table import AnnotationTable
from lightning_pose_zoo.detection.detectors import DetectorLike
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.geometry import CropConvention, box_area
from lightning_pose_zoo.metrics import AUC, GivenPersons, PCKh, PCKhMeanAveragePrecision, PoseMetric
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton

__all__ = ["MPII", "read_mpii"]

HEAD_OF_STICK = 0.75
"""PCKh's head size divided by the distance from upper neck to head top; the median over the validation set."""

_HEAD_OF_BOX = 0.6
_BODY_HEIGHT = 200.0
_LAYOUTS = {"train": ("annot/train.json", "annotations/mpii_train.json"),
            "val": ("annot/valid.json", "annotations/mpii_val.json")}  # fmt: skip
_RELEASE = "mpii_human_pose_v1_u12_1.mat"
_HEADS = ("annot/gt_valid.mat", "annotations/mpii_gt_val.mat")


class MPII(PoseDataModule):
    """MPII's single persons, scored by PCKh and its AUC on the validation set of 2,958.

    Expected are ``images/`` and, as the HRNet repository has them, ``annot/train.json``, ``annot/valid.json`` and
    ``annot/gt_valid.mat`` with the boxes of the heads; mmpose's ``annotations/mpii_train.json``, ``mpii_val.json`` and
    ``mpii_gt_val.mat`` are found as well. Without the boxes a head's size is 0.75 of the distance from upper neck to
    head top. Which keypoints are hidden is told by the data set's own ``mpii_human_pose_v1_u12_1.mat`` where it lies in
    the folder; without it labelled keypoints count as visible. The test set's annotations are not public, so ``test``
    takes the validation set.

    Not everybody in a picture is annotated. So whole pictures are scored by the multi-person challenge's average
    precision inside of what the annotated people span (``metrics.PCKhMeanAveragePrecision``), and by PCKh of the poses
    that overlap the annotated persons' boxes most (``metrics.GivenPersons``).

    Args:
        root: Folder of the data set.
        image_size: Height and width of a crop, or of a whole picture (best multiples of 32), in pixels.
        batch_size: Samples per batch and process.
        num_workers: Worker processes per loader.
        padding: Factor on a person's box (a square as wide as the body is tall) before it is cut out.
        crop_convention: How box and crop relate: center, msra (HRNet, Simple Baselines) or udp.
        augmentation: How training crops are varied; "default" is the HRNet repository's for MPII (scale 0.25, rotation
            30 degrees, mirrored 0.5), for whole pictures OpenPose's, null is none.
        predict_images: A picture or a folder to predict on; without it predict takes the validation set.
        predict_boxes: A COCO file with the boxes in predict_images; without it each picture is one person's.
        predict_detector: Finds the persons in predict_images: a detector of torchvision by its name, or one of your own
            by its dotted path; see detection.get_detector.
        seed: Of the order and the augmentation.
        samples: What a sample is: persons, one crop each, for top-down methods, or pictures with all of their people,
            for bottom-up ones.
    """

    def __init__(
        self,
        root: str = "data/mpii",
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
        self.root = Path(root)

    @property
    def skeleton(self) -> Skeleton:
        """MPII's 16 keypoints."""
        return get_skeleton("mpii16")

    def dataset(self, split: Split) -> PoseDataset:
        """Build the samples of one split.

        Raises:
            DatasetError: Where annotations or pictures are missing or wrong.
        """
        name = "train" if split == "train" else "val"
        layouts = [self.root / layout for layout in _LAYOUTS[name]]
        annotations = next((path for path in layouts if path.exists()), layouts[0])
        heads = next((self.root / path for path in _HEADS if (self.root / path).exists()), None)
        release = self.root / _RELEASE
        table = read_mpii(
            annotations,
            self.root / "images",
            heads if name == "val" else None,
            release if release.exists() else None,
        )
        return self.samples_of(table, split)

    def metrics(self) -> Sequence[PoseMetric]:
        """Return PCKh at 0.5 and 0.1, and the area under its curve up to 0.5; of whole pictures AP before these."""
        metrics: list[PoseMetric] = [
            PCKh(self.skeleton, thresholds=(0.5, 0.1)),
            AUC(self.skeleton, max_threshold=0.5, num_thresholds=51, normalize_by="head", convention="mpii"),
        ]
        if self.samples == "persons":
            return metrics
        return [PCKhMeanAveragePrecision(self.skeleton), *(GivenPersons(metric) for metric in metrics)]


def read_mpii(
    annotations: Path, images: Path, head_boxes: Path | None = None, release: Path | None = None
) -> AnnotationTable:
    """Read MPII's annotations into columns.

    Its coordinates count from 1 and are shifted by -1. As in the HRNet repository, the annotated centre is moved down
    by 15 * scale; the box is the square of 200 * scale pixels around it, which that repository pads by 1.25.

    Args:
        annotations: JSON list of {image, center, scale, joints, joints_vis}.
        images: Folder of the pictures.
        head_boxes: MATLAB file with ``headboxes_src`` (2, 2, n), the corners of the heads' boxes; None to estimate the
            sizes of the heads.
        release: The data set's own MATLAB file, which tells hidden keypoints; None: all labelled ones count as visible,
            because the JSON layout does not tell.

    Returns:
        The annotations; persons are numbered by their row in the file.

    Raises:
        DatasetError: Where a file is wrong or pictures are missing; all problems at once.
    """
    content = read_json(annotations)
    if not isinstance(content, list) or not content:
        raise DatasetError(
            f"'{annotations}' is no list of persons ([{{image, center, scale, joints, joints_vis}}, ...])."
        )
    findings = Findings(annotations)
    names, people = _read_people(content, findings)
    if images.is_dir():
        unique = list(dict.fromkeys(names))
        findings.general += check_pictures(images, unique).values()
    else:
        findings.add(f"the folder of its pictures, '{images}', does not exist")
    findings.settle()
    row_of = {name: row for row, name in enumerate(dict.fromkeys(names))}
    keypoints, visible = people[:, 3:35].reshape(-1, 16, 2) - 1, people[:, 35:] > 0
    visibility = np.where(visible, 2, 0).astype(np.uint8)
    if release is not None:
        hidden, missing = hidden_keypoints(release, names, people[:, 3:35].reshape(-1, 16, 2), visible)
        visibility[hidden] = 1
        if missing:
            warnings.warn(
                f"{release}: {missing} of {len(names)} persons of {annotations.name} are not in it; their keypoints "
                "count as visible.",
                stacklevel=2,
            )
    scale = people[:, 2]
    center = people[:, :2] + np.stack([np.zeros_like(scale), 15 * scale], axis=1) - 1
    half = (_BODY_HEIGHT * scale / 2)[:, None]
    boxes = np.concatenate([center - half, center + half], axis=1).astype(np.float32)
    return AnnotationTable(
        source=annotations,
        folder=images,
        skeleton=get_skeleton("mpii16"),
        file_names=np.array(list(row_of), dtype=np.str_),
        image_ids=np.arange(len(row_of)),
        image_sizes=np.zeros((len(row_of), 2), dtype=np.int32),
        image_rows=np.array([row_of[name] for name in names], dtype=np.int64),
        person_ids=np.arange(len(names)),
        keypoints=np.where(visible[..., None], keypoints, 0).astype(np.float32),
        visibility=visibility,
        boxes=boxes,
        areas=AREA_OF_BOX * box_area(boxes),
        head_sizes=_head_sizes(keypoints, visible, head_boxes).astype(np.float32),
        is_crowd=np.zeros(len(names), dtype=np.bool_),
    )


def _read_people(content: list[Any], findings: Findings) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Return the pictures' names and, (n, 51), centre, scale, 16 joints and 16 flags of each person."""
    names: list[str] = []
    people: list[npt.NDArray[np.float64]] = []
    for row, entry in enumerate(content):
        given = entry if isinstance(entry, dict) else {}
        joints = given.get("joints")
        flat = (
            [value for pair in joints if isinstance(pair, list) for value in pair] if isinstance(joints, list) else None
        )
        center, where, flags = (
            number_list(given.get("center"), 2),
            number_list(flat, 32),
            number_list(given.get("joints_vis"), 16),
        )
        name = safe_name(given["image"]) if isinstance(given.get("image"), str) else None
        scale: Any = given.get("scale")
        if name is None:
            findings.add(f"person {row}: the image {given.get('image')!r} is missing or points out of the folder")
        elif center is None or where is None or flags is None:
            findings.add(f"person {row}: needs center (2), joints (16 x 2) and joints_vis (16), all numbers")
        elif not is_number(scale) or not 0 < scale < 1e3:
            findings.add(f"person {row}: the scale is {scale!r}; it must be above 0")
        elif (reason := pixel_problem(np.concatenate([center, where]))) is not None:
            findings.add(f"person {row}: {reason}")
        else:
            names.append(name)
            people.append(np.concatenate([center, [scale], where, flags]))
    return names, np.array(people).reshape(-1, 51)


def _head_sizes(
    keypoints: npt.NDArray[np.float64], visible: npt.NDArray[np.bool_], head_boxes: Path | None
) -> npt.NDArray[np.float64]:
    """Return what PCKh divides by, (n,) pixels: 0.6 of the diagonal of the head's box, else from neck and head top."""
    if head_boxes is None:
        neck, top = get_skeleton("mpii16").head[0]
        stick = np.linalg.norm(keypoints[:, neck] - keypoints[:, top], axis=1)
        return np.where(visible[:, neck] & visible[:, top], HEAD_OF_STICK * stick, np.nan)
    corners = read_matlab(head_boxes, "headboxes_src")
    if corners.shape != (2, 2, len(keypoints)):
        raise DatasetError(
            f"'{head_boxes}' has head boxes of the shape {corners.shape}, but (2, 2, {len(keypoints)}) "
            "is needed: one for each person of the validation file, in its order."
        )
    diagonal: npt.NDArray[np.float64] = np.linalg.norm(corners[1] - corners[0], axis=0)
    return _HEAD_OF_BOX * diagonal
