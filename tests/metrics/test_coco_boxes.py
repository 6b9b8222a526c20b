"""Boxes of a detector, scored by pycocotools."""

from __future__ import annotations

import json

import pytest

from lightning_pose_zoo.errors import DatasetError, MetricError
from lightning_pose_zoo.metrics import evaluate_coco_boxes


def files(folder, rows):
    people = [
        {"id": n + 1, "image_id": n % 2, "category_id": 1, "bbox": [10 * n, 0, 40, 60], "area": 2400, "iscrowd": 0}
        for n in range(4)
    ]
    content = {"images": [{"id": 0}, {"id": 1}], "annotations": people, "categories": [{"id": 1, "name": "person"}]}
    (folder / "gt.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(rows))
    return folder / "gt.json", folder / "results.json"


def row(**changes):
    return {"image_id": 0, "category_id": 1, "bbox": [0, 0, 40, 60], "score": 0.9, **changes}


def test_the_published_numbers(test_data):
    oracle = json.loads((test_data / "oracles" / "expected.json").read_text())["bbox_val2014_fake100"]
    scores = evaluate_coco_boxes(*(test_data / "oracles" / file for file in oracle["files"]))
    expected = {
        key.replace("s", "_S").replace("m", "_M").replace("l", "_L"): v for key, v in oracle["expected"].items()
    }
    assert scores == pytest.approx(expected, abs=1e-9)


def test_some_nobody_and_wrong_files(tmp_path):
    scores = evaluate_coco_boxes(*files(tmp_path, [row(), row(bbox=[20, 0, 40, 60], score=0.8)]))
    assert scores["AR100"] == 0.5
    assert scores["AP_S"] == -1
    nobody = evaluate_coco_boxes(*files(tmp_path, []))
    assert nobody["AP"] == 0
    assert nobody["AR_M"] == 0
    with pytest.raises(MetricError, match=r"1 images are not in the annotations, such as \['7'\]"):
        evaluate_coco_boxes(*files(tmp_path, [row(image_id=7)]))
    with pytest.raises(MetricError, match="no file of detections"):
        evaluate_coco_boxes(*files(tmp_path, {"boxes": []}))
    truth, results = files(tmp_path, [])
    truth.write_text("[]")
    with pytest.raises(DatasetError, match="no COCO annotation file"):
        evaluate_coco_boxes(truth, results)
