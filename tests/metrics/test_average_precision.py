"""OKS average precision against pycocotools, through every way in."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from coco_cases import NAMES, by_pycocotools, columns, dicts, random_coco
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics import GroundTruth, OKSMeanAveragePrecision
from lightning_pose_zoo.metrics.functional import average_precision
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton
from lightning_pose_zoo.structures import Poses

SIGMAS = get_skeleton("coco17").sigmas
FIVE = Skeleton.from_names("five", [f"part_{n}" for n in range(5)], sigmas=(0.03, 0.05, 0.08, 0.1, 0.2))


def _of_results(results, keypoints=17):
    points = np.array([r["keypoints"] for r in results], dtype=float).reshape(-1, keypoints, 3)
    images = np.array([r["image_id"] for r in results], dtype=np.int64)
    return images, points[..., :2], np.array([r["score"] for r in results], dtype=float)


def _same(scores, expected):
    """Compare with pycocotools, whose -1 is NaN in the metric."""
    assert set(scores) == set(NAMES)
    for name in NAMES:
        value = float(scores[name])
        wanted = expected[name]
        assert (math.isnan(value) or value == -1) if wanted == -1 else abs(value - wanted) <= 1e-12, (
            name,
            value,
            wanted,
        )


def test_the_random_cases_hold_everything_special():
    contents, results = zip(*(random_coco(seed) for seed in range(150)), strict=True)
    people = [a for content in contents for a in content["annotations"]]
    assert sum(a["iscrowd"] for a in people) > 50
    assert sum(not a["iscrowd"] and a["num_keypoints"] == 0 for a in people) > 50
    assert sum(a["area"] in (1024, 9216) for a in people) > 50
    per_image = [Counter(result["image_id"] for result in found) for found in results]
    assert sum(count > 20 for counter in per_image for count in counter.values()) > 20
    assert sum(len({r["score"] for r in found}) < len(found) for found in results) > 50


@pytest.mark.parametrize("first", range(0, 150, 25))
def test_equals_pycocotools_on_random_sets(first):
    compared = 0
    for seed in range(first, first + 25):
        content, results = random_coco(seed)
        if not results:  # pycocotools fails on these
            continue
        expected = by_pycocotools(content, results, SIGMAS)
        assert {**expected, **average_precision(columns(content), *_of_results(results), SIGMAS)} == pytest.approx(
            expected, abs=1e-12
        )
        compared += 0 < expected["AP"] < 1
    assert compared > 10


@pytest.mark.parametrize("seed", range(1000, 1030))
def test_equals_pycocotools_with_other_keypoints(seed):
    content, results = random_coco(seed, keypoints=5)
    if results:
        scores = average_precision(columns(content, 5), *_of_results(results, 5), FIVE.sigmas)
        assert scores == pytest.approx(by_pycocotools(content, results, FIVE.sigmas), abs=1e-12)


@settings(
    max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    seed=st.integers(0, 2**32 - 1),
    keypoints=st.sampled_from([17, 14, 16, 21, 42, 68, 133, 5, 3, 2, 1]),
    with_areas=st.booleans(),
    decimals=st.integers(0, 3),
    sigma=st.floats(0.01, 0.3),
)
def test_equals_pycocotools_whatever_the_set(seed, keypoints, with_areas, decimals, sigma):
    everything = (seed, keypoints, with_areas, decimals)  # because many examples have a seed of 0
    content, results = random_coco(everything, keypoints)
    assume(results)  # pycocotools fails without any
    rng = np.random.default_rng(everything)
    sigmas = tuple(rng.uniform(0.5, 1.5, keypoints) * sigma)
    for result in results:  # from two different scores to hardly a tie
        result["score"] = round(float(rng.random()), decimals)
    preds, targets = dicts(content, results, keypoints)
    if not with_areas:
        for annotation in content["annotations"]:
            annotation["area"] = 0.53 * annotation["bbox"][2] * annotation["bbox"][3]
        for target in targets:
            del target["area"]
    expected = by_pycocotools(content, results, sigmas)
    metric = OKSMeanAveragePrecision(Skeleton.from_names("any", [f"part_{n}" for n in range(keypoints)]), sigmas)
    metric.update(preds, targets)
    _same(metric.compute(), expected)
    scores = average_precision(columns(content, keypoints), *_of_results(results, keypoints), sigmas)
    assert scores == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(2000, 2020))
def test_the_metric_equals_pycocotools_from_lists_of_dicts(seed):
    content, results = random_coco(seed)
    preds, targets = dicts(content, results)
    if not results:
        pytest.skip("pycocotools fails without results")
    expected = by_pycocotools(content, results, SIGMAS)
    metric = OKSMeanAveragePrecision()
    for start in range(0, len(preds), 2):
        metric.update(preds[start : start + 2], targets[start : start + 2])
    _same(metric.compute(), expected)


def _as_poses(preds, ids):
    scores = torch.cat([one["scores"] for one in preds])
    keypoints = torch.cat([one["keypoints"] for one in preds])
    images = torch.repeat_interleave(torch.as_tensor(ids), torch.tensor([len(one["scores"]) for one in preds]))
    count = len(scores)
    return Poses(keypoints[..., :2], torch.ones(count, keypoints.shape[1]), scores, torch.zeros(count, 4), images)


@pytest.mark.parametrize("seed", range(2000, 2010))
@pytest.mark.parametrize("by_row", [False, True])
def test_the_metric_equals_pycocotools_from_poses(seed, by_row):
    content, results = random_coco(seed)
    if not results:
        pytest.skip("pycocotools fails without results")
    # Without ids images keep their order, which decides between ties; so let it be that of the ids.
    content["images"].sort(key=lambda image: image["id"])
    preds, targets = dicts(content, results)
    ids = list(range(len(preds))) if by_row else [one["image_id"] for one in preds]
    for target in targets if by_row else ():
        del target["image_id"]
    metric = OKSMeanAveragePrecision()
    metric.update(_as_poses(preds, ids), targets)
    _same(metric.compute(), by_pycocotools(content, results, SIGMAS))


def _bottom_up_batch(images):
    """Return a batch of whole pictures, in which the metric is not to look for persons."""
    pictures = torch.zeros(len(images), 3, 2, 2)
    return {"image": pictures, "image_id": torch.tensor(images), "image_index": torch.zeros(0, dtype=torch.int64)}


@pytest.mark.parametrize("seed", range(2000, 2012))
def test_update_batch_with_annotations_equals_pycocotools(seed):
    content, results = random_coco(seed)
    if not results:
        pytest.skip("pycocotools fails without results")
    preds, _ = dicts(content, results)
    images = [one["image_id"] for one in preds]
    metric = OKSMeanAveragePrecision(annotations=columns(content))
    for start in range(0, len(images), 3):
        metric.update_batch(
            _as_poses(preds[start : start + 3], images[start : start + 3]), _bottom_up_batch(images[start : start + 3])
        )
    _same(metric.compute(), by_pycocotools(content, results, SIGMAS))
    # An image that a padding sampler brings again changes nothing.
    metric.update_batch(_as_poses(preds[:1], images[:1]), _bottom_up_batch(images[:1]))
    _same(metric.compute(), by_pycocotools(content, results, SIGMAS))


@pytest.mark.parametrize("name", ["coco_litehrnet", "coco_xtcocoapi_4img", "coco_val2017_seeded"])
def test_the_metric_reproduces_the_references(test_data, name):
    oracle = json.loads((test_data / "oracles" / "expected.json").read_text())[name]
    content, results = (json.loads((test_data / "oracles" / file).read_text()) for file in oracle["files"])
    expected = {key.replace("m", "_M").replace("l", "_L"): value for key, value in oracle["expected"].items()}
    metric = OKSMeanAveragePrecision()
    metric.update(*dicts(content, results))
    _same(metric.compute(), expected)


def _top_down_batch(content, persons):
    """Crops of some annotated persons, at the original's scale."""
    rows = [content["annotations"][n] for n in persons]
    points = torch.tensor([a["keypoints"] for a in rows], dtype=torch.float64).reshape(-1, 17, 3)
    boxes = torch.tensor([a["bbox"] for a in rows], dtype=torch.float64)
    boxes[:, 2:] += boxes[:, :2]
    return {
        "image": torch.zeros(len(rows), 3, 2, 2),
        "original_keypoints": points[..., :2], "keypoints": points[..., :2] / 4, "visibility": points[..., 2].byte(),
        "original_box": boxes, "area": torch.tensor([a["area"] for a in rows], dtype=torch.float64),
        "image_id": torch.tensor([a["image_id"] for a in rows]), "person_id": torch.tensor([a["id"] for a in rows]),
    }  # fmt: skip


def _guess(batch, seed):
    generator = torch.Generator().manual_seed(seed)
    points = batch["original_keypoints"]
    noise = torch.randn(points.shape, generator=generator, dtype=torch.float64) * 8
    n = len(points)
    return Poses(
        points + noise, torch.ones(n, 17), torch.rand(n, generator=generator, dtype=torch.float64), torch.zeros(n, 4),
        batch["image_id"], batch["person_id"],
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(2000, 2008))
@pytest.mark.parametrize("given", [False, True], ids=["truth from the batch", "annotations given"])
def test_crops_of_one_image_in_several_batches_are_scored_together(seed, given):
    content, _ = random_coco(seed)
    content["annotations"] = [a for a in content["annotations"] if not a["iscrowd"]]
    count = len(content["annotations"])
    metric = OKSMeanAveragePrecision(annotations=columns(content) if given else None)
    results = []
    for start in range(0, count, 3):
        batch = _top_down_batch(content, range(start, min(start + 3, count)))
        poses = _guess(batch, start)
        for _ in range(1 + (start == 3)):  # one batch comes twice
            metric.update_batch(poses, batch)
        for n in range(len(poses)):
            points = torch.cat([poses.keypoints[n], torch.ones(17, 1)], dim=1).flatten().tolist()
            image, score = int(poses.image_ids[n]), float(poses.scores[n])
            results.append({"image_id": image, "category_id": 1, "keypoints": points, "score": score})
    if results:
        _same(metric.compute(), by_pycocotools(content, results, SIGMAS))


def test_crops_of_detected_boxes_that_come_again_are_dropped_by_their_id():
    content, _ = random_coco(2000)
    batch = _top_down_batch(content, range(4)) | {"box_score": torch.ones(4), "visibility": torch.zeros(4, 17)}
    poses = _guess(batch, 0)
    poses.person_ids = None  # no annotation stands behind a detected box
    metric = OKSMeanAveragePrecision(annotations=columns(content).of_images(batch["image_id"].numpy()))
    metric.update_batch(poses, batch)
    once = metric.compute()
    assert once["AP50"] > 0
    metric.update_batch(poses, batch)
    assert torch.equal(torch.stack([*metric.compute().values()]), torch.stack([*once.values()]))


def _three_images():
    """Return one labelled person in each of three images, which are listed in no order."""
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(0, 200, (3, 17, 2))
    boxes = np.concatenate([keypoints.min(axis=1), keypoints.max(axis=1)], axis=1)
    return GroundTruth(
        image_ids=np.array([3, 1, 2]), image_rows=np.array([1, 2, 0]), person_ids=np.arange(3), keypoints=keypoints,
        visibility=np.full((3, 17), 2), boxes=boxes, areas=np.full(3, 5000.0), is_crowd=np.zeros(3, dtype=bool),
    )  # fmt: skip


def _exact(truth, persons):
    images = truth.image_ids[truth.image_rows[persons]]
    return Poses(
        torch.from_numpy(truth.keypoints[persons]), torch.ones(len(persons), 17), torch.ones(len(persons)),
        torch.zeros(len(persons), 4), torch.from_numpy(images),
    )  # fmt: skip


def test_images_that_were_never_visited_do_not_count_but_are_reported():
    truth = _three_images()
    metric = OKSMeanAveragePrecision(annotations=truth)
    metric.update_batch(_exact(truth, [0, 1]), _bottom_up_batch([1, 2]))
    with pytest.warns(UserWarning, match="only 2 of 3 images"):
        assert metric.compute()["AP"] == pytest.approx(1)
    metric.update_batch(_exact(truth, []), _bottom_up_batch([3]))
    assert metric.compute()["AR"] == pytest.approx(2 / 3)


def test_images_without_samples_count_where_a_full_run_does_not_visit_them():
    truth = _three_images()
    truth = GroundTruth(**{**vars(truth), "sampled_image_ids": np.array([1, 2])})  # the detector found nobody in 3
    metric = OKSMeanAveragePrecision(annotations=truth)
    metric.update_batch(_exact(truth, [0, 1]), _bottom_up_batch([1, 2]))
    assert metric.compute()["AR"] == pytest.approx(2 / 3)


def test_no_predictions_score_0_and_no_persons_score_nan():
    truth = _three_images()
    metric = OKSMeanAveragePrecision(annotations=truth)
    metric.update(Poses.empty(17), [{"image_id": n, "keypoints": torch.zeros(0, 17, 3)} for n in (1, 2, 3)])
    scores = metric.compute()
    assert scores["AP"] == scores["AR"] == scores["AP_M"] == 0
    assert scores["AP_L"].isnan()
    nobody = OKSMeanAveragePrecision()
    nobody.update(
        [{"keypoints": torch.zeros(0), "scores": torch.zeros(0)}],
        [{"keypoints": torch.zeros(0), "area": torch.zeros(0)}],
    )
    assert all(value.isnan() for value in nobody.compute().values())
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert all(value.isnan() for value in OKSMeanAveragePrecision().compute().values())


def test_a_person_with_the_id_0_counts():
    truth = _three_images()
    assert 0 in truth.person_ids
    scores = average_precision(truth, np.array([1, 2, 3]), truth.keypoints, np.ones(3), SIGMAS)
    assert scores["AP"] == pytest.approx(1)


def test_a_stranger_s_batch_without_ids_is_scored_crop_by_crop():
    batch = _top_down_batch(random_coco(2000)[0], range(3))
    poses = _guess(batch, 1)
    for key in ("image_id", "person_id", "original_keypoints", "original_box"):
        del batch[key]
    batch |= {"to_original": torch.tensor([[4.0, 0, 0], [0, 4.0, 0]]).expand(3, 2, 3), "visibility": torch.ones(3, 17)}
    exact = Poses(batch["keypoints"] * 4, poses.keypoint_scores, poses.scores, poses.boxes, torch.arange(3))
    metric = OKSMeanAveragePrecision()
    metric.update_batch(exact, batch)
    metric.update_batch(exact, batch)  # other persons, for all that can be known
    assert len(metric.rows("pose_ids").unique()) == 6
    assert metric.compute()["AP"] == pytest.approx(1)
    with pytest.raises(MetricError, match="0 to 2"):
        metric.update_batch(Poses(**{**exact.parts(), "image_ids": torch.arange(3) + 7}), batch)


def test_without_an_area_a_part_of_the_box_is_taken():
    batch = _top_down_batch(random_coco(2000)[0], range(3))
    poses = _guess(batch, 1)
    size = batch["original_box"][:, 2:] - batch["original_box"][:, :2]
    explicit, implicit = OKSMeanAveragePrecision(), OKSMeanAveragePrecision()
    explicit.update_batch(poses, batch | {"area": 0.53 * size[:, 0] * size[:, 1]})
    del batch["area"]
    implicit.update_batch(poses, batch)
    assert torch.allclose(explicit.rows("truth_areas"), implicit.rows("truth_areas"), rtol=1e-14)
    del batch["original_box"]
    with pytest.raises(MetricError, match="area"):
        implicit.update_batch(poses, batch)


def test_nonsense_is_refused():
    truth = _three_images()
    preds, targets = dicts(*random_coco(2001))
    metric = OKSMeanAveragePrecision()
    with pytest.raises(MetricError, match="targets"):
        metric.update(preds)
    with pytest.raises(MetricError, match="one for each image"):
        metric.update(preds[1:], targets)
    with pytest.raises(MetricError, match="one order"):
        metric.update(preds[::-1], targets)
    with pytest.raises(MetricError, match="for all or for none"):
        metric.update(preds, [targets[0], *({"keypoints": t["keypoints"]} for t in targets[1:])])
    for bad in (math.nan, math.inf):
        spoilt = _exact(truth, [0, 1])
        spoilt.keypoints[1, 3, 0] = bad
        with pytest.raises(MetricError, match=r"1 of 2 rows are NaN"):
            OKSMeanAveragePrecision(annotations=truth).update_batch(spoilt, _bottom_up_batch([1, 2]))
        with pytest.raises(MetricError, match="images such as"):
            average_precision(truth, np.array([1, 2]), spoilt.keypoints.numpy(), np.ones(2), SIGMAS)
        spoilt = _exact(truth, [0, 1])
        spoilt.scores[0] = bad
        with pytest.raises(MetricError, match="scores"):
            OKSMeanAveragePrecision(annotations=truth).update_batch(spoilt, _bottom_up_batch([1, 2]))
    with pytest.raises(MetricError, match="17, 2"):
        OKSMeanAveragePrecision(annotations=truth).update_batch(Poses.empty(16), _bottom_up_batch([1]))
    with pytest.raises(MetricError, match="not in the ground truth"):
        average_precision(truth, np.array([9]), truth.keypoints[:1], np.ones(1), SIGMAS)
    with pytest.raises(MetricError, match="without a target"):
        metric.update(_exact(truth, [0]), [{"image_id": 77, "keypoints": torch.zeros(0, 17, 3)}])
    with pytest.raises(MetricError, match="17 positive sigmas"):
        OKSMeanAveragePrecision(sigmas=(0.1, 0.2))
    with pytest.raises(MetricError, match="not 16"):
        OKSMeanAveragePrecision("mpii16", annotations=truth)
    with pytest.raises(MetricError, match="detected boxes"):
        metric.update_batch(_exact(truth, [0]), {"image": torch.zeros(1, 3, 2, 2), "box_score": torch.ones(1)})
    with pytest.raises(MetricError, match="image_ids repeat"):
        GroundTruth(**{**vars(truth), "image_ids": np.array([1, 1, 2])})
    with pytest.raises(MetricError, match="person 1: keypoints"):
        GroundTruth(**{**vars(truth), "areas": np.array([1.0, math.nan, 2.0])})
    with pytest.raises(MetricError, match="areas has the shape"):
        GroundTruth(**{**vars(truth), "areas": np.ones(2)})
