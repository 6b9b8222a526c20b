"""What persons cover, and where the picture is, in samples of whole pictures."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from lightning_pose_zoo.data import COCOKeypoints, PictureAugmentation, SyntheticPeople
from lightning_pose_zoo.data.sampling import SampleKey
from lightning_pose_zoo.errors import DatasetError

TURNED = PictureAugmentation(target_dist=None, scale=(0.8, 1.2), rotation=30.0, center_jitter=5.0)
CORNER = PictureAugmentation(target_dist=None, scale=(0.7, 1.0), rotation=0.0, center_jitter=0.0, corner=True)


def coco(test_data, **options):
    data = COCOKeypoints(
        str(test_data / "coco-mini"), samples="pictures", image_size=(192, 224), num_workers=0, masks=True, **options
    )
    data.setup("fit")
    return data


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_are_those_of_pycocotools_wherever_the_picture_goes(test_data, split):
    data = coco(test_data, augmentation=TURNED)
    annotations = COCO(str(data.files[split][0]))
    dataset = data.datasets[split]
    batch = dataset.__getitems__([SampleKey(3, index) for index in range(6)])
    assert batch["mask"].dtype == torch.bool
    assert batch["mask"].shape == (len(batch["person_id"]), 192, 224)
    covered = 0
    for person, row in enumerate(batch["image_index"].tolist()):
        own = annotations.annToMask(annotations.anns[int(batch["person_id"][person])])
        # The way back, read at every pixel; a mirrored picture's matrix mirrors.
        there = cv2.warpAffine(own, batch["to_original"][row].double().numpy(), (224, 192),
                               flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)  # fmt: skip
        found = batch["mask"][person].numpy()
        assert (found != (there > 0)).mean() < 0.003
        covered += found.sum()
        if found.any():  # around the person, or the part of it that is in the cut
            rows, columns = np.nonzero(found)
            x0, y0, x1, y1 = batch["box"][person].tolist()
            assert x0 - 2 <= columns.min() <= columns.max() <= x1 + 2
            assert y0 - 2 <= rows.min() <= rows.max() <= y1 + 2
    assert covered > 500


def test_rendered_people_cover_what_is_seen_of_them():
    data = SyntheticPeople(
        samples="pictures", people=(2, 4), image_size=(96, 128), train_size=4, val_size=4, masks=True
    )
    data.setup("fit")
    dataset = data.datasets["val"]
    batch = dataset.__getitems__(range(4))
    for person, row in enumerate(batch["image_index"].tolist()):
        place = int(batch["person_id"][person]) % 1000
        assert np.array_equal(batch["mask"][person].numpy(), dataset.scene(row).owners == place + 1)
    # Nobody covers the same pixel as another one.
    per_picture = torch.zeros(4, 96, 128).index_add_(0, batch["image_index"], batch["mask"].float())
    assert per_picture.max() == 1


def test_who_has_no_outline_has_no_mask(test_data, tmp_path):
    source = test_data / "coco-mini"
    content = json.loads((source / "annotations/person_keypoints_val2017.json").read_text())
    for entry in content["annotations"]:
        entry.pop("segmentation")
    (tmp_path / "annotations").mkdir()
    for name in ("train", "val"):
        (tmp_path / f"annotations/person_keypoints_{name}2017.json").write_text(json.dumps(content))
        (tmp_path / f"{name}2017").symlink_to(source / "val2017")
    data = COCOKeypoints(str(tmp_path), samples="pictures", image_size=(96, 96), num_workers=0, masks=True)
    data.setup("fit")
    batch = data.datasets["val"].__getitems__(range(4))
    assert len(batch["mask"]) == len(batch["keypoints"]) > 0
    assert not batch["mask"].any()


def test_masks_are_of_whole_pictures_only(test_data):
    with pytest.raises(DatasetError, match="set samples to 'pictures'"):
        SyntheticPeople(masks=True)
    plain = SyntheticPeople(samples="pictures", train_size=2, val_size=2)
    plain.setup("fit")
    assert "mask" not in plain.datasets["val"].__getitems__([0])


def test_content_is_where_the_picture_is(test_data):
    """Outside of it there is nothing but filling; its last row and column are the picture's."""
    for augmentation in (None, CORNER):
        data = coco(test_data, augmentation=augmentation)
        dataset = data.datasets["train"]
        shapes = set()
        for epoch in range(3):
            batch = dataset.__getitems__([SampleKey(epoch, index) for index in range(len(dataset))])
            assert batch["content"].dtype == torch.int64
            for image, (height, width) in zip(batch["image"], batch["content"].tolist(), strict=True):
                inside = image[:, :height, :width].long()
                assert image.sum() == inside.sum()
                for edge in (inside[:, 0], inside[:, -2], inside[:, :, 0], inside[:, :, -2]):
                    assert edge.sum() > 0  # photographs are nowhere black along an edge
                shapes.add((height, width))
        assert len(shapes) > 3
        assert all(height <= 192 and width <= 224 for height, width in shapes)
        if augmentation is None:
            assert all(height == 192 or width == 224 for height, width in shapes)
    rendered = SyntheticPeople(samples="pictures", image_size=(96, 128), train_size=2, val_size=2)
    rendered.setup("fit")
    assert rendered.datasets["val"].__getitems__([0])["content"].tolist() == [[96, 128]]
