"""CrowdPose: people in crowds, in COCO's format with a crowd index for each picture.

Dataset: Li et al., "CrowdPose: Efficient Crowded Scenes Pose Estimation and a New Benchmark", CVPR 2019, arXiv
1812.00324.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.data.augmentation import Augmentation
from lightning_pose_zoo.data.base import Samples
from lightning_pose_zoo.data.checks import OnBad, is_number
from lightning_pose_zoo.data.coco import COCOKeypoints
from lightning_pose_zoo.data.coco_files import AREA_OF_BOX, read_content
from lightning_pose_zoo.data.table import AnnotationTable
from lightning_pose_zoo.detection.detectors import DetectorLike
from lightning_pose_zoo.errors import DatasetError, complain
from lightning_pose_zoo.geometry import CropConvention, box_area
from lightning_pose_zoo.metrics import GroundTruth

__all__ = ["CrowdPose"]


class CrowdPose(COCOKeypoints):
    """CrowdPose, scored by OKS average precision over all pictures and over easy, medium and hard ones alone.

    As in CrowdPose's evaluation, a person's area is 0.53 of the box, and whoever has a ``num_keypoints`` of 0 (hidden
    entirely) is not scored. Published numbers are of training on trainval and of the test set, which are the defaults.

    Args:
        root: Folder that all other paths are relative to.
        train_annotations: JSON file of the training set.
        val_annotations: JSON file of the set that is evaluated.
        images: Folder of all pictures.
        val_boxes: JSON file of detections ([{image_id, category_id, bbox, score}]) to evaluate with; without it the
            annotated boxes are taken.
        on_bad: What to do about annotations that cannot be used: refuse to start and list them, or skip them.
        image_size: Height and width of a crop, or of a whole picture (best multiples of 32), in pixels.
        batch_size: Samples per batch and process.
        num_workers: Worker processes per loader.
        padding: Factor on a person's box before it is cut out.
        crop_convention: How box and crop relate: center, msra (HRNet, Simple Baselines) or udp.
        augmentation: How training crops are varied; "default" is that of ``COCOKeypoints``, null is none.
        predict_images: A picture or a folder to predict on; without it predict takes the validation set.
        predict_boxes: A COCO file with the boxes in predict_images; without it each picture is one person's.
        predict_detector: Finds the persons in predict_images: a detector of torchvision by its name, or one of your own
            by its dotted path; see detection.get_detector.
        seed: Of the order and the augmentation.
        samples: What a sample is: persons, one crop each, for top-down methods, or pictures with all of their people,
            for bottom-up ones.
        pose_nms: What makes one of several detections of a person, with val_boxes; see ``COCOKeypoints``.
    """

    def __init__(
        self,
        root: str = "data/crowdpose",
        train_annotations: str = "annotations/crowdpose_trainval.json",
        val_annotations: str = "annotations/crowdpose_test.json",
        images: str = "images",
        val_boxes: str | None = None,
        on_bad: OnBad = "refuse",
        image_size: tuple[int, int] = (256, 192),
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
        pose_nms: str = "oks",
    ) -> None:
        super().__init__(
            root,
            train_annotations,
            images,
            val_annotations,
            images,
            val_boxes,
            skeleton="crowdpose14",
            on_bad=on_bad,
            image_size=image_size,
            batch_size=batch_size,
            num_workers=num_workers,
            padding=padding,
            crop_convention=crop_convention,
            augmentation=augmentation,
            predict_images=predict_images,
            predict_boxes=predict_boxes,
            seed=seed,
            samples=samples,
            predict_detector=predict_detector,
            pose_nms=pose_nms,
        )

    def ground_truth(self) -> GroundTruth:
        """Return all annotations of the validation set, with the crowd index of each picture.

        Raises:
            DatasetError: Where a picture has no ``crowdIndex``.
        """
        table = self.table("val")
        content = read_content(table.source)
        return replace(
            super().ground_truth(),
            areas=AREA_OF_BOX * box_area(table.boxes.astype(np.float64)),
            is_ignored=_hidden(content["annotations"], table),
            crowd_index=_crowd_index(content["images"], table),
        )


def _hidden(entries: Sequence[dict[str, Any]], table: AnnotationTable) -> npt.NDArray[np.bool_]:
    """Return who has a ``num_keypoints`` of 0, (n,); where it is missing, whoever has no label."""
    given = {entry["id"]: entry.get("num_keypoints") for entry in entries if isinstance(entry, dict) and "id" in entry}
    labels = (table.visibility > 0).sum(axis=1)
    counts = [given[person] for person in table.person_ids.tolist()]
    return np.array([(n if g is None else g) == 0 for g, n in zip(counts, labels, strict=True)], dtype=bool)


def _crowd_index(entries: Sequence[dict[str, Any]], table: AnnotationTable) -> npt.NDArray[np.float64]:
    """Return the crowd index of each picture of a table, (I,); a few of the published ones are above 1."""
    problems = [
        f"picture {entry['id']}: crowdIndex is no positive number: {entry.get('crowdIndex')!r}"
        for entry in entries
        if not is_number(entry.get("crowdIndex")) or not 0 <= entry["crowdIndex"] < np.inf
    ]
    if problems:
        raise DatasetError(
            complain(
                f"'{table.source}'", problems, "Take CrowdPose's own annotations, or COCOKeypoints for other data."
            )
        )
    given = {entry["id"]: entry["crowdIndex"] for entry in entries}
    return np.array([given[image] for image in table.image_ids.tolist()], dtype=np.float64)
