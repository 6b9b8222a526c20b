"""Parametric pose-NMS against a plain loop, and what it must keep and drop."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_pose_zoo.association import ParametricNMS, parametric_nms, parametric_suppressed
from lightning_pose_zoo.association.parametric_nms import PoseDistances
from lightning_pose_zoo.errors import PoseZooError
from lightning_pose_zoo.structures import Poses

RMPE, ALPHAPOSE = ParametricNMS(), ParametricNMS.alphapose()
BOTH = pytest.mark.parametrize("settings", [RMPE, ALPHAPOSE], ids=["rmpe", "alphapose"])


def similarity(a, b, scores_a, scores_b, reach, s):
    """How alike two poses are, and how many of their keypoints match, joint by joint."""
    total, matches = 0.0, 0
    for p, q, c, d in zip(a, b, scores_a, scores_b, strict=True):
        pixels = math.dist(p, q)
        apart = pixels / reach if s.unit == "box" else pixels
        if apart <= 1:
            total += math.tanh(c / s.score_scale) * math.tanh(d / s.score_scale)
        total += s.distance_weight * math.exp(-apart / s.distance_scale)
        matches += pixels <= min(reach, s.match_limit)
    return total, matches


def slow(keypoints, keypoint_scores, scores, boxes, images, s):
    """Kept rows, merged keypoints and merged scores, one image and one pose after the other."""
    count = keypoints.shape[1]
    found = []
    for image in sorted(set(images.tolist())):
        left = sorted(np.flatnonzero(images == image).tolist(), key=lambda row: (-scores[row], -row))
        while left:
            best = left[0]
            reach = s.box_fraction * max(boxes[best, 2] - boxes[best, 0], boxes[best, 3] - boxes[best, 1])
            members = [best]
            for row in left[1:]:
                pair = keypoints[best], keypoints[row], keypoint_scores[best], keypoint_scores[row]
                alike, matches = similarity(*pair, reach, s)
                scale = count / s.keypoints
                if alike > s.threshold * scale or (s.matches and matches >= max(1, s.matches * scale)):
                    members.append(row)
            left = [row for row in left if row not in members]
            limit = min(reach, s.merge_limit) if s.merge_limit else reach
            merged, merged_scores = np.zeros((count, 2)), np.zeros(count)
            for k in range(count):
                near = [row for row in members if math.dist(keypoints[row, k], keypoints[best, k]) <= limit]
                weights = [max(keypoint_scores[row, k], 1e-5) for row in near]
                merged[k] = sum(w * keypoints[row, k] for w, row in zip(weights, near, strict=True)) / sum(weights)
                each = [keypoint_scores[row, k] for row in near]
                mean = sum(w * c for w, c in zip(weights, each, strict=True)) / sum(weights)
                merged_scores[k] = mean if s.merged_score == "mean" else max(each)
            if merged_scores.max() >= s.min_score:
                found.append((best, merged, merged_scores))
    return found


def crowded(seed, persons=50, count=17):
    """Several images in mixed order, with twins that are near, nearer and the same, and an image with one pose."""
    rng = np.random.default_rng(seed)
    images = rng.choice([40, 7, 23, 1000], persons)
    images[0] = 5
    size = rng.uniform(40, 200, persons)
    keypoints = rng.uniform(0, 300, (persons, 1, 2)) + rng.uniform(-0.5, 0.5, (persons, count, 2)) * size[:, None, None]
    for row in range(1, persons):
        if rng.random() < 0.6:
            like = int(rng.integers(0, row))
            size[row], images[row] = size[like], images[like]
            keypoints[row] = keypoints[like] + rng.normal(0, 1, (count, 2)) * rng.choice([0, 1, 5, 20])
    boxes = np.concatenate([keypoints.min(axis=1), keypoints.max(axis=1)], axis=1)
    return keypoints, rng.random((persons, count)), rng.permutation(persons) / persons, boxes, images


@BOTH
@pytest.mark.parametrize("seed", range(6))
def test_equals_a_plain_loop(seed, settings):
    people = crowded(seed, count=17 if seed % 2 else 14)
    settings = replace(settings, min_score=0.9 if seed == 5 else 0.0)
    expected = slow(*people, settings)
    rows, keypoints, scores = PoseDistances(*people).merged(settings)
    assert rows.tolist() == [row for row, _, _ in expected]
    assert 5 < len(rows) < len(people[0])
    np.testing.assert_allclose(keypoints, np.stack([points for _, points, _ in expected]))
    np.testing.assert_allclose(scores, np.stack([one for _, _, one in expected]))
    if not settings.min_score:
        assert parametric_nms(*people, settings).tolist() == rows.tolist()


def two(shift, count=16, score=0.6, side=200.0):
    base = np.random.default_rng(0).uniform(0, side, (count, 2))
    return (
        np.stack([base, base + np.array([shift, 0])]), np.full((2, count), score), np.array([0.9, 0.8]),
        np.array([[0, 0, side / 2, side]] * 2), np.zeros(2, dtype=np.int64),
    )  # fmt: skip


@BOTH
@pytest.mark.parametrize("count", [5, 16, 17, 133])
def test_twins_are_dropped_and_neighbours_kept(settings, count):
    assert parametric_nms(*two(0.0, count), settings).tolist() == [0]
    assert parametric_nms(*two(60.0, count), settings).tolist() == [0, 1]  # by 30 % of the box


@pytest.mark.parametrize(
    ("settings", "count", "values"),
    [(RMPE, 16, {0: 49.3, 0.5: 42.2, 1: 36.6, 2: 12.7}), (ALPHAPOSE, 17, {0: 33.8, 0.5: 28.8, 1: 24.7, 2: 13.6})],
)
def test_similarity_of_poses_that_are_apart(settings, count, values):
    """As the two programs have it, in their units: a tenth of the box, and pixels."""
    unit = 20.0 if settings.unit == "box" else 1.0
    for apart, value in values.items():
        people = two(apart * unit * (1 - 1e-6), count)
        for shift, kept in ((0.1, [0, 1]), (-0.1, [0])):
            exact = replace(settings, threshold=value + shift, matches=0)
            assert parametric_nms(*people, exact).tolist() == kept, apart


@BOTH
def test_a_second_time_changes_nothing_and_order_does_not_count(settings):
    people = crowded(3)
    kept = parametric_nms(*people, settings)
    again = parametric_nms(*(column[kept] for column in people), settings)
    assert again.tolist() == list(range(len(kept)))
    order = np.random.default_rng(0).permutation(len(people[0]))
    assert order[parametric_nms(*(column[order] for column in people), settings)].tolist() == kept.tolist()


def test_poses_are_merged_where_they_agree():
    keypoints, keypoint_scores, scores, boxes, images = two(4.0)
    keypoints[1, 3] += 100  # another place altogether
    keypoint_scores[1] = 0.2
    columns = (keypoints, keypoint_scores, scores, boxes)
    poses = Poses(
        *(torch.from_numpy(column).float() for column in columns), torch.from_numpy(images), torch.tensor([5, 6])
    )
    merged = parametric_suppressed(poses)
    assert merged.person_ids.tolist() == [5]
    assert merged.scores.tolist() == pytest.approx([0.9])
    expected = keypoints[0] + [0.25 * 4.0, 0]
    expected[3] = keypoints[0, 3]
    np.testing.assert_allclose(merged.keypoints[0].numpy(), expected, rtol=1e-5)
    assert merged.keypoint_scores[0].tolist() == pytest.approx([0.6] * 16)
    assert len(parametric_suppressed(Poses.empty(16))) == 0


def test_certain_neighbours_count_more_than_uncertain_ones():
    soft = replace(RMPE, score_scale=1.0, threshold=30.0)
    assert parametric_nms(*two(10.0, score=0.05), soft).tolist() == [0, 1]
    assert parametric_nms(*two(10.0, score=2.0), soft).tolist() == [0]


def test_numbers_in_files(tmp_path):
    path = tmp_path / "nms.yaml"
    changed = replace(ALPHAPOSE, threshold=11.5)
    changed.save(path)
    assert ParametricNMS.named(str(path)) == changed
    assert ParametricNMS.named("rmpe") == RMPE
    assert ParametricNMS.named("alphapose") == ALPHAPOSE
    with pytest.raises(PoseZooError, match="neither rmpe nor alphapose nor a file"):
        ParametricNMS.named("mine")
    for text, reason in (("lamda: 1", "lamda"), ("[]", "does not hold"), ("unit: 3", "unit: 3"), ("a: [", "read")):
        path.write_text(text)
        with pytest.raises(PoseZooError, match=reason):
            ParametricNMS.named(str(path))


def test_what_cannot_be_compared_is_refused():
    people = two(1.0)
    with pytest.raises(PoseZooError, match=r"boxes \(3, 4\) instead of \(2, 4\)"):
        parametric_nms(*people[:3], np.zeros((3, 4)), people[4])
    broken = people[0].copy()
    broken[1, 2, 0] = np.nan
    with pytest.raises(PoseZooError, match="keypoints that are NaN"):
        parametric_nms(broken, *people[1:])
    with pytest.raises(PoseZooError, match=r"score_scale 0(.|\n)*unit 'metre'"):
        ParametricNMS(score_scale=0, unit="metre")  # type: ignore[arg-type]
