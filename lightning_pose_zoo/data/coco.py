"""COCO keypoints: people (cocodataset.org) and anything else that is annotated in its JSON format.

Dataset: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, arXiv 1405.0312.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_pose_zoo.association import ParametricNMS
from lightning_pose_zoo.data.augmentation import Augmentation, CropAugmentation, PictureAugmentation
from lightning_pose_zoo.data.base import PoseDataModule, Samples, Split
from lightning_pose_zoo.data.checks import OnBad
from lightning_pose_zoo.data.coco_files import choose_category, read_boxes, read_coco, read_content
from lightning_pose_zoo.data.crops import PoseDataset, TableCrops
from lightning_pose_zoo.data.table import AnnotationTable
from lightning_pose_zoo.detection.detectors import DetectorLike
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.geometry import CropConvention, clip_boxes
from lightning_pose_zoo.metrics import (
    PCK,
    GroundTruth,
    OKSMeanAveragePrecision,
    ParametricNMSAveragePrecision,
    PoseMetric,
)
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton

__all__ = ["COCOKeypoints"]

_OKS_NMS = 0.9  # of the HRNet and Simple Baselines repositories, for boxes of a detector


class COCOKeypoints(PoseDataModule):
    """COCO's person keypoints, or a data set of your own in COCO's JSON format.

    Scored by OKS average precision, on all pictures of the validation file, and by PCK relative to the box. COCO's test
    set has no annotations, so ``test`` takes the validation set. Whole pictures are scored by average precision alone.

    With ``val_boxes`` the protocol is that of the HRNet and Simple Baselines repositories: a person's score is the
    detector's times the mean of the keypoints' scores above 0.2, and of poses of one picture whose OKS is above 0.9
    only the best counts. All boxes of the file are taken, whatever their score. PCK needs to know whose box it is, so
    there is none.

    Args:
        root: Folder that all other paths are relative to.
        train_annotations: JSON file of the training set.
        train_images: Folder of the training pictures.
        val_annotations: JSON file of the validation set.
        val_images: Folder of the validation pictures.
        val_boxes: JSON file of detections ([{image_id, category_id, bbox, score}]) to evaluate with, such as
            COCO_val2017_detections_AP_H_56_person.json; without it the annotated boxes are taken.
        skeleton: What the keypoints are: a built-in name, a YAML file or a definition; null takes the category's own.
        category: Name of the category; null takes the only one that has keypoints.
        on_bad: What to do about annotations that cannot be used: refuse to start and list them, or skip them.
        image_size: Height and width of a crop, or of a whole picture (best multiples of 32), in pixels.
        batch_size: Samples per batch and process.
        num_workers: Worker processes per loader.
        padding: Factor on a person's box before it is cut out.
        crop_convention: How box and crop relate: center, msra (HRNet, Simple Baselines) or udp.
        augmentation: How training crops are varied; "default" is the HRNet repository's for COCO (scale 0.35, rotation
            45 degrees, half bodies 0.3, mirrored 0.5), for whole pictures OpenPose's, null is none.
        predict_images: A picture or a folder to predict on; without it predict takes the validation set.
        predict_boxes: A COCO file with the boxes in predict_images; without it each picture is one person's.
        predict_detector: Finds the persons in predict_images: a detector of torchvision by its name, or one of your own
            by its dotted path; see detection.get_detector.
        seed: Of the order and the augmentation.
        samples: What a sample is: persons, one crop each, for top-down methods, or pictures with all of their people,
            for bottom-up ones.
        masks: With whole pictures, hand over what each person covers, by the ``segmentation`` of the annotations; for
            methods that learn it.
        pose_nms: What makes one of several detections of a person, with val_boxes: "oks", as above; parametric
            pose-NMS with the published numbers of "rmpe" or "alphapose", or with those in a YAML file (FitPoseNMS).
    """

    def __init__(
        self,
        root: str = "data/coco",
        train_annotations: str = "annotations/person_keypoints_train2017.json",
        train_images: str = "train2017",
        val_annotations: str = "annotations/person_keypoints_val2017.json",
        val_images: str = "val2017",
        val_boxes: str | None = None,
        skeleton: str | dict[str, Any] | Skeleton | None = "coco17",
        category: str | None = "person",
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
        masks: bool = False,
        pose_nms: str = "oks",
    ) -> None:
        if augmentation == "default":
            crops = CropAugmentation(scale=0.35, rotation=45.0, half_body_probability=0.3)
            augmentation = PictureAugmentation() if samples == "pictures" else crops
        if samples == "pictures" and val_boxes is not None:
            raise DatasetError("val_boxes cuts persons out, but samples is 'pictures'; leave one of them out.")
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
            predict_detector,
            masks,
        )
        root_folder = Path(root)
        self.files = {
            "train": (root_folder / train_annotations, root_folder / train_images),
            "val": (root_folder / val_annotations, root_folder / val_images),
        }
        self.val_boxes = None if val_boxes is None else root_folder / val_boxes
        self.category = category
        self.on_bad = on_bad
        self.pose_nms = None if pose_nms == "oks" else ParametricNMS.named(pose_nms)
        self._skeleton = None if skeleton is None else get_skeleton(skeleton)
        self._tables: dict[str, AnnotationTable] = {}

    @property
    def skeleton(self) -> Skeleton:
        """What the keypoints are; read from the annotations where none was named."""
        if self._skeleton is None:
            train, val = self.files["train"][0], self.files["val"][0]
            path = train if train.exists() or not val.exists() else val
            category = choose_category(path, read_content(path), self.category)
            if not category.get("keypoints") or not isinstance(category["keypoints"], list):
                raise DatasetError(f"'{path}': the category '{category['name']}' lists no keypoints; name a skeleton.")
            self._skeleton = Skeleton.from_dict(category)
        return self._skeleton

    def table(self, split: Split) -> AnnotationTable:
        """Return all annotations of a split, crowds and persons without labels among them.

        Raises:
            DatasetError: Where annotations or pictures are missing or wrong.
        """
        name = "train" if split == "train" else "val"
        if name not in self._tables:
            whole = self.samples == "pictures"
            self._tables[name] = read_coco(
                *self.files[name],
                self.skeleton,
                self.category,
                self.on_bad,
                outlines=("all" if self.masks else "ignored") if whole else None,
                every_picture=whole and name == "val",
            )
        return self._tables[name]

    def dataset(self, split: Split) -> PoseDataset:
        """Build the samples of one split.

        Raises:
            DatasetError: Where annotations or pictures are missing or wrong.
        """
        table = self.table(split)
        if split == "train" or self.val_boxes is None:
            return self.samples_of(_clipped(table), split)
        category = choose_category(table.source, read_content(table.source), self.category)
        detected, scores = read_boxes(self.val_boxes, table, int(category["id"]))
        return TableCrops(detected, self.settings, box_scores=scores)

    def ground_truth(self) -> GroundTruth:
        """Return all annotations of the validation set, as they are scored.

        Raises:
            DatasetError: Where annotations or pictures are missing or wrong.
        """
        table = self.table("val")
        visited = table.image_ids
        if self.samples == "persons":
            crops = self.dataset("val")
            assert isinstance(crops, TableCrops)
            visited = table.image_ids[np.unique(crops.table.image_rows)]
        return GroundTruth(
            image_ids=table.image_ids,
            image_rows=table.image_rows,
            person_ids=table.person_ids,
            keypoints=table.keypoints,
            visibility=table.visibility,
            boxes=table.boxes,
            areas=table.areas,
            is_crowd=table.is_crowd,
            sampled_image_ids=visited,
        )

    def metrics(self) -> Sequence[PoseMetric]:
        """Return average precision over the validation set and, for annotated boxes, PCK relative to the box."""
        truth = self.ground_truth()
        if self.val_boxes is not None and self.pose_nms is not None:
            return [ParametricNMSAveragePrecision(self.skeleton, annotations=truth, settings=self.pose_nms)]
        if self.val_boxes is not None:
            return [OKSMeanAveragePrecision(self.skeleton, annotations=truth, oks_nms=_OKS_NMS)]
        if self.samples == "pictures":
            return [OKSMeanAveragePrecision(self.skeleton, annotations=truth)]
        return [
            OKSMeanAveragePrecision(self.skeleton, annotations=truth),
            PCK(self.skeleton, thresholds=(0.2, 0.05), normalize_by="box"),
        ]

    def protocol(self) -> str:
        """Say what is evaluated on and how it is cut out; see ``methods.top_down.evaluation_protocol``."""
        if self.samples == "pictures":
            height, width = self.settings.size
            return f"{self.files['val'][0].name}, whole pictures in {height}x{width} ({self.settings.convention})"
        boxes = "annotated boxes" if self.val_boxes is None else f"detected boxes of {self.val_boxes.name}"
        (height, width), padding = self.settings.size, self.settings.padding
        crops = f"crops of {height}x{width} ({self.settings.convention}, padding {padding:g})"
        return f"{self.files['val'][0].name}, {boxes}, {crops}"


def _clipped(table: AnnotationTable) -> AnnotationTable:
    """Return the annotations with boxes inside their pictures.

    The table itself keeps the boxes as they were annotated, because COCO's evaluation takes them so.
    """
    limits = np.where(table.image_sizes > 0, table.image_sizes, np.inf)[table.image_rows]
    return replace(table, boxes=clip_boxes(table.boxes, limits[:, 0], limits[:, 1]).astype(np.float32))
