"""``evaluate_coco`` against pycocotools, and what it refuses."""

from __future__ import annotations

import copy
import json

import pytest
from coco_cases import NAMES, by_pycocotools, random_coco

from lightning_pose_zoo.errors import DatasetError, MetricError, PoseZooError
from lightning_pose_zoo.metrics import evaluate_coco
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton


def _write(folder, content, results):
    truth, found = folder / "truth.json", folder / "results.json"
    truth.write_text(json.dumps(content))
    found.write_text(json.dumps(results))
    return truth, found


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("coco_litehrnet", "coco_litehrnet"), ("coco_xtcocoapi_4img", "coco_xtcoco"),
        ("coco_val2017_seeded", "coco_val2017_seeded"),
    ],
)  # fmt: skip
def test_reproduces_the_references(test_data, name, folder):
    oracles = test_data / "oracles"
    expected = json.loads((oracles / "expected.json").read_text())[name]["expected"]
    scores = evaluate_coco(oracles / folder / "gt.json", oracles / folder / "results.json")
    assert list(scores) == list(NAMES)
    for key, wanted in expected.items():
        assert scores[key.replace("m", "_M").replace("l", "_L")] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.filterwarnings("ignore:.*no area")
@pytest.mark.filterwarnings("ignore:.*num_keypoints contradicts")
@pytest.mark.parametrize(
    ("name", "folder"), [("crowdpose_seeded", "crowdpose_seeded"), ("crowdpose_xtcocoapi_4img", "crowdpose_xtcoco")]
)
def test_crowdpose_s_total_follows_from_the_same_protocol(test_data, name, folder):
    oracles = test_data / "oracles"
    expected = json.loads((oracles / "expected.json").read_text())[name]["expected"]
    scores = evaluate_coco(oracles / folder / "gt.json", oracles / folder / "results.json")
    for key in ("AP", "AP50", "AP75", "AR", "AR50", "AR75"):
        assert scores[key] == pytest.approx(expected[key], abs=1e-12)


@pytest.mark.parametrize("categories", [1, 3])
@pytest.mark.parametrize("with_boxes", [False, True])
def test_equals_pycocotools_on_random_files(tmp_path, categories, with_boxes):
    skeleton = Skeleton.from_names("random", [f"part_{n}" for n in range(17)], sigmas=get_skeleton("coco17").sigmas)
    compared = 0
    for seed in range(3000, 3012):
        content, results = random_coco(seed, categories=categories)
        if not results:
            continue
        if with_boxes:  # then areas come from the boxes, which changes what counts as medium
            for number, result in enumerate(results):
                result["bbox"] = [0.0, 0.0, 10.0 + 20 * (number % 6), 100.0]
        paths = _write(tmp_path, content, results)
        expected = by_pycocotools(content, results, skeleton.sigmas)
        assert evaluate_coco(*paths, skeleton) == pytest.approx(expected, abs=1e-12)
        compared += 1
    assert compared > 5


@pytest.fixture
def files(tmp_path):
    content, results = random_coco(3)
    assert len(content["annotations"]) > 3
    assert len(results) > 3
    content["categories"][0]["keypoints"] = list(get_skeleton("coco17").names)
    return tmp_path, content, results


def test_the_skeleton_comes_from_the_category_and_its_limbs_do_not_matter(files):
    folder, content, results = files
    expected = by_pycocotools(content, results, get_skeleton("coco17").sigmas)
    content["categories"][0]["skeleton"] = [[99, 1]]
    assert evaluate_coco(*_write(folder, content, results)) == pytest.approx(expected, abs=1e-12)
    del content["categories"][0]["keypoints"]
    with pytest.raises(DatasetError, match="say which skeleton"):
        evaluate_coco(*_write(folder, content, results))
    assert evaluate_coco(*_write(folder, content, results), "coco17") == pytest.approx(expected, abs=1e-12)


def test_no_results_score_0(files):
    folder, content, _ = files
    scores = evaluate_coco(*_write(folder, content, []))
    assert scores["AP"] == 0
    assert scores["AR"] == 0


def test_an_annotation_with_the_id_0_counts(files):
    folder, content, results = files
    expected = evaluate_coco(*_write(folder, content, results))
    content["annotations"][0]["id"] = 0
    assert evaluate_coco(*_write(folder, content, results)) == expected


def test_missing_areas_are_said_aloud(files):
    folder, content, results = files
    del content["annotations"][1]["area"]
    with pytest.warns(UserWarning, match="1 annotations have no area"):
        evaluate_coco(*_write(folder, content, results))


def _spoil(content, results, what):
    annotation, result = content["annotations"][1], results[2]
    if what == "annotation without keypoints":
        del annotation["keypoints"]
    elif what == "annotation of 16 keypoints":
        annotation["keypoints"] = annotation["keypoints"][:48]
    elif what == "annotation with NaN":
        annotation["keypoints"][4] = float("nan")
    elif what == "annotation of no image":
        annotation["image_id"] = 12345
    elif what == "annotation twice":
        annotation["id"] = content["annotations"][0]["id"]
    elif what == "image twice":
        content["images"].append(content["images"][0])
    elif what == "annotation with a text":
        annotation["bbox"] = ["1", 2, 3, 4]
    elif what == "annotation with a huge id":
        annotation["id"] = 10**400
    elif what == "no images":
        del content["images"]
    elif what == "result with infinity":
        result["keypoints"][7] = float("inf")
    elif what == "result of no image":
        result["image_id"] = 12345
    elif what == "result of no category":
        result["category_id"] = 7
    elif what == "result without score":
        del result["score"]
    elif what == "result with a text for an id":
        result["image_id"] = "5"
    elif what == "result that is a list":
        results[2] = [1, 2]


@pytest.mark.parametrize(
    ("what", "error", "file", "message"),
    [
        ("annotation without keypoints", DatasetError, "truth.json", "has no keypoints"),
        ("annotation of 16 keypoints", DatasetError, "truth.json", "no 51 numbers"),
        ("annotation with NaN", DatasetError, "truth.json", "keypoints is NaN or infinite"),
        ("annotation of no image", DatasetError, "truth.json", "image 12345 is not listed"),
        ("annotation twice", DatasetError, "truth.json", "2 annotations have the id"),
        ("image twice", DatasetError, "truth.json", "2 images have the id"),
        ("annotation with a text", DatasetError, "truth.json", "bbox that are not all numbers"),
        ("annotation with a huge id", DatasetError, "truth.json", "which is no id"),
        ("no images", DatasetError, "truth.json", "no COCO annotation file"),
        ("result with infinity", MetricError, "results.json", "result 2: keypoints is NaN or infinite"),
        ("result of no image", MetricError, "results.json", "result 2: image 12345 is not in the annotations"),
        ("result of no category", MetricError, "results.json", "result 2: category 7 is not in the annotations"),
        ("result without score", MetricError, "results.json", "result 2 has no score"),
        ("result with a text for an id", MetricError, "results.json", "result 2 has the image_id '5'"),
        ("result that is a list", MetricError, "results.json", "result 2 is no object"),
    ],
)
def test_damaged_files_are_refused_by_name_and_id(files, what, error, file, message):
    folder, content, results = copy.deepcopy(files)
    _spoil(content, results, what)
    truth, found = folder / "truth.json", folder / "results.json"
    truth.write_text(json.dumps(content))
    found.write_text(json.dumps(results))
    with pytest.raises(error, match=message) as raised:
        evaluate_coco(truth, found)
    assert file in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "nothing", "3", '{"images": 1, "annotations": 2}'])
def test_files_that_are_no_coco_files_are_refused(files, text):
    folder, content, results = files
    truth, found = _write(folder, content, results)
    truth.write_text(text)
    with pytest.raises(DatasetError, match=r"truth\.json"):
        evaluate_coco(truth, found)
    truth.write_text(json.dumps(content))
    found.write_text(text)
    with pytest.raises(MetricError, match=r"results\.json"):
        evaluate_coco(truth, found)
    with pytest.raises(PoseZooError, match="does not exist"):
        evaluate_coco(folder / "absent.json", found)
