"""The error diagnosis: one kind of mistake at a time, and a plain loop on random sets."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle

import numpy as np
import pytest
import torch
from coco_cases import columns, dicts, random_coco

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics import GroundTruth
from lightning_pose_zoo.metrics.error_diagnosis import ErrorDiagnosis, draw_diagnosis
from lightning_pose_zoo.metrics.functional import average_precision
from lightning_pose_zoo.metrics.functional.error_diagnosis import KINDS, diagnose, optimal_scores
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton

COCO = get_skeleton("coco17")
SIGMAS = np.array(COCO.sigmas)
AREA = 30000.0
THRESHOLDS = np.linspace(0.5, 0.95, 10)


def _people(images=5, persons=3):
    """Return persons whose keypoints are so far apart that no place is near another, and perfect predictions."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(5) * 150.0, np.arange(4) * 150.0), axis=-1).reshape(-1, 2)[:17]
    where = np.arange(images * persons)
    keypoints = (
        grid + rng.uniform(0, 20, (len(where), 17, 2)) + np.stack([where % persons * 2000.0, 0 * where], 1)[:, None]
    )
    truth = GroundTruth(
        image_ids=np.arange(images) + 7, image_rows=where // persons, person_ids=where, keypoints=keypoints,
        visibility=np.full((len(where), 17), 2), areas=np.full(len(where), AREA), is_crowd=np.zeros(len(where), bool),
        boxes=np.concatenate([keypoints.min(axis=1), keypoints.max(axis=1)], axis=1),
    )  # fmt: skip
    return truth, truth.image_ids[truth.image_rows], keypoints.copy(), rng.permutation(len(where)) / 100 + 0.5


def _distance(similarity):
    """Return the distance of each keypoint at which it has a similarity, (17,) pixels."""
    return np.sqrt(-2 * AREA * math.log(similarity)) * 2 * SIGMAS


def _case(kind):
    truth, ids, points, scores = _people()
    rng = np.random.default_rng(1)
    if kind == "jitter":
        angle = rng.uniform(0, 2 * np.pi, points.shape[:2])
        points += (_distance(0.7) * np.stack([np.cos(angle), np.sin(angle)])).transpose(1, 2, 0)
    elif kind == "inversion":
        flipped = [*range(7), *COCO.flip_permutation[7:]]
        points = points[:, flipped]
    elif kind == "swap":
        points[:, :8] = np.roll(truth.keypoints.reshape(5, 3, 17, 2), 1, axis=1).reshape(points.shape)[:, :8]
    elif kind == "miss":
        points[:, 3:11, 1] += 5000
    elif kind == "score":  # a worse detection of everybody, which is surer than all good ones
        worse = points.copy()
        worse[:, :8, 1] += 5000
        ids, points = np.tile(ids, 2), np.concatenate([points, worse])
        scores = np.concatenate([scores, scores + 1])
    elif kind == "background":
        ids, points = np.tile(ids, 2), np.concatenate([points, points + np.array([0, 9000])])
        scores = np.concatenate([scores, scores + 1])
    elif kind == "missed_person":
        kept = np.arange(len(ids)) % 5 != 2
        ids, points, scores = ids[kept], points[kept], scores[kept]
    return truth, ids, points, scores


EXPECTED = {
    "jitter": 15 * 17, "inversion": 15 * 10, "swap": 15 * 8, "miss": 15 * 8, "score": 15, "background": 15,
    "missed_person": 3,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_of_mistake_is_counted_as_such_and_correcting_it_restores_everything(kind):
    found = diagnose(*_case(kind), "coco17")
    counts = {name: int(values.sum()) for name, values in found.keypoints.items()} | found.counts
    others = set(KINDS) - {kind}
    assert counts[kind] == EXPECTED[kind]
    if kind == "score":  # the surest detections, which are looked at, are the worse ones
        assert counts["miss"] == EXPECTED["miss"]
        others -= {"miss"}
    assert all(counts[other] == 0 for other in others)
    assert counts["good"] + sum(counts[name] for name in KINDS[:4]) == counts["found"] * 17
    assert found.average_precision() < 0.85
    assert found.alone[kind] == pytest.approx(np.ones((10, 101)))
    assert found.gain(kind) == pytest.approx(1 - found.average_precision())
    if kind == "background":  # false alarms also cost nothing where they come last
        assert found.gain("score") == pytest.approx(found.gain(kind))
        others -= {"score"}
    assert max(found.gain(other) for other in others) < found.gain(kind) / 4
    assert found.after("missed_person") == pytest.approx(1)
    if kind not in ("miss", "score", "background"):
        assert found.after(KINDS[KINDS.index(kind) - 1]) == pytest.approx(found.average_precision())
    assert found.average_precision() == pytest.approx(average_precision(*_case(kind), COCO.sigmas)["AP"])


def test_the_bounds_are_those_of_the_paper():
    for similarity, kind in ((0.851, "good"), (0.849, "jitter"), (0.501, "jitter"), (0.499, "miss")):
        truth, ids, points, scores = _people()
        points[:, ::2, 1] += _distance(similarity)[::2]
        found = diagnose(truth, ids, points, scores, "coco17")
        assert found.keypoints[kind].sum() >= 15 * 9
        assert sum(counts.sum() for counts in found.keypoints.values()) == 15 * 17


def test_a_skeleton_without_flip_pairs_has_no_inversions():
    plain = dataclasses.replace(COCO, flip_pairs=())
    found = diagnose(*_case("inversion"), plain)
    assert found.keypoints["inversion"].sum() == 0
    assert found.keypoints["miss"].sum() == EXPECTED["inversion"]


def _similarity(one, other, area, sigma):
    return math.exp(-((one - other) ** 2).sum() / (2 * area * (2 * sigma) ** 2))


def _by_loops(truth, ids, points, scores, skeleton):
    """Count by the definitions, one keypoint after the other."""
    flip, sigmas = skeleton.flip_permutation, skeleton.sigmas
    counts = {kind: np.zeros(len(flip), int) for kind in ("good", *KINDS[:4])}
    found, used = set(), 0
    for image in truth.image_ids:
        people = [g for g in range(len(truth.person_ids)) if truth.image_ids[truth.image_rows[g]] == image]
        labels = {g: [k for k in range(len(flip)) if truth.visibility[g, k] > 0] for g in people}
        counting = [g for g in people if labels[g] and not truth.is_crowd[g]]
        best = sorted(np.flatnonzero(ids == image), key=lambda d: -scores[d])[:20]
        likeness = {
            (d, g): np.mean(
                [_similarity(points[d, k], truth.keypoints[g, k], truth.areas[g], sigmas[k]) for k in labels[g]]
            )
            for d in best
            for g in counting
        }  # fmt: skip
        somewhere, taken_first = set(), {}
        for limit in (0.1, *THRESHOLDS):
            free = set(counting)
            for d in best:
                near = [(likeness[d, g], g) for g in free if likeness[d, g] >= limit]
                if near:
                    person = max(near)[1]
                    free.remove(person)
                    found.add(person)
                    somewhere.add(d)
                    if limit == 0.1:
                        taken_first[d] = person
        used += len(somewhere)
        for d, person in taken_first.items():
            for k in labels[person]:
                places = []  # of equal ones the first is taken
                for g in [person, *(g for g in people if g != person)]:
                    for j in dict.fromkeys((k, flip[k])):
                        if j in labels[g]:
                            kind = "swap" if g != person else "own" if j == k else "inversion"
                            value = _similarity(points[d, k], truth.keypoints[g, j], truth.areas[g], sigmas[k])
                            places.append((value, {"own": 2, "swap": 1, "inversion": 0}[kind], kind))
                value, _, kind = max(places)
                if value < 0.5:
                    kind = "miss"
                elif kind == "own":
                    kind = "good" if value >= 0.85 else "jitter"
                counts[kind][k] += 1
    return counts, len(found), used


def _random(seed):
    content, results = random_coco(seed)
    rng = np.random.default_rng(seed)
    points = np.array([r["keypoints"] for r in results], dtype=float).reshape(-1, 17, 3)[..., :2]
    mirrored = (rng.random((len(points), 17)) < 0.15)[..., None]
    points = np.where(mirrored, points[:, COCO.flip_permutation], points)
    ids = np.array([r["image_id"] for r in results], dtype=np.int64)
    return columns(content), ids, points, rng.permutation(len(ids)) / 100  # no ties: pycocotools decides those


@pytest.mark.parametrize("seed", range(4000, 4016))
def test_equals_a_plain_loop_on_random_sets(seed):
    truth, ids, points, scores = _random(seed)
    diagnosis = diagnose(truth, ids, points, scores, COCO)
    counts, found, used = _by_loops(truth, ids, points, scores, COCO)
    for kind, expected in counts.items():
        assert np.array_equal(diagnosis.keypoints[kind], expected), kind
    assert diagnosis.counts["found"] == found
    assert diagnosis.counts["missed_person"] == diagnosis.counts["persons"] - found
    assert diagnosis.counts["background"] <= diagnosis.counts["predictions"] - used
    if diagnosis.counts["persons"]:
        assert min(diagnosis.gain("background"), diagnosis.gain("missed_person")) >= 0
        assert diagnosis.after("missed_person", 0.5) > 0.9


def test_the_random_sets_hold_every_kind():
    total = dict.fromkeys(("good", *KINDS[:4]), 0)
    for seed in range(4000, 4016):
        found = diagnose(*_random(seed), COCO)
        for kind in total:
            total[kind] += int(found.keypoints[kind].sum())
    assert min(total.values()) > 20, total


def test_whoever_lies_on_a_crowd_is_no_background():
    truth, ids, points, scores = _people()
    truth = dataclasses.replace(
        truth, is_crowd=np.arange(15) % 3 == 1, visibility=truth.visibility * (np.arange(15) % 3 != 1)[:, None]
    )
    found = diagnose(truth, ids, points, scores, COCO)
    assert found.counts["background"] == 0
    assert found.counts["persons"] == found.counts["found"] == 10


def test_optimal_scores_are_at_least_as_good_as_any_order():
    content, results = random_coco(4001)
    truth = columns(content)
    ids = np.array([r["image_id"] for r in results], dtype=np.int64)
    points = np.array([r["keypoints"] for r in results], dtype=float).reshape(-1, 17, 3)[..., :2]
    best = average_precision(truth, ids, points, optimal_scores(truth, ids, points, SIGMAS), COCO.sigmas)["AP"]
    rng = np.random.default_rng(0)
    orders = [average_precision(truth, ids, points, rng.permutation(len(ids)), COCO.sigmas)["AP"] for _ in range(60)]
    assert max(orders) > min(orders)
    assert best >= max(orders)


def test_the_metric_says_the_same_from_any_batches():
    content, results = random_coco(4005)
    preds, targets = dicts(content, results)
    metric = ErrorDiagnosis()
    for start in range(0, len(preds), 2):
        metric.update(preds[start : start + 2], targets[start : start + 2])
    values = {name: float(value) for name, value in metric.compute().items()}
    points = np.array([r["keypoints"] for r in results], dtype=float).reshape(-1, 17, 3)[..., :2]
    scores = np.array([r["score"] for r in results])
    expected = diagnose(columns(content), np.array([r["image_id"] for r in results]), points, scores, "coco17")
    assert values == pytest.approx({f"diagnosis/{name}": value for name, value in expected.numbers().items()})
    assert {"diagnosis/AP_gain/jitter", "diagnosis/AP_after/score", "diagnosis/keypoints/swap"} <= values.keys()
    again = pickle.loads(pickle.dumps(copy.deepcopy(metric)))
    assert {name: float(value) for name, value in again.compute().items()} == values
    assert np.array_equal(metric.diagnosis.keypoints["miss"], expected.keypoints["miss"])
    metric.reset()
    assert len(metric.rows("pose_ids")) == 0


def test_the_picture_has_three_panels_and_all_kinds(tmp_path):
    metric = ErrorDiagnosis()
    metric.update(*dicts(*random_coco(4005)))
    figure, axes = metric.plot()
    assert len(axes) == 3
    assert [label.get_text() for label in axes[0].get_yticklabels()] == [kind.replace("_", " ") for kind in KINDS]
    assert len(axes[2].get_yticklabels()) == 17
    widths = [patch.get_width() for patch in axes[0].patches]
    assert widths == pytest.approx([100 * metric.diagnosis.gain(kind) for kind in KINDS])
    figure.savefig(tmp_path / "diagnosis.png")
    assert (tmp_path / "diagnosis.png").stat().st_size > 10_000
    _, ax = metric.plot(ax=figure.add_axes((0, 0, 1, 1)))
    assert len(ax.patches) == len(KINDS)
    with pytest.raises(MetricError, match=r"0\.5, 0\.55"):
        draw_diagnosis(metric.diagnosis, threshold=0.77)


def test_nobody_and_nothing():
    truth, ids, points, scores = _people()
    nothing = diagnose(truth, ids[:0], points[:0], scores[:0], COCO)
    assert nothing.average_precision() == 0
    assert nothing.gain("missed_person") == 1
    assert math.isnan(nothing.fraction("good"))
    nobody = diagnose(dataclasses.replace(truth, visibility=truth.visibility * 0), ids, points, scores, COCO)
    assert math.isnan(nobody.average_precision())
    assert math.isnan(nobody.gain("jitter"))
    draw_diagnosis(nothing)
    draw_diagnosis(nobody)


def test_nonsense_is_refused():
    truth, ids, points, scores = _people()
    for bad in (math.nan, math.inf):
        spoilt = points.copy()
        spoilt[3, 4, 0] = bad
        with pytest.raises(MetricError, match="NaN or infinite"):
            diagnose(truth, ids, spoilt, scores, COCO)
    with pytest.raises(MetricError, match="not in the ground truth"):
        diagnose(truth, ids + 100, points, scores, COCO)
    with pytest.raises(MetricError, match="keypoints"):
        diagnose(truth, ids, points, scores, "lsp14")
    with pytest.raises(MetricError, match="17 sigmas"):
        diagnose(truth, ids, points, scores, COCO, sigmas=(0.1,))
    with pytest.raises(MetricError, match="17, 2"):
        ErrorDiagnosis().update(
            [{"keypoints": torch.zeros(1, 5, 2), "scores": torch.ones(1)}],
            [{"keypoints": torch.zeros(0), "area": torch.zeros(0)}],
        )


@pytest.mark.parametrize("keypoints", [1, 5, 40])
def test_any_number_of_keypoints(keypoints):
    skeleton = Skeleton.from_names(
        "any", [f"part_{n}" for n in range(keypoints)], sigmas=[0.05 + 0.001 * n for n in range(keypoints)]
    )
    content, results = random_coco(4003, keypoints=keypoints)
    points = np.array([r["keypoints"] for r in results], dtype=float).reshape(-1, keypoints, 3)[..., :2]
    ids = np.array([r["image_id"] for r in results], dtype=np.int64)
    scores = np.linspace(1, 0, len(ids))
    truth = columns(content, keypoints)
    found = diagnose(truth, ids, points, scores, skeleton)
    counts, _, _ = _by_loops(truth, ids, points, scores, skeleton)
    assert all(np.array_equal(found.keypoints[kind], counts[kind]) for kind in counts)


def test_all_is_explained_on_real_annotations(test_data):
    folder = test_data / "oracles" / "coco_val2017_seeded"
    content, results = (json.loads((folder / name).read_text()) for name in ("gt.json", "results.json"))
    metric = ErrorDiagnosis()
    metric.update(*dicts(content, results))
    found = metric.diagnosis
    assert found.average_precision() == pytest.approx(0.29614251504272493, abs=1e-12)
    # Corrected entirely, all are found; only "good" keypoints keep their distance, which counts above 0.85.
    assert [found.after("missed_person", threshold) for threshold in THRESHOLDS[:8]] == pytest.approx([1.0] * 8)
    steps = [found.average_precision(), *(found.after(kind) for kind in KINDS)]
    assert steps == sorted(steps)
