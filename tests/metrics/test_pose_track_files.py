"""evaluate_posetrack: against poseval's numbers, on small files made here, and with damaged ones."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import torch

from lightning_pose_zoo.errors import DatasetError, MetricError, PoseZooError
from lightning_pose_zoo.metrics.functional.pose_track import POSETRACK_KEYPOINTS
from lightning_pose_zoo.metrics.pose_track import MOTA, PoseTrackAP
from lightning_pose_zoo.metrics.pose_track_files import evaluate_posetrack
from lightning_pose_zoo.structures import Poses

NAMES = [
    "nose", "head_bottom", "head_top", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
]  # fmt: skip


def test_the_numbers_are_those_of_poseval(test_data):
    folder = test_data / "oracles" / "posetrack_seeded"
    expected = json.loads((folder.parent / "expected.json").read_text())["posetrack_seeded"]["expected"]
    scores = evaluate_posetrack(folder / "gt", folder / "pred")
    assert scores.keys() == expected.keys()
    for name, wanted in expected.items():
        # Equal scores stand in an order that poseval leaves to the processor and numpy: other versions of numpy give up
        # to 0.05 more or less there.
        tolerance = {"abs": 0.03} if name == "AP" else {"rel": 1e-9}
        assert scores[name] == pytest.approx(wanted, **tolerance), name


# By poseval with numpy 2.4, after 1e-7 times their running number was added to the scores: then none are equal.
AP_WITHOUT_TIES = (
    57.71277748280297, 53.9991096685086, 74.1519432749631, 73.46611410146929, 60.73376974633342, 61.800183009872036,
    62.87205115445664, 82.90911224132262, 82.18006407814516, 79.42235873810903, 56.07444460785524, 65.78937483634644,
    79.78837724470348, 75.70444021646006, 85.65153942466299, 70.15037732173407,
)  # fmt: skip


def test_ap_is_that_of_poseval_where_no_scores_are_equal(test_data, tmp_path):
    folder, running = test_data / "oracles" / "posetrack_seeded", 0
    for path in sorted((folder / "pred").glob("*.json")):
        content = json.loads(path.read_text())
        for person in content["annotations"]:
            person["scores"] = [score + 1e-7 * (running + k) for k, score in enumerate(person["scores"])]
            running += 17
        (tmp_path / path.name).write_text(json.dumps(content))
    scores = evaluate_posetrack(folder / "gt", tmp_path)["AP"]
    assert list(scores.values()) == pytest.approx(list(AP_WITHOUT_TIES), rel=1e-9)


def test_the_classes_give_the_same_as_the_files(test_data):
    folder = test_data / "oracles" / "posetrack_seeded"
    for convention in ("poseval", "clear_mot"):
        wanted = evaluate_posetrack(folder / "gt", folder / "pred", convention)
        ap, mota = PoseTrackAP(), MOTA(convention=convention)
        for path in sorted((folder / "gt").glob("*.json"), reverse=True):
            truth, found = (json.loads((folder / kind / path.name).read_text()) for kind in ("gt", "pred"))
            for image in reversed(truth["images"]):
                update = _update(image, truth["annotations"], found["annotations"])
                ap.update(*update)
                mota.update(*update)
        scores = {name: 100 * value.item() for name, value in {**ap.compute(), **mota.compute()}.items()}
        for name, of_keypoints in wanted.items():
            own = {part: scores[f"{name}/{part}"] for part in POSETRACK_KEYPOINTS} | {"total": scores[name]}
            assert own == pytest.approx(of_keypoints, rel=1e-12), (convention, name)


def _update(image, annotations, predictions):
    people, poses = ([a for a in some if a["image_id"] == image["id"]] for some in (annotations, predictions))
    keypoints = torch.tensor([pose["keypoints"] for pose in poses], dtype=torch.float64).reshape(-1, 17, 3)
    scores = torch.tensor([pose["scores"] for pose in poses], dtype=torch.float64).reshape(-1, 17)
    heads = torch.tensor([a["bbox_head"] for a in people], dtype=torch.float64).reshape(-1, 4)
    regions = zip(image.get("ignore_regions_x", []), image.get("ignore_regions_y", []), strict=True)
    count = len(poses)
    return Poses(
        keypoints[..., :2], torch.where((keypoints != 0).any(dim=2), scores, 0.0), torch.ones(count),
        torch.zeros(count, 4), torch.full((count,), image["id"]),
        track_ids=torch.tensor([pose["track_id"] for pose in poses], dtype=torch.int64),
    ), [{
        "image_id": image["id"], "video_id": image["vid_id"], "frame_id": image["frame_id"],
        "keypoints": torch.tensor([a["keypoints"] for a in people], dtype=torch.float64).reshape(-1, 17, 3),
        "head_boxes": torch.cat([heads[:, :2], heads[:, :2] + heads[:, 2:]], dim=1),
        "track_ids": torch.tensor([a["track_id"] for a in people], dtype=torch.int64),
        "ignore_regions": [np.stack(polygon, axis=1) for polygon in regions],
    }]  # fmt: skip


def _contents(videos=2):
    """Return annotations and predictions of small videos; the second person changes the track in the last frame."""
    rng, truths, results = np.random.default_rng(0), {}, {}
    for video in range(videos):
        name = f"00000{video}_test.json"
        images = [{"id": 100 * video + n, "vid_id": f"00000{video}"} for n in range(4)]
        people, poses = [], []
        for image in images:
            for track in range(2):
                points = rng.uniform(0, 90, (17, 2)) + 200 * track
                person = {"id": len(people), "image_id": image["id"], "track_id": track}
                triples = np.concatenate([points, np.ones((17, 1))], axis=1).ravel().tolist()
                people.append(person | {"keypoints": triples, "bbox_head": [0, 0, 30, 40], "scores": []})
                changed = 9 if track and image["id"] % 100 == 3 else track
                poses.append(
                    person | {"keypoints": list(triples), "scores": rng.random(17).tolist(), "track_id": changed}
                )
        categories = [{"id": 1, "name": "person", "keypoints": NAMES}]
        truths[name] = {"images": images, "annotations": people, "categories": categories}
        results[name] = {"images": images, "annotations": poses, "categories": categories}
    return truths, results


def _written(folder, truths, results):
    for kind, contents in (("gt", truths), ("pred", results)):
        (folder / kind).mkdir(exist_ok=True)
        for name, content in contents.items():
            (folder / kind / name).write_text(json.dumps(content))
    return folder / "gt", folder / "pred"


def test_the_last_frame_counts_only_by_the_definition(tmp_path):
    places = _written(tmp_path, *_contents())
    assert set(evaluate_posetrack(*places)["MOTA"].values()) == {100}
    by_definition = evaluate_posetrack(*places, convention="clear_mot")
    assert by_definition["MOTA"]["total"] == pytest.approx(100 * (1 - 2 / 16))
    assert evaluate_posetrack(*places)["AP"]["total"] == pytest.approx(100)


def test_folders_lists_and_one_file_of_all_videos_are_the_same(tmp_path):
    truths, results = _contents()
    gt, pred = _written(tmp_path, truths, results)
    wanted = evaluate_posetrack(gt, pred, "clear_mot")
    assert evaluate_posetrack(sorted(gt.iterdir()), sorted(map(str, pred.iterdir())), "clear_mot") == wanted
    merged = []
    for contents in (truths, results):
        parts = list(contents.values())
        # The frames of both videos alternate.
        images = [image for pair in zip(*(part["images"] for part in parts), strict=True) for image in pair]
        people = [a for part in reversed(parts) for a in part["annotations"]]
        merged.append({"images": images, "annotations": people, "categories": parts[0]["categories"]})
    for name, content in zip(("truth.json", "found.json"), merged, strict=True):
        (tmp_path / name).write_text(json.dumps(content))
    assert evaluate_posetrack(tmp_path / "truth.json", tmp_path / "found.json", "clear_mot") == wanted


def test_predictions_need_no_images_and_may_order_their_keypoints_as_they_like(tmp_path):
    truths, results = _contents(1)
    wanted = evaluate_posetrack(*_written(tmp_path, truths, results))
    (content,) = results.values()
    del content["images"]
    order = [NAMES.index(name) for name in reversed(NAMES) if "ear" not in name]
    content["categories"] = [{"keypoints": [NAMES[k] for k in order]}]
    for pose in content["annotations"]:
        pose["keypoints"] = np.array(pose["keypoints"]).reshape(17, 3)[order].ravel().tolist()
        pose["scores"] = [pose["scores"][k] for k in order]
    assert evaluate_posetrack(*_written(tmp_path, truths, results)) == wanted


def test_nobody_predicted_scores_0(tmp_path):
    truths, results = _contents()
    for content in results.values():
        content["annotations"] = []
    scores = evaluate_posetrack(*_written(tmp_path, truths, results), "clear_mot")
    assert (scores["AP"]["total"], scores["MOTA"]["total"], scores["recall"]["total"]) == (0, 0, 0)
    assert math.isnan(scores["mot_precision"]["total"])
    assert evaluate_posetrack(*_written(tmp_path, truths, results))["MOTA"]["total"] == -100


def test_people_without_a_head_are_missed_and_said_aloud(tmp_path):
    truths, results = _contents(1)
    truths["000000_test.json"]["annotations"][0]["bbox_head"] = [5, 5, 0, 0]
    with pytest.warns(UserWarning, match="1 annotated people have a bbox_head of no size"):
        scores = evaluate_posetrack(*_written(tmp_path, truths, results), "clear_mot")
    assert scores["recall"]["total"] == pytest.approx(100 * 7 / 8)


def test_results_of_other_videos_are_said_aloud(tmp_path):
    truths, results = _contents()
    del truths["000001_test.json"]
    with pytest.warns(UserWarning, match="1 files of results have no annotations"):
        evaluate_posetrack(*_written(tmp_path, truths, results))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found["annotations"][2]["keypoints"].__setitem__(4, math.nan), "prediction 2: keypoints is NaN"),
        (lambda found: found["annotations"][2]["scores"].__setitem__(4, math.inf), "prediction 2: scores is NaN"),
        (lambda found: found["annotations"][2].update(scores=[]), "prediction 2 has scores that are no 17"),
        (lambda found: found["annotations"][2].pop("scores"), "prediction 2 has no scores"),
        (lambda found: found["annotations"][2].pop("track_id"), "prediction 2 has no track_id"),
        (lambda found: found["annotations"][2].update(image_id=5000), "image 5000 is not in the annotations"),
        (lambda found: found["annotations"][1].update(track_id=0), "image 0: several predictions have the track_id 0"),
        (lambda found: found.pop("annotations"), "no PoseTrack18 file"),
        (lambda found: found.update(categories=[{"keypoints": NAMES[1:]}]), "has no keypoints nose"),
    ],
)
def test_damaged_results_are_refused_by_name_and_id(tmp_path, change, message):
    truths, results = _contents(1)
    change(results["000000_test.json"])
    with pytest.raises(MetricError, match=message) as raised:
        evaluate_posetrack(*_written(tmp_path, truths, results))
    assert str(tmp_path / "pred" / "000000_test.json") in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda truth: truth["annotations"][2].pop("bbox_head"), "annotation 2 has no bbox_head"),
        (lambda truth: truth["annotations"][2].update(image_id=5000), "image 5000 is not in the annotations"),
        (lambda truth: truth["images"].append(truth["images"][0]), "2 images have the id 0"),
        (lambda truth: truth.pop("categories"), "no category names its keypoints"),
        (lambda truth: truth.update(annolist=[]), "layout of PoseTrack17"),
        (lambda truth: truth["images"][1].update(ignore_regions_x=[[1, 2, 3]]), "of image 1 are no polygons"),
        (lambda truth: truth["images"][1].update(ignore_regions_x=[[1, 2]], ignore_regions_y=[[1, 2]]), "no polygons"),
    ],
)
def test_damaged_annotations_are_refused_by_name_and_id(tmp_path, change, message):
    truths, results = _contents(1)
    change(truths["000000_test.json"])
    with pytest.raises(DatasetError, match=message) as raised:
        evaluate_posetrack(*_written(tmp_path, truths, results))
    assert str(tmp_path / "gt" / "000000_test.json") in str(raised.value)


def test_missing_files_are_refused(tmp_path):
    truths, results = _contents()
    gt, pred = _written(tmp_path, truths, results)
    (pred / "000001_test.json").unlink()
    with pytest.raises(MetricError, match=r"no results for '000001_test\.json'"):
        evaluate_posetrack(gt, pred)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"holds no \.json files"):
        evaluate_posetrack(tmp_path / "empty", pred)
    with pytest.raises(PoseZooError, match="does not exist"):
        evaluate_posetrack(tmp_path / "absent.json", pred / "000000_test.json")
    with pytest.raises(MetricError, match="know poseval and clear_mot"):
        evaluate_posetrack(gt / "000000_test.json", pred / "000000_test.json", convention="mota")


def test_nothing_is_said_about_sound_files(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate_posetrack(*_written(tmp_path, *_contents()))
