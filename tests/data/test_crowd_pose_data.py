"""CrowdPose's data module: who is scored, and by which crowd index."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_pose_zoo.data.crowd_pose import CrowdPose
from lightning_pose_zoo.errors import DatasetError
from lightning_pose_zoo.metrics.functional import average_precision
from lightning_pose_zoo.structures import Poses

FILES = {"train_annotations": "annotations.json", "val_annotations": "annotations.json"}


@pytest.fixture
def crowded(tmp_path):
    """Six blank pictures with two persons each, in CrowdPose's layout: no area, some hidden entirely."""
    rng = np.random.default_rng(0)
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    (tmp_path / "images").mkdir()
    for number, crowding in enumerate([0.9, 0.0, 0.19, 0.2, 0.8, 2.5]):
        Image.new("L", (120, 100)).save(tmp_path / "images" / f"{number}.png")
        content["images"].append(
            {"id": 50 - number, "file_name": f"{number}.png", "width": 120, "height": 100, "crowdIndex": crowding}
        )
        for person in range(2):
            hidden = person == 1 and number % 2
            points = np.concatenate([rng.integers(10, 90, (14, 2)), np.full((14, 1), 1 if hidden else 2)], axis=1)
            content["annotations"].append(
                {"id": 2 * number + person, "image_id": 50 - number, "category_id": 1, "iscrowd": 0,
                 "keypoints": points.ravel().tolist(), "num_keypoints": 0 if hidden else 14,
                 "bbox": [10, 10, 80 - 5 * person, 80]}
            )  # fmt: skip
    return tmp_path, content


def _module(crowded, **options):
    folder, content = crowded
    (folder / "annotations.json").write_text(json.dumps(content))
    return CrowdPose(str(folder), **FILES, image_size=(64, 48), num_workers=0, **options)


def test_who_is_hidden_entirely_is_trained_on_but_not_scored(crowded):
    data = _module(crowded)
    data.setup("fit")
    assert len(data.datasets["train"]) == 12
    truth = data.metrics()[0].annotations
    assert truth.ignored.tolist() == [False, False, False, True] * 3
    np.testing.assert_allclose(truth.areas, [0.53 * (80 - 5 * (n % 2)) * 80 for n in range(12)], rtol=1e-12)
    assert dict(zip(truth.image_ids.tolist(), truth.crowd_index.tolist(), strict=True)) == {
        50: 0.9, 49: 0.0, 48: 0.19, 47: 0.2, 46: 0.8, 45: 2.5
    }  # fmt: skip


def test_an_area_in_the_file_does_not_count_as_in_crowdpose_s_evaluation(crowded):
    for entry in crowded[1]["annotations"]:
        entry["area"] = 7.0
        del entry["num_keypoints"]
    truth = _module(crowded).metrics()[0].annotations
    assert truth.areas.min() == pytest.approx(0.53 * 75 * 80)
    assert not truth.ignored.any()


def test_the_metric_scores_each_level(crowded):
    data = _module(crowded)
    data.setup("validate")
    metric = data.metrics()[0]
    for batch in data.val_dataloader():
        count = len(batch["image_id"])
        shift = torch.where(torch.isin(batch["image_id"], torch.tensor([50, 47])), 300.0, 0.0)  # one hard, one medium
        metric.update_batch(
            Poses(
                batch["original_keypoints"] + shift[:, None, None], torch.ones(count, 14), torch.ones(count),
                batch["original_box"], batch["image_id"], batch["person_id"],
            ),
            batch,
        )  # fmt: skip
    values = {name: float(value) for name, value in metric.compute().items()}
    assert values["AP_easy"] == pytest.approx(1)
    assert values["AP_medium"] == 0
    assert 0 < values["AP_hard"] < 1
    truth = metric.annotations
    rows = [n for n in range(12) if truth.crowd_index[truth.image_rows[n]] >= 0.8]
    points = truth.keypoints[rows].astype(np.float64)
    points[truth.image_ids[truth.image_rows[rows]] == 50] += 300
    images = truth.image_ids[truth.image_rows[rows]]
    alone = average_precision(truth.of_images(np.unique(images)), images, points, np.ones(len(rows)), metric.sigmas)
    assert values["AP_hard"] == pytest.approx(alone["AP"], abs=1e-12)


def test_a_picture_without_a_crowd_index_is_named(crowded):
    del crowded[1]["images"][2]["crowdIndex"]
    crowded[1]["images"][3]["crowdIndex"] = "0.5"
    with pytest.raises(DatasetError, match=r"(?s)annotations\.json.*2 problems.*picture 48.*picture 47.*COCOKeypoints"):
        _module(crowded).metrics()


def test_real_samples_are_read(test_data):
    folder = test_data / "mmpose-samples" / "crowdpose"
    file = "test_crowdpose.json"
    data = CrowdPose(str(folder), file, file, ".", image_size=(64, 48), num_workers=0)
    data.setup("validate")
    content = json.loads((folder / file).read_text())
    truth = data.metrics()[0].annotations
    assert truth.crowd_index.tolist() == [image["crowdIndex"] for image in content["images"]]
    assert truth.ignored.tolist() == [entry["num_keypoints"] == 0 for entry in content["annotations"]]
    assert len(next(iter(data.val_dataloader()))["image"]) == sum(
        max(a["keypoints"][2::3]) > 0 for a in content["annotations"]
    )
