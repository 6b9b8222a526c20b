"""Crops against the HRNet repository's matrices, and keypoints against the pixels that they name."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from dots import COLORS

from lightning_pose_zoo import geometry
from lightning_pose_zoo.data import COCOKeypoints, CropAugmentation, CropDataset, CropSettings, Person
from lightning_pose_zoo.data.images import read_image
from lightning_pose_zoo.data.sampling import SampleKey
from lightning_pose_zoo.skeletons import Skeleton

FIVE = Skeleton.from_names("five", ["nose", "left_hand", "right_hand", "left_foot", "right_foot"])


class OnePerson(CropDataset):
    """Always the same person in the same picture."""

    def __init__(self, image, box, keypoints, settings, augmentation=None):
        super().__init__(FIVE, settings, augmentation)
        self.person = Person(image, keypoints, np.full(len(keypoints), 2, np.uint8), box, 100.0, np.nan, 3, 4)

    def __len__(self):
        return 1

    def load(self, key):
        return self.person


def dotted():
    """A picture with a square of its own colour around each keypoint."""
    keypoints = np.array([[150, 90], [170, 140], [120, 150], [165, 230], [130, 240]], dtype=np.float32)
    image = np.zeros((300, 280, 3), dtype=np.uint8)
    for (x, y), color in zip(keypoints.astype(int), COLORS, strict=True):
        image[y - 4 : y + 5, x - 4 : x + 5] = color
    return image, np.array([90, 60, 200, 260], dtype=np.float32), keypoints


def centroids(crop):
    """Return where each colour is in a crop (H, W, 3), NaN where it is not."""
    found = []
    for color in COLORS:
        on = np.array(color) > 0
        # Linear where a dot fades into the black around it, and nothing on dots of other colours.
        weight = np.clip(crop[..., on].min(axis=2).astype(float) - crop[..., ~on].max(axis=2), 0, None)
        total = weight.sum()
        rows, columns = np.mgrid[: crop.shape[0], : crop.shape[1]]
        found.append(
            [(weight * columns).sum() / total, (weight * rows).sum() / total] if total > 255 * 8 else [np.nan] * 2
        )
    return np.array(found)


def test_pixels_are_those_of_the_official_crop(test_data):
    oracle = np.load(test_data / "oracles/processing/affine_official.npz")
    width, height = (int(value) for value in oracle["size"])
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (600, 700, 3), dtype=np.uint8), (9, 9), 3)
    for row, (center, scale) in enumerate(zip(oracle["center"], oracle["scale"], strict=True)):
        for column, rotation in enumerate(oracle["rotation"]):
            size = np.array([scale[0] * 200, scale[0] * 200 * height / width])
            box = np.concatenate([center - size / 2, center + size / 2]).astype(np.float32)
            official = oracle["matrices"][row, column]
            expected = cv2.warpAffine(image, official, (width, height), flags=cv2.INTER_LINEAR)
            fixed = _Fixed(float(rotation))
            data = OnePerson(
                image, box, np.zeros((5, 2), np.float32), CropSettings((height, width), 1.0, "msra"), fixed
            )
            batch = data[SampleKey(0, 0)]
            crop = batch["image"][0].permute(1, 2, 0).numpy()
            assert np.abs(crop.astype(int) - expected).mean() < 0.05
            np.testing.assert_allclose(
                geometry.invert_affine(batch["to_original"][0].double().numpy()), official, rtol=1e-3, atol=2e-2
            )


class _Fixed(CropAugmentation):
    """Turns by one angle and nothing else."""

    def __init__(self, angle):
        super().__init__()
        self.angle = angle

    def vary(self, center, size, keypoints, visibility, skeleton, rng):
        return center, size, self.angle, False


@pytest.mark.parametrize("convention", ["center", "msra", "udp"])
@pytest.mark.parametrize("augmented", [False, True])
def test_keypoints_follow_the_pixels(convention, augmented):
    image, box, keypoints = dotted()
    augmentation = CropAugmentation(scale=0.3, rotation=40, half_body_probability=0, shift=0.1) if augmented else None
    data = OnePerson(image, box, keypoints, CropSettings((256, 192), 1.25, convention), augmentation)
    flips = seen = 0
    for epoch in range(12):
        batch = data[SampleKey(epoch, 0)]
        found = centroids(batch["image"][0].permute(1, 2, 0).numpy())
        predicted = batch["keypoints"][0].numpy()
        mirrored = np.linalg.det(batch["to_original"][0, :, :2].numpy()) < 0
        flips += mirrored
        if mirrored:  # the picture's left hand is now where the right one is looked for
            predicted = predicted[FIVE.flip_permutation]
        inside = (predicted > 8).all(axis=1) & (predicted < [183, 247]).all(axis=1)
        seen += inside.sum()
        np.testing.assert_allclose(found[inside], predicted[inside], atol=0.1)
        back = geometry.apply_affine(predicted.astype(np.float64), batch["to_original"][0].double().numpy())
        np.testing.assert_allclose(back, keypoints, atol=1e-2)
    assert seen > 40
    assert (0 < flips < 12) if augmented else flips == 0


def test_flips_swap_sides_and_flags():
    image, box, keypoints = dotted()
    data = OnePerson(image, box, keypoints, CropSettings((64, 48)), CropAugmentation(0, 0, flip_probability=1.0))
    data.person.visibility = np.array([2, 1, 2, 0, 2], dtype=np.uint8)
    plain = OnePerson(image, box, keypoints, CropSettings((64, 48)))[0]["keypoints"][0]
    batch = data[0]
    assert batch["visibility"][0].tolist() == [2, 2, 1, 2, 0]
    expected = plain[[0, 2, 1, 4, 3]]
    expected[:, 0] = 47 - expected[:, 0]
    np.testing.assert_allclose(batch["keypoints"][0, :4], expected[:4], atol=1e-4)
    assert batch["keypoints"][0, 4].tolist() == [0, 0]


def test_batches_are_channels_last_and_complete():
    image, box, keypoints = dotted()
    batch = OnePerson(image, box, keypoints, CropSettings((64, 48))).__getitems__([0, 0, 0])
    assert batch["image"].shape == (3, 3, 64, 48)
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["image_id"].tolist() == [3, 3, 3]
    assert batch["person_id"].dtype == torch.int64
    assert "original_keypoints" in batch
    assert "original_keypoints" not in OnePerson(image, box, keypoints, CropSettings((64, 48)), CropAugmentation())[0]


def test_a_crop_outside_of_the_picture_is_black():
    image, _, keypoints = dotted()
    far = np.array([900, 900, 1000, 1000], dtype=np.float32)
    assert not OnePerson(image, far, keypoints, CropSettings((64, 48)))[0]["image"].any()


def test_reading_only_what_is_needed_changes_nothing(test_data, monkeypatch):
    """Pictures are decoded as far down as the crops reach, once a batch; the crops are those of whole pictures."""
    data = COCOKeypoints(str(test_data / "coco-mini"), num_workers=0, image_size=(128, 96))
    data.setup("fit")
    dataset = data.datasets["train"]
    keys = [SampleKey(3, index) for index in range(len(dataset))]

    def whole(path, rows=None):
        picture = read_image(path)
        seen.append((rows, len(picture), path))
        return picture

    def one_by_one():
        mixed = np.random.default_rng(0).permutation(len(keys))
        crops = torch.cat([dataset[keys[index]]["image"] for index in mixed])
        return crops[torch.from_numpy(np.argsort(mixed))]

    seen = []
    alone, together = one_by_one(), dataset.__getitems__(keys)["image"]
    dataset._decoded = None
    monkeypatch.setattr("lightning_pose_zoo.data.crops.read_image", whole)
    assert torch.equal(one_by_one(), alone)
    assert np.mean([needed < height for needed, height, _ in seen]) > 0.5
    seen.clear()
    dataset._decoded = None
    assert torch.equal(dataset.__getitems__(keys)["image"], alone)
    assert torch.equal(together, alone)
    files = [path for *_, path in seen]
    assert len(files) == len(set(files)) < len(keys)
    seen.clear()
    last = np.array([dataset.table.path(row) == files[-1] for row in dataset.table.image_rows.tolist()])
    again = dataset.__getitems__([keys[index] for index in np.flatnonzero(last)])["image"]
    assert torch.equal(again, alone[torch.from_numpy(last)])
    assert not seen  # the picture of the batch before
