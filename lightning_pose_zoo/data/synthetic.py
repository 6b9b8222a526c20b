"""``SyntheticPeople``: rendered people, the data set that needs no download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_pose_zoo.data.augmentation import Augmentation
from lightning_pose_zoo.data.base import PoseDataModule, Samples, Split
from lightning_pose_zoo.data.crops import CropDataset, CropSettings, Person, PoseDataset
from lightning_pose_zoo.data.rendering import PeopleRenderer, Scene
from lightning_pose_zoo.data.sampling import SampleKey
from lightning_pose_zoo.data.whole_pictures import PictureDataset, WholePicture
from lightning_pose_zoo.detection.detectors import DetectorLike
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.metrics import PCK, OKSMeanAveragePrecision
from lightning_pose_zoo.metrics.rows import PoseMetric
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton

__all__ = ["SyntheticCrops", "SyntheticPeople", "SyntheticPictures"]

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_MOST_PEOPLE = 1000


class _Scenes:
    """Rendered pictures, each made when it is asked for: other ones every epoch of training, else always the same.

    Args:
        renderers: Renderers by the number of people in the picture.
        count: How many pictures.
        split: Decides, with the seed, who is in the pictures: nobody is in two splits.
        seed: Of the people.
    """

    def __init__(self, renderers: dict[int, PeopleRenderer], count: int, split: Split, seed: int) -> None:
        self.renderers = renderers
        self.training = split == "train"
        self._stream = (seed, _SPLITS.index(split))
        self.people = np.random.default_rng(self._stream).choice(sorted(renderers), count).astype(np.int64)
        self._last: tuple[tuple[int, int], Scene] | None = None

    def scene(self, index: int, epoch: int = 0) -> Scene:
        """Render one picture with all its people; the last one is kept for its next sample."""
        epoch = epoch if self.training else 0
        if self._last is None or self._last[0] != (index, epoch):
            rng = np.random.default_rng((*self._stream, epoch, index))
            self._last = ((index, epoch), self.renderers[int(self.people[index])].render(rng))
        return self._last[1]


class SyntheticCrops(CropDataset):
    """Crops of rendered people; each picture is made when it is asked for.

    Training shows one person of a scene at a time, and other scenes every epoch. Evaluation shows every person of
    scenes that are always the same.

    Args:
        renderers: Renderers by the number of people in the picture.
        scenes: How many pictures.
        crops_per_scene: How many crops in a row training takes of one picture.
        split: Decides, with the seed, who is in the pictures: nobody is in two splits.
        settings: How boxes become crops.
        augmentation: How crops are varied; None for no variation.
        seed: Of the people and of the augmentation.
    """

    def __init__(
        self,
        renderers: dict[int, PeopleRenderer],
        scenes: int,
        crops_per_scene: int,
        split: Split,
        settings: CropSettings,
        augmentation: Augmentation | None,
        seed: int,
    ) -> None:
        super().__init__(next(iter(renderers.values())).skeleton, settings, augmentation, seed)
        self._scenes = _Scenes(renderers, scenes, split, seed)
        self.scene = self._scenes.scene
        self.random_order = self._scenes.training
        crops = crops_per_scene if self._scenes.training else self._scenes.people
        self.scene_of_sample = np.repeat(np.arange(scenes), crops)

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.scene_of_sample)

    def load(self, key: SampleKey) -> Person:
        """Render one person's picture."""
        index = int(self.scene_of_sample[key.index])
        scene = self.scene(index, key.epoch)
        people = len(scene.keypoints)
        first = int(np.searchsorted(self.scene_of_sample, index))
        # The crops that training takes of one scene show its people in turn.
        turn = key.epoch + index if self._scenes.training else 0
        place = (turn + key.index - first) % people
        return Person(
            image=scene.image,
            keypoints=scene.keypoints[place],
            visibility=scene.visibility[place],
            box=scene.boxes[place],
            area=float(scene.areas[place]),
            head_size=float(scene.head_sizes[place]),
            image_id=index,
            person_id=index * _MOST_PEOPLE + place,
            others_keypoints=np.delete(scene.keypoints, place, axis=0),
            others_visibility=np.delete(scene.visibility, place, axis=0),
        )


class SyntheticPictures(PictureDataset):
    """Rendered pictures with all their people; each is made when it is asked for.

    Training shows other scenes every epoch, evaluation always the same. Somebody of whom no keypoint is inside the
    picture is ignored.

    Args:
        renderers: Renderers by the number of people in the picture.
        scenes: How many pictures.
        cuts_per_scene: How many samples in a row training takes of one picture.
        split: Decides, with the seed, who is in the pictures: nobody is in two splits.
        settings: How pictures become samples.
        augmentation: How pictures are varied; None for no variation.
        seed: Of the people and of the augmentation.
        masks: Hand over what of each person is seen.
    """

    def __init__(
        self,
        renderers: dict[int, PeopleRenderer],
        scenes: int,
        cuts_per_scene: int,
        split: Split,
        settings: CropSettings,
        augmentation: Augmentation | None,
        seed: int,
        masks: bool = False,
    ) -> None:
        super().__init__(next(iter(renderers.values())).skeleton, settings, augmentation, seed)
        self.masks = masks
        self._scenes = _Scenes(renderers, scenes, split, seed)
        self.scene = self._scenes.scene
        self.random_order = self._scenes.training
        self.cuts_per_scene = cuts_per_scene if self._scenes.training else 1

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._scenes.people) * self.cuts_per_scene

    def load(self, key: SampleKey) -> WholePicture:
        """Render one picture."""
        index = key.index // self.cuts_per_scene
        scene = self.scene(index, key.epoch)
        people = np.flatnonzero((scene.visibility > 0).any(axis=1))
        unlabelled = np.setdiff1d(np.arange(len(scene.keypoints)), people)
        return WholePicture(
            image=scene.image,
            size=(scene.image.shape[0], scene.image.shape[1]),
            keypoints=scene.keypoints[people],
            visibility=scene.visibility[people],
            boxes=scene.boxes[people],
            areas=scene.areas[people],
            head_sizes=scene.head_sizes[people],
            person_ids=index * _MOST_PEOPLE + people,
            image_id=index,
            ignore=np.isin(scene.owners, unlabelled + 1) if len(unlabelled) else None,
            masks=scene.owners == (people + 1)[:, None, None] if self.masks else None,
        )


class SyntheticPeople(PoseDataModule):
    """Rendered people, articulated in three dimensions, before cluttered backgrounds; nothing is downloaded.

    Every epoch of training has other people. Keypoints that are hidden are labelled 1 at their true place and count in
    the scores.

    Args:
        skeleton: Any built-in skeleton, or one whose keypoints the body model has.
        image_size: Height and width of a crop, or of a whole picture (best multiples of 32), in pixels.
        train_size: Samples per epoch.
        crops_per_picture: How many of them are cut out of one picture; 2, varied by an augmentation, save half of the
            time for rendering.
        val_size: Pictures in the validation set, and as many others in the test set.
        people: Fewest and most people in a picture.
        max_turn: How far a body may turn away from facing the camera, degrees up to 180.
        occlusion: How often something stands partly in front of a person, 0 to 1.
        batch_size: Samples per batch and process.
        num_workers: Processes that render.
        augmentation: How training samples are varied further; none by default, since every picture is new.
        predict_images: A picture or a folder of pictures to predict on, each taken as one person's, or whole; without
            it ``predict`` takes the test split.
        predict_boxes: A COCO file with the boxes in predict_images.
        predict_detector: Finds the persons in predict_images: a detector of torchvision by its name, or one of your own
            by its dotted path; see detection.get_detector.
        seed: Of the people.
        samples: What a sample is: persons, one crop each, for top-down methods, or pictures with all of their people,
            for bottom-up ones; these are scored by OKS average precision.
        masks: With whole pictures, hand over what of each person is seen; for methods that learn it.
    """

    def __init__(
        self,
        skeleton: str | dict[str, Any] | Skeleton = "coco17",
        image_size: tuple[int, int] = (128, 96),
        train_size: int = 8000,
        crops_per_picture: int = 1,
        val_size: int = 500,
        people: tuple[int, int] = (1, 1),
        max_turn: float = 60.0,
        occlusion: float = 0.25,
        batch_size: int = 32,
        num_workers: int = 0,
        augmentation: Augmentation | None = None,
        predict_images: str | None = None,
        seed: int = 0,
        samples: Samples = "persons",
        predict_boxes: str | None = None,
        predict_detector: DetectorLike | None = None,
        masks: bool = False,
    ) -> None:
        super().__init__(
            image_size,
            batch_size,
            num_workers,
            1.25,
            "center",
            augmentation,
            predict_images,
            predict_boxes,
            seed,
            samples,
            predict_detector,
            masks,
        )
        if not 1 <= people[0] <= people[1] < _MOST_PEOPLE:
            raise DatasetError(f"people is {tuple(people)}; give the fewest and the most, as in [1, 4].")
        self._skeleton = get_skeleton(skeleton)
        if crops_per_picture < 1 or train_size % crops_per_picture:
            raise DatasetError(
                f"train_size is {train_size}; give a multiple of crops_per_picture, {crops_per_picture}."
            )
        self.scenes = {"train": train_size // crops_per_picture, "val": val_size, "test": val_size}
        self.crops_per_picture = crops_per_picture
        # Crops are a little smaller than the boxes that they are cut by, so that nothing is blown up.
        picture = (round(image_size[0] * 1.25), round(image_size[0] * (1.0 if people[1] == 1 else 1.6)))
        if samples == "pictures":
            picture = self.settings.size
        self.renderers = {
            count: PeopleRenderer(self._skeleton, picture, (count, count), max_turn, occlusion)
            for count in range(people[0], people[1] + 1)
        }

    @property
    def skeleton(self) -> Skeleton:
        """What the keypoints are."""
        return self._skeleton

    def dataset(self, split: Split) -> PoseDataset:
        """Build one split.

        Raises:
            DatasetError: Where the augmentation is one for other samples.
        """
        augmentation = self.augmentation if split == "train" else None
        how = (
            self.renderers, self.scenes[split], self.crops_per_picture, split, self.settings, augmentation, self.seed
        )  # fmt: skip
        return SyntheticPictures(*how, self.masks) if self.samples == "pictures" else SyntheticCrops(*how)

    def metrics(self) -> Sequence[PoseMetric]:
        """Return PCK at 0.2 and 0.1 of the torso's diameter, or OKS average precision; hidden keypoints count."""
        if self.samples == "pictures":
            return [OKSMeanAveragePrecision(self._skeleton)]
        return [PCK(self._skeleton, thresholds=(0.2, 0.1), normalize_by="torso")]
