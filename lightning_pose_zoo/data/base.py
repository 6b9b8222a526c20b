"""``PoseDataModule``: what all data modules share.

A data set's own module says where its annotations are (``table`` or ``dataset``) and by which protocol it is scored
(``metrics``). Loaders, sampling without duplicates, crops and prediction on pictures are here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import lightning as L
import torch

from lightning_pose_zoo.data.augmentation import Augmentation
from lightning_pose_zoo.data.crops import CropSettings, PoseDataset, TableCrops
from lightning_pose_zoo.data.sampling import PoseLoader, PoseSampler
from lightning_pose_zoo.data.table import AnnotationTable
from lightning_pose_zoo.data.whole_pictures import TablePictures
from lightning_pose_zoo.detection.detectors import DetectorLike
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.geometry import CropConvention
from lightning_pose_zoo.metrics.rows import PoseMetric
from lightning_pose_zoo.skeletons import Skeleton
from lightning_pose_zoo.stage_times import StageTimes

__all__ = ["PoseDataModule", "Samples", "Split"]

Split = Literal["train", "val", "test"]
Samples = Literal["persons", "pictures"]
"""What a sample is: one person's crop, for top-down methods, or a picture with all its people, for bottom-up ones."""


def _one_thread(_: int) -> None:
    """Keep a worker to one core; workers are many, and threads of theirs would fight the trainer's."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _as_batch(batch: Any) -> Any:
    """Collate nothing: ``PoseDataset.__getitems__`` hands over whole batches."""
    return batch


class PoseDataModule(L.LightningDataModule, ABC):
    """Base of all data modules.

    Args:
        image_size: Height and width of a crop, or of a whole picture, in pixels.
        batch_size: Samples per batch and process.
        num_workers: Worker processes per loader.
        padding: Factor on a person's box before it is cut out (1.25 in the HRNet repository).
        crop_convention: How box and crop relate: ``center``, ``msra`` or ``udp``; see ``geometry.CropConvention``.
        augmentation: How training samples are varied, by ``CropAugmentation`` or, whole pictures, by
            ``PictureAugmentation``; None for no variation.
        predict_images: A picture or a folder of pictures to predict on; without it ``predict`` takes the test split.
        predict_boxes: A COCO file (annotations or detections) with the persons' boxes in ``predict_images``; without it
            every picture is taken as one person's.
        seed: Of the order and the augmentation.
        samples: ``persons``, one crop each, or ``pictures`` with all of their people.
        predict_detector: Finds the persons in ``predict_images``: a ``PersonDetector`` or its name; see
            ``detection.get_detector``.
        masks: With whole pictures, hand over what each person covers.

    Raises:
        DatasetError: Where a size, or what a sample is, makes no sense, or whole pictures are to have boxes.
    """

    stage_times: StageTimes | None = None
    """How long the stages of the latest ``predict`` took; from its ``setup`` on."""

    def __init__(
        self,
        image_size: tuple[int, int],
        batch_size: int,
        num_workers: int,
        padding: float,
        crop_convention: CropConvention,
        augmentation: Augmentation | None,
        predict_images: str | None,
        predict_boxes: str | None,
        seed: int,
        samples: Samples = "persons",
        predict_detector: DetectorLike | None = None,
        masks: bool = False,
    ) -> None:
        super().__init__()
        if masks and samples != "pictures":
            raise DatasetError(
                "masks are handed over with whole pictures only; set samples to 'pictures', or leave them."
            )
        if samples not in get_args(Samples):
            raise DatasetError(f"samples is '{samples}'; there are {' and '.join(get_args(Samples))}.")
        if samples == "pictures" and (predict_boxes is not None or predict_detector is not None):
            what = "predict_detector" if predict_boxes is None else "predict_boxes"
            raise DatasetError(f"{what} cuts persons out, but samples is 'pictures'; leave one of them out.")
        if predict_detector is not None and (predict_boxes is not None or predict_images is None):
            lacks = "predict_images is not given" if predict_images is None else "predict_boxes are given too"
            raise DatasetError(f"predict_detector finds people in predict_images, but {lacks}.")
        if len(image_size) != 2 or min(image_size) < 1:
            raise DatasetError(f"image_size is {tuple(image_size)}; give height and width in pixels, as in [256, 192].")
        self.settings = CropSettings((int(image_size[0]), int(image_size[1])), padding, crop_convention)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augmentation = augmentation
        self.predict_images = predict_images
        self.predict_boxes = predict_boxes
        self.predict_detector = predict_detector
        self.seed = seed
        self.samples: Samples = samples
        self.masks = masks
        self.datasets: dict[str, PoseDataset] = {}

    @property
    @abstractmethod
    def skeleton(self) -> Skeleton:
        """What the keypoints are; known before ``setup``."""

    @property
    def skeleton_definition(self) -> dict[str, Any]:
        """The skeleton as lists, strings and numbers, for the link from data to model."""
        return self.skeleton.to_dict()

    @abstractmethod
    def dataset(self, split: Split) -> PoseDataset:
        """Build the data set of one split, checked as far as it can be without decoding every picture.

        Raises:
            DatasetError: Where annotations or pictures are missing or wrong.
        """

    def samples_of(self, table: AnnotationTable, split: Split) -> PoseDataset:
        """Build the samples of a split out of its annotations.

        Crops are of the persons that a top-down method can learn from. Of whole pictures evaluation takes all, training
        those in which somebody is labelled.

        Raises:
            DatasetError: Where the augmentation is one for other samples.
        """
        augmentation = self.augmentation if split == "train" else None
        if self.samples == "pictures":
            everything = split != "train"
            return TablePictures(table, self.settings, augmentation, self.seed, everything, self.masks)
        return TableCrops(table.select(table.trainable()), self.settings, augmentation, self.seed)

    @abstractmethod
    def metrics(self) -> Sequence[PoseMetric]:
        """Return fresh metrics of the data set's own protocol."""

    def image_path(self, image_id: int) -> Path:
        """Return the file of a picture of the prediction set by its id.

        Raises:
            DatasetError: Where the pictures have no files.
        """
        dataset = self.datasets.get("predict")
        if not isinstance(dataset, TableCrops | TablePictures):
            raise DatasetError(f"the pictures of {type(self).__name__} have no files.")
        rows = (dataset.table.image_ids == image_id).nonzero()[0]
        if not len(rows):
            raise DatasetError(f"no picture has the id {image_id}.")
        return dataset.table.path(int(rows[0]))

    def setup(self, stage: str) -> None:
        """Build the data sets that a stage needs, and refuse empty ones.

        Raises:
            DatasetError: Where annotations or pictures are missing or wrong.
        """
        splits: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
        for split in splits.get(stage, ()):
            self._add(split, split)
        if stage == "predict":
            self.stage_times = StageTimes(self.num_workers)
            self._add("predict", "test")
            self.datasets["predict"].times = self.stage_times

    def _add(self, name: str, split: Split) -> None:
        if name in self.datasets:
            return
        if name == "predict" and self.predict_images is not None:
            from lightning_pose_zoo.data.pictures import detected_crops, picture_crops, whole_pictures

            path = Path(self.predict_images)
            if self.samples == "pictures":
                dataset: PoseDataset = whole_pictures(path, self.skeleton, self.settings)
            elif self.predict_detector is not None:
                ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
                detector, times = self.predict_detector, self.stage_times
                dataset = detected_crops(path, detector, self.skeleton, self.settings, times, ranks)
            else:
                dataset = picture_crops(path, self.predict_boxes, self.skeleton, self.settings)
        else:
            dataset = self.dataset(split)
        if not len(dataset):
            raise DatasetError(f"{type(self).__name__}: the {name} set is empty; nothing in it can be used.")
        self.datasets[name] = dataset

    def _loader(self, name: str, train: bool = False) -> PoseLoader:
        dataset = self.datasets[name]
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        shuffle = train and not dataset.random_order
        sampler = PoseSampler(dataset, shuffle, pad=train, seed=self.seed, rank=rank, world_size=world_size)
        loader = PoseLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            # A last batch of one person would break batch normalisation.
            drop_last=train and len(sampler) >= self.batch_size,
            collate_fn=_as_batch,
            worker_init_fn=_one_thread,
            persistent_workers=train and self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # Its own generator: otherwise a loader draws from the global one and so changes the model's random numbers.
            generator=torch.Generator().manual_seed(self.seed),
        )
        trainer: Any = self.trainer
        if train and trainer:
            loader.batches_done = lambda: trainer.fit_loop.epoch_loop.batch_progress.current.processed
        return loader

    def train_dataloader(self) -> PoseLoader:
        """Return shuffled, varied samples."""
        return self._loader("train", train=True)

    def statistics_dataloader(self, samples: int | None = None) -> PoseLoader:
        """Return training samples in their order, each once, varied as in the first epoch.

        Args:
            samples: How many, spread evenly over the training set; all by default.
        """
        loader = self._loader("train")
        if samples is not None and isinstance(loader.sampler, PoseSampler):
            loader.sampler.keep(samples)
        return loader

    def val_dataloader(self) -> PoseLoader:
        """Return each person, or picture, of the validation set once."""
        return self._loader("val")

    def test_dataloader(self) -> PoseLoader:
        """Return each person, or picture, of the test set once."""
        return self._loader("test")

    def predict_dataloader(self) -> PoseLoader:
        """Return each person, or picture, of the prediction set once."""
        return self._loader("predict")
