"""The variation of crops: published statistics, and albumentations by class path."""

from __future__ import annotations

import jsonargparse
import numpy as np
import pytest

from lightning_pose_zoo.data import CropAugmentation, PoseDataModule
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.skeletons import get_skeleton

COCO17 = get_skeleton("coco17")
CENTER, SIZE = np.array([200.0, 300.0]), np.array([150.0, 200.0])


def body():
    rng = np.random.default_rng(5)
    keypoints = rng.uniform(100, 400, (17, 2))
    return keypoints, np.full(17, 2, dtype=np.uint8)


def draw(augmentation, count=8000, visibility=None):
    keypoints, visible = body()
    visible = visible if visibility is None else visibility
    drawn = [
        augmentation.vary(CENTER, SIZE, keypoints, visible, COCO17, np.random.default_rng(seed))
        for seed in range(count)
    ]
    centers, sizes, angles, flips = (np.array(column) for column in zip(*drawn, strict=True))
    return centers, sizes, angles, flips


def test_scale_rotation_and_flip_are_the_published_distributions():
    centers, sizes, angles, flips = draw(CropAugmentation(scale=0.35, rotation=45, half_body_probability=0))
    factor = sizes[:, 0] / SIZE[0]
    np.testing.assert_allclose(factor, sizes[:, 1] / SIZE[1])
    # A normal draw of deviation 0.35, cut off at one deviation: 15.9 % lie on either end.
    assert factor.min() == pytest.approx(0.65)
    assert factor.max() == pytest.approx(1.35)
    assert (factor > 1.3499).mean() == pytest.approx(0.159, abs=0.015)
    assert np.std(factor) == pytest.approx(0.35 * 0.7184, abs=0.006)
    assert (angles != 0).mean() == pytest.approx(0.6, abs=0.02)
    turned = angles[angles != 0]
    assert np.abs(turned).max() == pytest.approx(90)
    assert (np.abs(turned) >= 90).mean() == pytest.approx(0.0455, abs=0.01)
    assert turned.mean() == pytest.approx(0, abs=2)
    assert flips.mean() == pytest.approx(0.5, abs=0.02)
    assert (centers == CENTER).all()


def test_half_bodies_are_cut_as_published():
    keypoints, _ = body()
    augmentation = CropAugmentation(scale=0, rotation=0, half_body_probability=0.3)
    centers, sizes, _, _ = draw(augmentation)
    upper = keypoints[list(COCO17.upper_body)]
    lower = keypoints[[index for index in range(17) if index not in COCO17.upper_body]]
    is_upper = np.isclose(centers, upper.mean(axis=0)).all(axis=1)
    is_lower = np.isclose(centers, lower.mean(axis=0)).all(axis=1)
    assert (is_upper | is_lower).mean() == pytest.approx(0.3, abs=0.02)
    assert is_upper.sum() / (is_upper | is_lower).sum() == pytest.approx(0.69, abs=0.03)
    extent = np.ptp(upper, axis=0)
    assert sizes[is_upper][0, 0] / sizes[is_upper][0, 1] == pytest.approx(0.75)
    assert (sizes[is_upper][0] >= 1.5 * extent - 1e-9).all()
    assert (sizes[is_upper][0] == pytest.approx(1.5 * extent, abs=1e-6)) is False
    assert np.isclose(sizes[is_upper][0], 1.5 * extent).any()


def test_few_labels_leave_the_body_whole():
    few = np.zeros(17, dtype=np.uint8)
    few[:8] = 2
    centers, _, _, _ = draw(CropAugmentation(half_body_probability=1.0), 200, few)
    assert (centers == CENTER).all()
    nine = np.zeros(17, dtype=np.uint8)
    nine[:9] = 2
    centers, _, _, _ = draw(CropAugmentation(half_body_probability=1.0), 200, nine)
    assert not (centers == CENTER).any()


def test_the_centre_moves_within_its_limit():
    centers, sizes, _, _ = draw(CropAugmentation(shift=0.1), 2000)
    moved = np.abs(centers - CENTER) / sizes
    assert 0.09 < moved.max() <= 0.1


def parse(transforms):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(PoseDataModule, "data")
    arguments = {"scale": 0.1, "transforms": transforms}
    config = parser.parse_object(
        {
            "data": {
                "class_path": "lightning_pose_zoo.data.COCOKeypoints",
                "init_args": {
                    "augmentation": {"class_path": "lightning_pose_zoo.data.CropAugmentation", "init_args": arguments}
                },
            }
        }
    )
    return parser.instantiate(config).data.augmentation


def test_albumentations_by_class_path():
    pytest.importorskip("albumentations")
    augmentation = parse(
        [
            {"class_path": "albumentations.RandomBrightnessContrast", "init_args": {"p": 1.0}},
            {"class_path": "albumentations.CoarseDropout", "init_args": {"p": 1.0}},
        ]
    )
    crop = np.full((64, 48, 3), 100, dtype=np.uint8)
    first, again, other = (augmentation.recolor(crop, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != crop).any()
    assert (first != other).any()
    assert (crop == 100).all()


@pytest.mark.parametrize(
    "name", ["HorizontalFlip", "Rotate", "Affine", "Perspective", "ElasticTransform", "RandomCrop"]
)
def test_transforms_that_move_pixels_are_refused(name):
    albumentations = pytest.importorskip("albumentations")
    options = {"height": 8, "width": 8} if name == "RandomCrop" else {}
    with pytest.raises(DatasetError, match=f"{name} moves pixels"):
        CropAugmentation(transforms=[getattr(albumentations, name)(**options)])


def test_normalising_is_left_to_the_method():
    albumentations = pytest.importorskip("albumentations")
    augmentation = CropAugmentation(transforms=[albumentations.Normalize()])
    with pytest.raises(DatasetError, match="the method normalises"):
        augmentation.recolor(np.zeros((8, 8, 3), dtype=np.uint8), np.random.default_rng(0))


def test_transforms_reach_the_batch(small_coco):
    albumentations = pytest.importorskip("albumentations")
    plain = CropAugmentation(0, 0, flip_probability=0)
    inverted = CropAugmentation(0, 0, flip_probability=0, transforms=[albumentations.InvertImg(p=1.0)])
    images = []
    for augmentation in (plain, inverted):
        data = small_coco.module(augmentation=augmentation)
        data.setup("fit")
        images.append(data.datasets["train"].__getitems__([0, 1])["image"])
    assert ((255 - images[0]) == images[1]).all()
