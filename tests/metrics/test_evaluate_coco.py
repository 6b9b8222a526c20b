"""``evaluate_coco`` against pycocotools, and what it refuses."""

from __future__ import annotations

import copy
import json

import pytest
from coco_cases import NAMES, by_pycocotools, random_coco

from lightning_pose_zoo.errors import DatasetError, MetricError, PoseZooError
from lightning_pose_zoo.metrics import evaluate_coco
from lightning_pose_zoo.metrics.coco_reading import read_coco_files
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
def test_crowdpose_s_numbers_follow_from_its_files(test_data, name, folder):
    oracles = test_data / "oracles"
    expected = json.loads((oracles / "expected.json").read_text())[name]["expected"]
    scores = evaluate_coco(oracles / folder / "gt.json", oracles / folder / "results.json")
    for key in ("AP", "AP50", "AP75", "AR", "AR50", "AR75"):
        assert scores[key] == pytest.approx(expected[key], abs=1e-12)
    for key in ("AP_easy", "AP_medium", "AP_hard"):  # the reference prints four digits
        assert scores[key] == pytest.approx(expected[key], abs=5.1e-5)


@pytest.mark.parametrize("name", ["coco_litehrnet", "coco_val2017_seeded"])
def test_hotcoco_gives_the_same(test_data, name):
    pytest.importorskip("hotcoco")
    files = [test_data / "oracles" / name / file for file in ("gt.json", "results.json")]
    assert evaluate_coco(*files, backend="hotcoco") == pytest.approx(evaluate_coco(*files), abs=1e-12)


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
        scores = evaluate_coco(*_write(folder, content, results))
    for annotation in content["annotations"]:
        annotation["area"] = 0.53 * annotation["bbox"][2] * annotation["bbox"][3]
    assert scores == pytest.approx(by_pycocotools(content, results, get_skeleton("coco17").sigmas), abs=1e-12)


def test_areas_of_0_are_scored_as_pycocotools_does(tmp_path):
    sigmas, compared = get_skeleton("coco17").sigmas, 0
    for seed in range(3100, 3110):
        content, results = random_coco(seed)
        for annotation in content["annotations"][::2]:
            annotation["area"] = 0
        exact = [a for a in content["annotations"][:4] if not a["iscrowd"]]  # only these can be found at all
        results += [
            {"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 0.35} for a in exact
        ]
        expected = by_pycocotools(content, results, sigmas)
        assert evaluate_coco(*_write(tmp_path, content, results), "coco17") == pytest.approx(expected, abs=1e-12)
        compared += 0 < expected["AP"] < 1
    assert compared > 5


def test_nobody_scores_minus_1(files):
    folder, content, _ = files
    content["annotations"] = []
    assert set(evaluate_coco(*_write(folder, content, [])).values()) == {-1.0}
    del content["categories"]
    assert set(evaluate_coco(*_write(folder, content, []), "coco17").values()) == {-1.0}


def test_results_of_another_split_are_refused_in_one_line(files):
    folder, content, results = files
    for result in results:
        result["image_id"] += 10_000
    with pytest.raises(MetricError, match=r"1 problem\n.*no image_id of the results is in the annotations"):
        evaluate_coco(*_write(folder, content, results))


def test_the_origin_of_the_sigmas_is_told(files):
    folder, content, results = files

    def origin(skeleton=None):
        return read_coco_files(*_write(folder, content, results), skeleton).sigmas_from

    assert origin() == "skeleton 'coco17', by the names of the category's keypoints"
    assert origin("coco17") == "skeleton 'coco17', as given"
    content["categories"][0]["keypoints"][:2] = ["Nose", "thing"]
    assert "the body parts in the names" in origin()
    assert "1 names tell nothing and have 0.05" in origin()
    content["categories"][0]["keypoints"] = [f"part_{n}" for n in range(17)]
    with pytest.warns(UserWarning, match=r"0\.05 is taken for all"):
        assert origin() == "a uniform default of 0.05"


def test_unknown_backends_are_refused(files):
    folder, content, results = files
    with pytest.raises(MetricError, match="numpy and hotcoco"):
        evaluate_coco(*_write(folder, content, results), backend="cupy")


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
    elif what == "result with NaN":
        result["keypoints"][3] = float("nan")
    elif what == "result with a score of NaN":
        result["score"] = float("nan")
    elif what == "result of 16 keypoints":
        result["keypoints"] = result["keypoints"][:48]
    elif what == "category without an id":
        del content["categories"][0]["id"]
    elif what == "crowd index with a text":
        content["images"][0]["crowdIndex"] = "high"
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
        ("category without an id", DatasetError, "truth.json", "category 0 has no id"),
        ("crowd index with a text", DatasetError, "truth.json", "crowdIndex that is no number"),
        ("result with NaN", MetricError, "results.json", "result 2: keypoints is NaN or infinite"),
        ("result with a score of NaN", MetricError, "results.json", "result 2: score is NaN or infinite"),
        ("result of 16 keypoints", MetricError, "results.json", "result 2 has keypoints that are no 51 numbers"),
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
