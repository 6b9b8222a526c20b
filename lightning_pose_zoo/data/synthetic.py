"""``SyntheticPeople``: rendered people, the data set that needs no download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_pose_zoo.data.augmentation import CropAugmentation
from lightning_pose_zoo.data.base import PoseDataModule, Split
from lightning_pose_zoo.data.crops import CropDataset, CropSettings, Person
from lightning_pose_zoo.data.rendering import PeopleRenderer, Scene
from lightning_pose_zoo.data.sampling import SampleKey
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.metrics import PCK
from lightning_pose_zoo.metrics.rows import PoseMetric
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton

__all__ = ["SyntheticCrops", "SyntheticPeople"]

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_MOST_PEOPLE = 1000


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
        augmentation: CropAugmentation | None,
        seed: int,
    ) -> None:
        super().__init__(next(iter(renderers.values())).skeleton, settings, augmentation, seed)
        self.renderers = renderers
        self.split = split
        self._stream = (seed, _SPLITS.index(split))
        counts = np.random.default_rng(self._stream).choice(sorted(renderers), scenes)
        self.people_in_scene = counts.astype(np.int64)
        self.random_order = split == "train"
        self.scene_of_sample = np.repeat(np.arange(scenes), crops_per_scene if split == "train" else counts)
        self._last: tuple[tuple[int, int], Scene] | None = None

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.scene_of_sample)

    def scene(self, index: int, epoch: int = 0) -> Scene:
        """Render one picture with all its people; the last one is kept for its next person."""
        epoch = epoch if self.split == "train" else 0
        if self._last is None or self._last[0] != (index, epoch):
            rng = np.random.default_rng((*self._stream, epoch, index))
            renderer = self.renderers[int(self.people_in_scene[index])]
            self._last = ((index, epoch), renderer.render(rng))
        return self._last[1]

    def load(self, key: SampleKey) -> Person:
        """Render one person's picture."""
        index = int(self.scene_of_sample[key.index])
        scene = self.scene(index, key.epoch)
        people = len(scene.keypoints)
        first = int(np.searchsorted(self.scene_of_sample, index))
        # The crops that training takes of one scene show its people in turn.
        turn = key.epoch + index if self.split == "train" else 0
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


class SyntheticPeople(PoseDataModule):
    """Rendered people, articulated in three dimensions, before cluttered backgrounds; nothing is downloaded.

    Every epoch of training has other people. Keypoints that are hidden are labelled 1 at their true place and count in
    the scores.

    Args:
        skeleton: Any built-in skeleton, or one whose keypoints the body model has.
        image_size: Height and width of a crop in pixels.
        train_size: Crops per epoch.
        crops_per_picture: How many of them are cut out of one picture; 2, varied by an augmentation, save half of the
            time for rendering.
        val_size: Pictures in the validation set, and as many others in the test set.
        people: Fewest and most people in a picture.
        max_turn: How far a body may turn away from facing the camera, degrees up to 180.
        occlusion: How often something stands partly in front of a person, 0 to 1.
        batch_size: Persons per batch and process.
        num_workers: Processes that render.
        augmentation: How training crops are varied further; none by default, since every picture is new.
        predict_images: A picture or a folder of pictures to predict on, each taken as one person's; without it
            ``predict`` takes the test split.
        seed: Of the people.
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
        augmentation: CropAugmentation | None = None,
        predict_images: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(image_size, batch_size, num_workers, 1.25, "center", augmentation, predict_images, None, seed)
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
        self.renderers = {
            count: PeopleRenderer(self._skeleton, picture, (count, count), max_turn, occlusion)
            for count in range(people[0], people[1] + 1)
        }

    @property
    def skeleton(self) -> Skeleton:
        """What the keypoints are."""
        return self._skeleton

    def dataset(self, split: Split) -> CropDataset:
        """Build one split."""
        augmentation = self.augmentation if split == "train" else None
        return SyntheticCrops(
            self.renderers, self.scenes[split], self.crops_per_picture, split, self.settings, augmentation, self.seed
        )

    def metrics(self) -> Sequence[PoseMetric]:
        """Return PCK at 0.2 and 0.1 of the torso's diameter; hidden keypoints count."""
        return [PCK(self._skeleton, thresholds=(0.2, 0.1), normalize_by="torso")]
