"""AP by crowding against CrowdPose's evaluation, and against pycocotools on the images of each level alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from coco_cases import by_pycocotools, columns, dicts, random_coco

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics import OKSMeanAveragePrecision
from lightning_pose_zoo.metrics.functional import average_precision
from lightning_pose_zoo.skeletons import get_skeleton

SIGMAS = get_skeleton("crowdpose14").sigmas
LEVELS = {"easy": lambda crowding: crowding < 0.2, "hard": lambda crowding: crowding >= 0.8}
LEVELS["medium"] = lambda crowding: 0.2 <= crowding < 0.8


def _with_crowd_index(content):
    """Return annotations as columns, with what CrowdPose's files say beside COCO's."""
    for annotation in content["annotations"]:
        annotation["area"] = 0.53 * annotation["bbox"][2] * annotation["bbox"][3]
    return replace(
        columns(content, 14),
        is_ignored=np.array([a["num_keypoints"] == 0 for a in content["annotations"]]),
        crowd_index=np.array([image["crowdIndex"] for image in content["images"]]),
    )


def _score(truth, results):
    points = np.array([r["keypoints"] for r in results], dtype=float).reshape(-1, 14, 3)[..., :2]
    images = np.array([r["image_id"] for r in results], dtype=np.int64)
    return average_precision(truth, images, points, np.array([r["score"] for r in results], dtype=float), SIGMAS)


@pytest.mark.parametrize(
    ("name", "folder"), [("crowdpose_seeded", "crowdpose_seeded"), ("crowdpose_xtcocoapi_4img", "crowdpose_xtcoco")]
)
def test_equals_crowdpose_s_evaluation(test_data, name, folder):
    oracles = test_data / "oracles"
    expected = json.loads((oracles / "expected.json").read_text())[name]["expected"]
    content, results = (json.loads((oracles / folder / f"{part}.json").read_text()) for part in ("gt", "results"))
    truth = _with_crowd_index(content)
    metric = OKSMeanAveragePrecision("crowdpose14", annotations=truth)
    metric.update(dicts(content, results, 14)[0])
    values = {key: float(value) for key, value in metric.compute().items()}
    functional = _score(truth, results)
    for key, wanted in expected.items():
        # Those by crowding are printed with four digits, the others in full.
        tolerance = 5.001e-5 if key in ("AP_easy", "AP_medium", "AP_hard") else 1e-12
        assert values[key] == pytest.approx(wanted, abs=tolerance)
        assert functional[key] == pytest.approx(wanted, abs=tolerance)


@pytest.mark.parametrize("seed", range(5000, 5012))
def test_each_level_equals_pycocotools_on_its_images_alone(seed):
    content, results = random_coco(seed, keypoints=14)
    rng = np.random.default_rng(seed)
    for image in content["images"]:
        image["crowdIndex"] = float(rng.choice([0, 0.1, 0.2, 0.5, 0.79, 0.8, 1, 3]))
    scores = _score(_with_crowd_index(content), results)
    for level, belongs in LEVELS.items():
        images = {image["id"] for image in content["images"] if belongs(image["crowdIndex"])}
        found = [result for result in results if result["image_id"] in images]
        part = content | {
            "images": [image for image in content["images"] if image["id"] in images],
            "annotations": [a for a in content["annotations"] if a["image_id"] in images],
        }
        people = any(not a["iscrowd"] and a["num_keypoints"] for a in part["annotations"])
        expected = by_pycocotools(part, found, SIGMAS)["AP"] if found else 0.0 if people else -1.0
        assert scores[f"AP_{level}"] == pytest.approx(expected, abs=1e-12)


def test_the_levels_of_a_set_without_them_are_unknown():
    content, results = random_coco(5000, keypoints=14)
    for image in content["images"]:
        image["crowdIndex"] = 0.5
    truth = _with_crowd_index(content)
    metric = OKSMeanAveragePrecision("crowdpose14", annotations=truth)
    metric.update(dicts(content, results, 14)[0])
    values = metric.compute()
    assert float(values["AP_medium"]) == float(values["AP"]) > 0
    assert math.isnan(values["AP_easy"])
    assert math.isnan(values["AP_hard"])
    assert "AP_easy" not in _score(replace(truth, crowd_index=None), results)
    unknown = _score(replace(truth, crowd_index=np.full(len(truth.image_ids), np.nan)), results)
    assert unknown["AP_medium"] == -1


def test_a_crowd_index_for_each_person_is_refused():
    truth = columns(random_coco(5000, keypoints=14)[0], 14)
    with pytest.raises(MetricError, match="crowd_index has the shape"):
        replace(truth, crowd_index=np.zeros(len(truth.person_ids) + 1))
