"""COCO's files against an independent reading of the JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lightning_pose_zoo.data import COCOKeypoints
from lightning_pose_zoo.data.coco_files import read_boxes, read_coco
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.skeletons import get_skeleton
from lightning_pose_zoo.structures import Poses

COCO17 = get_skeleton("coco17")


@pytest.fixture(scope="module")
def coco_mini(test_data):
    return test_data / "coco-mini"


def raw(path):
    content = json.loads(path.read_text())
    return content, {image["id"]: image for image in content["images"]}


@pytest.mark.parametrize(("split", "count", "labelled"), [("train", 172, 86), ("val", 52, 26)])
def test_columns_equal_the_file(coco_mini, split, count, labelled):
    path = coco_mini / f"annotations/person_keypoints_{split}2017.json"
    table = read_coco(path, coco_mini / f"{split}2017", COCO17, "person")
    content, images = raw(path)
    assert len(table) == count == len(content["annotations"])
    assert table.trainable().sum() == labelled
    assert len(table.image_ids) == len(content["images"])
    for row, entry in enumerate(content["annotations"]):
        picture = table.image_rows[row]
        x, y, width, height = entry["bbox"]
        assert table.person_ids[row] == entry["id"]
        assert table.image_ids[picture] == entry["image_id"]
        assert table.path(picture).name == images[entry["image_id"]]["file_name"]
        np.testing.assert_allclose(table.boxes[row], [x, y, x + width, y + height], atol=1e-4)
        np.testing.assert_allclose(table.areas[row], entry["area"], rtol=1e-6)
        for joint in range(17):
            x, y, flag = entry["keypoints"][3 * joint : 3 * joint + 3]
            assert table.visibility[row, joint] == flag
            assert table.keypoints[row, joint].tolist() == ([x, y] if flag else [0, 0])
        assert table.is_crowd[row] == bool(entry["iscrowd"])


def test_batches_hold_what_was_annotated(coco_mini):
    data = COCOKeypoints(str(coco_mini), image_size=(128, 96), num_workers=0, batch_size=7)
    data.setup("fit")
    data.setup("test")
    annotated = {
        entry["id"]: entry for entry in raw(coco_mini / "annotations/person_keypoints_val2017.json")[0]["annotations"]
    }
    seen = []
    for batch in data.test_dataloader():
        for person, identity in enumerate(batch["person_id"].tolist()):
            seen.append(identity)
            truth = np.array(annotated[identity]["keypoints"], dtype=float).reshape(17, 3)
            flags = batch["visibility"][person].numpy()
            np.testing.assert_array_equal(flags, truth[:, 2])
            matrix = batch["to_original"][person].numpy()
            back = batch["keypoints"][person].numpy() @ matrix[:, :2].T + matrix[:, 2]
            np.testing.assert_allclose(back[flags > 0], truth[flags > 0, :2], atol=1e-2)
            np.testing.assert_array_equal(batch["original_keypoints"][person].numpy(), truth[:, :2])
        assert batch["image"].shape[1:] == (3, 128, 96)
        assert "box_score" not in batch
    assert len(seen) == len(set(seen)) == 26


def test_metrics_score_the_truth_perfectly(coco_mini):
    data = COCOKeypoints(str(coco_mini), image_size=(128, 96), num_workers=0)
    data.setup("validate")
    metrics = data.metrics()
    for batch in data.val_dataloader():
        persons = len(batch["person_id"])
        poses = Poses(
            batch["original_keypoints"], torch.ones(persons, 17), torch.ones(persons), batch["original_box"],
            batch["image_id"], batch["person_id"],
        )  # fmt: skip
        for metric in metrics:
            metric.update_batch(poses, batch)
    values = {name: float(value) for metric in metrics for name, value in metric.compute().items()}
    assert values["AP"] == pytest.approx(1.0)
    assert values["PCK@0.2"] == 1.0


def test_boxes_reach_no_further_than_the_picture(small_coco):
    small_coco.content["annotations"][0]["bbox"] = [-20, -30, 500, 60]
    data = small_coco.module()
    data.setup("fit")
    np.testing.assert_array_equal(data.datasets["train"].table.boxes[0], [0, 0, 120, 30])
    np.testing.assert_array_equal(data.table("train").boxes[0], [-20, -30, 480, 30])


def test_a_custom_category_brings_its_skeleton(small_coco):
    data = small_coco.module(category=None)
    assert data.skeleton.names == small_coco.names
    assert data.skeleton.flip_pairs == ((1, 2), (3, 4))
    assert data.skeleton.limbs == ((0, 1),)
    data.setup("fit")
    assert len(data.datasets["train"]) == 6


def test_who_cannot_be_learnt_from_is_left_out_but_scored(small_coco):
    entries = small_coco.content["annotations"]
    entries[0]["iscrowd"] = 1
    entries[1]["keypoints"] = [0] * 15
    entries[2]["bbox"] = [10, 10, 0, 80]
    entries[3]["bbox"] = [200, 10, 50, 50]
    data = small_coco.module()
    data.setup("fit")
    assert data.datasets["train"].table.person_ids.tolist() == [104, 105]
    assert len(data.table("val")) == 6


def test_area_is_taken_from_the_box_where_it_is_missing(small_coco):
    del small_coco.content["annotations"][0]["area"]
    table = small_coco.module().table("train")
    assert table.areas[0] == pytest.approx(0.53 * 90 * 80)
    assert table.areas[1] == 3000


def test_pictures_without_persons_stay_in_the_ground_truth(small_coco):
    small_coco.content["annotations"] = small_coco.content["annotations"][1:]
    data = small_coco.module()
    data.setup("validate")
    metric = data.metrics()[0]
    assert metric.annotations.image_ids.tolist() == [10, 11, 12, 13, 14, 15]
    assert metric.annotations.sampled_image_ids.tolist() == [11, 12, 13, 14, 15]


def test_detected_boxes_replace_the_annotated_ones(small_coco):
    detections = [
        {"image_id": 11, "category_id": 1, "bbox": [5, 6, 30, 40], "score": 0.9},
        {"image_id": 10, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.3},
        {"image_id": 10, "category_id": 7, "bbox": [1, 2, 30, 40], "score": 0.8},
        {"image_id": 12, "category_id": 1, "bbox": [1, 2, 0, 40], "score": 0.8},
    ]
    (small_coco.root / "boxes.json").write_text(json.dumps(detections))
    data = small_coco.module(val_boxes="boxes.json")
    data.setup("validate")
    (batch,) = data.val_dataloader()
    assert batch["image_id"].tolist() == [11, 10]
    assert batch["box_score"].tolist() == pytest.approx([0.9, 0.3])
    assert batch["original_box"].tolist() == [[5, 6, 35, 46], [1, 2, 31, 42]]
    assert batch["person_id"].tolist() == [0, 1]
    assert not batch["visibility"].any()
    assert data.metrics()[0].annotations.sampled_image_ids.tolist() == [10, 11]
    data.setup("fit")
    assert data.datasets["train"].box_scores is None


def test_real_detections(test_data):
    folder = test_data / "mmpose-samples/coco"
    table = read_coco(folder / "test_coco.json", folder, COCO17, "person")
    detected, scores = read_boxes(folder / "test_coco_det_AP_H_56.json", table)
    content = json.loads((folder / "test_coco_det_AP_H_56.json").read_text())
    assert len(detected) == sum(entry["category_id"] == 1 for entry in content)
    np.testing.assert_allclose(scores, [entry["score"] for entry in content], rtol=1e-6)
    assert set(table.image_ids[detected.image_rows]) == {entry["image_id"] for entry in content}


def test_crowdpose_layout_is_read_too(test_data):
    folder = test_data / "mmpose-samples/crowdpose"
    table = read_coco(folder / "test_crowdpose.json", folder, get_skeleton("crowdpose14"), None)
    entry = json.loads((folder / "test_crowdpose.json").read_text())["annotations"][0]
    assert table.areas[0] == pytest.approx(0.53 * entry["bbox"][2] * entry["bbox"][3])


def test_a_skeleton_that_orders_its_keypoints_differently_is_refused(small_coco):
    with pytest.raises(DatasetError, match="Give the skeleton that fits"):
        small_coco.module(skeleton={"name": "other", "names": list(reversed(small_coco.names))}).setup("fit")
    with pytest.raises(DatasetError, match=r"has the 5 keypoints.*the 17"):
        small_coco.module(skeleton="coco17").setup("fit")


def test_published_augmentation_is_the_default():
    given = COCOKeypoints().augmentation
    assert (given.scale, given.rotation, given.half_body_probability, given.flip_probability) == (0.35, 45.0, 0.3, 0.5)
    assert COCOKeypoints(augmentation=None).augmentation is None
