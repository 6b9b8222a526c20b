"""The hotcoco backend against pycocotools and our own evaluation, and what it refuses before hotcoco scores it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from coco_cases import NAMES, by_pycocotools, random_coco

from lightning_pose_zoo.errors import DatasetError, MetricError, PoseZooError
from lightning_pose_zoo.metrics import evaluate_coco
from lightning_pose_zoo.metrics.hotcoco_backend import score_files
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton

SIGMAS = get_skeleton("coco17").sigmas


@pytest.fixture
def needs_hotcoco():
    pytest.importorskip("hotcoco")


def _write(folder, content, results):
    truth, found = folder / "truth.json", folder / "results.json"
    truth.write_text(json.dumps(content))
    found.write_text(json.dumps(results))
    return truth, found


@pytest.mark.usefixtures("needs_hotcoco")
@pytest.mark.parametrize("folder", ["coco_litehrnet", "coco_xtcoco", "coco_val2017_seeded"])
def test_equals_our_own_evaluation_on_the_references(test_data, folder):
    files = (test_data / "oracles" / folder / "gt.json", test_data / "oracles" / folder / "results.json")
    scores = score_files(*files, SIGMAS)
    assert list(scores) == list(NAMES)
    assert scores == pytest.approx(evaluate_coco(*files), abs=1e-12)


@pytest.mark.usefixtures("needs_hotcoco")
@pytest.mark.parametrize("keypoints", [1, 17, 40])
@pytest.mark.parametrize("categories", [1, 3])
def test_equals_pycocotools_on_random_files(tmp_path, keypoints, categories):
    sigmas = tuple(np.random.default_rng(keypoints).uniform(0.02, 0.2, keypoints))
    compared = 0
    for seed in range(4000, 4010):
        content, results = random_coco(seed, keypoints, categories)
        if results:
            for number, result in enumerate(results if seed % 2 else ()):  # their areas decide about medium and large
                result["bbox"] = [0.0, 0.0, 10.0 + 20 * (number % 6), 100.0]
            expected = by_pycocotools(content, results, sigmas)
            assert score_files(*_write(tmp_path, content, results), sigmas) == pytest.approx(expected, abs=1e-12)
            compared += 0 < expected["AP"] < 1
    assert compared > 3


@pytest.mark.usefixtures("needs_hotcoco")
def test_what_pycocotools_gets_wrong_equals_our_own_evaluation(tmp_path):
    content, results = random_coco(3)
    content["annotations"][0]["id"] = 0
    skeleton = Skeleton.from_names("random", [f"part_{n}" for n in range(17)], sigmas=SIGMAS)
    for found in (results, []):
        files = _write(tmp_path, content, found)
        assert score_files(*files, SIGMAS) == pytest.approx(evaluate_coco(*files, skeleton), abs=1e-12)
    content["annotations"] = []
    files = _write(tmp_path, content, results)
    assert score_files(*files, SIGMAS) == evaluate_coco(*files, skeleton) == dict.fromkeys(NAMES, -1.0)


def _spoil(content, results, what):
    annotation, result = content["annotations"][1], results[2]
    if what == "no area":
        del annotation["area"]
    elif what == "an area of null":
        annotation["area"] = None
    elif what == "no box":
        del annotation["bbox"]
    elif what == "16 keypoints":
        annotation["keypoints"] = annotation["keypoints"][:48]
    elif what == "an unknown image":
        annotation["image_id"] = 12345
    elif what == "an annotation twice":
        annotation["id"] = content["annotations"][0]["id"]
    elif what == "an image twice":
        content["images"].append(content["images"][0])
    elif what == "no category":
        content["categories"] = []
    elif what == "a text for an id":
        annotation["id"] = "five"
    elif what == "NaN":
        result["keypoints"][4] = float("nan")
    elif what == "a result of 16 keypoints":
        result["keypoints"] = result["keypoints"][:48]
    elif what == "a result without a score":
        del result["score"]
    elif what == "a result of an unknown image":
        result["image_id"] = 12345
    elif what == "a result of an unknown category":
        result["category_id"] = 12345
    elif what == "some boxes":
        result["bbox"] = [0, 0, 5, 5]
    elif what == "results without keypoints":
        for one in results:
            del one["keypoints"]


@pytest.mark.usefixtures("needs_hotcoco")
@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("no area", DatasetError, "has no area"),
        ("an area of null", DatasetError, "has no area"),
        ("no box", DatasetError, "has no bbox"),
        ("16 keypoints", DatasetError, "has 48 numbers instead of 51"),
        ("an unknown image", DatasetError, "image 12345 is not listed"),
        ("an annotation twice", DatasetError, "duplicate annotation id"),
        ("an image twice", DatasetError, "1 images have the id of another one"),
        ("no category", DatasetError, "no categories"),
        ("a text for an id", DatasetError, "cannot be read by hotcoco"),
        ("NaN", MetricError, "cannot be read by hotcoco"),
        ("a result of 16 keypoints", MetricError, "1 lists of keypoints are not of 51 numbers"),
        ("a result without a score", MetricError, r"results with keypoints, but \d+ with score"),
        ("a result of an unknown image", MetricError, "image_id 12345"),
        ("a result of an unknown category", MetricError, "category_id 12345"),
        ("some boxes", MetricError, "but 1 with bbox"),
        ("results without keypoints", MetricError, "0 results with keypoints"),
    ],
)
def test_what_hotcoco_would_score_silently_is_refused(tmp_path, what, error, message):
    content, results = random_coco(3)
    _spoil(content, results, what)
    files = _write(tmp_path, content, results)
    with pytest.raises(error, match=message) as raised:
        score_files(*files, SIGMAS)
    assert str(files[0] if error is DatasetError else files[1]) in str(raised.value)


@pytest.mark.usefixtures("needs_hotcoco")
@pytest.mark.parametrize("text", ["", "{", "3", "{}", '["a"]'])
def test_files_of_another_form_are_refused(tmp_path, text):
    content, results = random_coco(3)
    truth, found = _write(tmp_path, content, results)
    found.write_text(text)
    with pytest.raises(MetricError, match=r"results\.json"):
        score_files(truth, found, SIGMAS)
    found.write_text(json.dumps(results))
    truth.write_text(text)
    with pytest.raises(DatasetError, match=r"truth\.json"):
        score_files(truth, found, SIGMAS)
    with pytest.raises(PoseZooError, match="does not exist"):
        score_files(tmp_path / "absent.json", found, SIGMAS)


def test_the_command_to_install_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(MetricError, match="pip install hotcoco"):
        score_files(*_write(tmp_path, *random_coco(3)), SIGMAS)
