"""Pictures to predict on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from lightning_pose_zoo.data.crops import CropSettings
from lightning_pose_zoo.data.pictures import find_pictures, picture_crops
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.skeletons import get_skeleton

COCO17, SETTINGS = get_skeleton("coco17"), CropSettings((64, 48))


@pytest.fixture
def folder(tmp_path):
    """Three frames in an order that plain sorting gets wrong, one of them in a folder below."""
    for name, size in {"frame10.png": (30, 20), "frame2.jpg": (40, 60), "more/frame3.png": (50, 50)}.items():
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)
    (tmp_path / "pictures/notes.txt").write_text("no picture")
    (tmp_path / "pictures/._frame2.jpg").write_bytes(b"what some systems leave beside a file")
    return tmp_path / "pictures"


def test_a_folder_is_sorted_as_people_do(folder):
    assert find_pictures(folder) == (folder, ["frame2.jpg", "frame10.png", "more/frame3.png"])
    crops = picture_crops(folder, None, COCO17, SETTINGS)
    batch = crops.__getitems__([0, 1, 2])
    assert batch["image"].shape == (3, 3, 64, 48)
    assert batch["original_box"].tolist() == [[0, 0, 40, 60], [0, 0, 30, 20], [0, 0, 50, 50]]
    assert batch["area"].tolist() == [2400, 600, 2500]
    assert batch["image_id"].tolist() == [0, 1, 2]
    assert "box_score" not in batch
    assert not batch["visibility"].any()


def test_one_picture(folder):
    crops = picture_crops(folder / "frame10.png", None, COCO17, SETTINGS)
    assert len(crops) == 1
    assert crops.table.path(0) == folder / "frame10.png"


def test_the_data_module_takes_them(small_coco, folder):
    data = small_coco.module(predict_images=str(folder))
    data.setup("predict")
    assert data.image_path(1) == folder / "frame10.png"
    assert [len(batch["image"]) for batch in data.predict_dataloader()] == [3]


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def test_boxes_of_an_annotation_file(folder, tmp_path):
    content = {
        "images": [{"id": 7, "file_name": "somewhere/frame3.png"}, {"id": 5, "file_name": "frame2.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 10, 20]},
            {"id": 2, "image_id": 5, "category_id": 1, "bbox": [3, 4, 10, 20], "iscrowd": 0},
            {"id": 3, "image_id": 5, "category_id": 1, "bbox": [0, 0, 40, 60], "iscrowd": 1},
            {"id": 4, "image_id": 5, "category_id": 1, "bbox": [5, 6, 10, 20]},
        ],
    }
    crops = picture_crops(folder, write(tmp_path / "boxes.json", content), COCO17, SETTINGS)
    batch = crops.__getitems__([0, 1, 2])
    assert batch["image_id"].tolist() == [5, 5, 7]
    assert batch["original_box"].tolist() == [[3, 4, 13, 24], [5, 6, 15, 26], [1, 2, 11, 22]]
    assert len(set(batch["person_id"].tolist())) == 3
    assert sorted(crops.table.image_ids.tolist()) == sorted(set(crops.table.image_ids.tolist()))
    assert crops.table.path(int(np.flatnonzero(crops.table.image_ids == 7)[0])) == folder / "more/frame3.png"


def test_boxes_of_detections_match_numbers_in_names(folder, tmp_path):
    content = [
        {"image_id": 10, "category_id": 1, "bbox": [1, 2, 10, 20], "score": 0.5},
        {"image_id": "frame2", "category_id": 1, "bbox": [3, 4, 10, 20], "score": 0.25},
    ]
    crops = picture_crops(folder, write(tmp_path / "boxes.json", content), COCO17, SETTINGS)
    batch = crops.__getitems__([0, 1])
    assert batch["image_id"].tolist() == [2, 10]
    assert batch["box_score"].tolist() == [0.25, 0.5]


def test_real_files_of_boxes(test_data):
    folder = test_data / "mmpose-samples/coco"
    detected = picture_crops(folder, str(folder / "test_coco_det_AP_H_56.json"), COCO17, SETTINGS)
    entries = json.loads((folder / "test_coco_det_AP_H_56.json").read_text())
    assert len(detected) == len(entries)
    for row, person in enumerate(detected.table.person_ids.tolist()):
        x, y, width, height = entries[person]["bbox"]
        np.testing.assert_allclose(detected.table.boxes[row], [x, y, x + width, y + height], rtol=1e-5)
        name = detected.table.path(int(detected.table.image_rows[row])).name
        assert name == f"{entries[person]['image_id']:012d}.jpg"
    annotated = picture_crops(folder, str(folder / "test_coco.json"), COCO17, SETTINGS)
    assert len(annotated) == 14


def test_boxes_of_unknown_pictures_are_refused(folder, tmp_path):
    content = [{"image_id": 99, "bbox": [1, 2, 3, 4], "score": 1}] * 2
    with pytest.raises(DatasetError, match=r"boxes\.json: 1 problem\n.*picture 99: 2 boxes"):
        picture_crops(folder, write(tmp_path / "boxes.json", content), COCO17, SETTINGS)


@pytest.mark.parametrize(
    "entry",
    [3, {"image_id": 2}, {"image_id": 2, "bbox": [1, 2, 3]}, {"image_id": 2, "bbox": [1, 2, -3, 4]},
     {"image_id": 2, "bbox": [1, 2, 3, 10**400]}, {"image_id": 2, "bbox": [1, 2, 3, 4], "score": "high"},
     {"image_id": 2, "bbox": [1, 2, 3, 4], "score": 10**400}, {"image_id": [2], "bbox": [1, 2, 3, 4]}],
)  # fmt: skip
def test_unusable_boxes_are_refused(folder, tmp_path, entry):
    with pytest.raises(DatasetError, match=r"boxes\.json"):
        picture_crops(folder, write(tmp_path / "boxes.json", [entry]), COCO17, SETTINGS)


def test_neither_annotations_nor_detections(folder, tmp_path):
    for content in ({}, 3, []):
        with pytest.raises(DatasetError, match=r"boxes\.json"):
            picture_crops(folder, write(tmp_path / "boxes.json", content), COCO17, SETTINGS)


def test_nothing_to_predict_on(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        picture_crops(tmp_path / "missing", None, COCO17, SETTINGS)
    with pytest.raises(DatasetError, match="no picture"):
        picture_crops(tmp_path, None, COCO17, SETTINGS)


def test_unreadable_pictures_are_told_at_once(folder):
    for name in ("a.jpg", "b.png"):
        (folder / name).write_text("no picture")
    with pytest.raises(DatasetError) as caught:
        picture_crops(folder, None, COCO17, SETTINGS)
    assert "2 problems" in str(caught.value)
    assert "a.jpg" in str(caught.value)
    assert "b.png" in str(caught.value)
