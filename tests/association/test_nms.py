"""Suppression of poses against a plain loop and the HRNet repository's choices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_pose_zoo.association import oks_nms, rescored, soft_oks_nms, suppressed
from lightning_pose_zoo.errors import PoseZooError
from lightning_pose_zoo.skeletons import get_skeleton
from lightning_pose_zoo.structures import Poses

SIGMAS = get_skeleton("coco17").sigmas


def _similarity(a, b, area, sigmas):
    total = 0.0
    for (x, y), (u, v), sigma in zip(a, b, sigmas, strict=True):
        total += math.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * sigma) ** 2 / (area + np.spacing(1)) / 2)
    return total / len(sigmas)


def _slow_nms(keypoints, scores, areas, images, sigmas, threshold):
    kept = []
    for image in sorted(set(images.tolist())):
        rows = np.flatnonzero(images == image)
        order = rows[scores[rows].argsort(kind="stable")[::-1]].tolist()
        while order:
            best = order.pop(0)
            kept.append(best)
            order = [
                row for row in order
                if _similarity(keypoints[best], keypoints[row], (areas[best] + areas[row]) / 2, sigmas) <= threshold
            ]  # fmt: skip
    return kept


def _slow_soft_nms(keypoints, scores, areas, images, sigmas, threshold, most):
    kept = []
    for image in sorted(set(images.tolist())):
        rows = np.flatnonzero(images == image)
        order = scores[rows].argsort(kind="stable")[::-1]
        left, values = rows[order], scores[rows][order]
        for _ in range(min(most, len(rows))):
            best, left, values = left[0], left[1:], values[1:].copy()
            kept.append(int(best))
            for n, row in enumerate(left):
                overlap = _similarity(keypoints[best], keypoints[row], (areas[best] + areas[row]) / 2, sigmas)
                values[n] *= math.exp(-(overlap**2) / threshold)
            order = values.argsort(kind="stable")[::-1]
            left, values = left[order], values[order]
    return kept


def _crowded(seed, count=17, persons=60):
    """Several images in mixed order: near twins, exact twins, equal scores, areas of 0, and an image with one pose."""
    rng = np.random.default_rng(seed)
    images = rng.choice([40, 7, 7, 23, 1000], persons)
    images[0] = 5
    size = rng.uniform(20, 200, persons)
    keypoints = rng.uniform(0, 300, (persons, 1, 2)) + rng.uniform(-1, 1, (persons, count, 2)) * size[:, None, None]
    for row in range(1, persons):
        if rng.random() < 0.6:  # like somebody before, and often in the same image
            like = int(rng.integers(0, row))
            noise = rng.choice([0, 0.01, 0.05, 0.2]) * size[like]
            size[row], images[row] = size[like], rng.choice([images[like], images[row]])
            keypoints[row] = keypoints[like] + rng.normal(0, 1, (count, 2)) * noise
    areas = size**2 * (rng.random(persons) > 0.05)
    return keypoints, rng.random(persons).round(1), areas, images


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("threshold", [0.3, 0.9])
def test_equals_a_plain_loop(seed, threshold):
    people = _crowded(seed)
    expected = _slow_nms(*people, SIGMAS, threshold)
    assert oks_nms(*people, SIGMAS, threshold).tolist() == expected
    assert 10 < len(expected) < 60


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("threshold", "most"), [(0.9, 20), (0.2, 4), (1e-5, 60)])
def test_soft_suppression_equals_a_plain_loop(seed, threshold, most):
    people = _crowded(seed)
    expected = _slow_soft_nms(*people, SIGMAS, threshold, most)
    assert soft_oks_nms(*people, SIGMAS, threshold, most).tolist() == expected
    if most > 4:
        assert expected != _slow_soft_nms(*people, SIGMAS, 1e9, most)  # the lowered scores change the order


@pytest.mark.parametrize("count", [1, 5, 133])
def test_any_number_of_keypoints(count):
    sigmas = np.random.default_rng(count).uniform(0.02, 0.2, count)
    people = _crowded(count, count)
    assert oks_nms(*people, sigmas, 0.5).tolist() == _slow_nms(*people, sigmas, 0.5)
    assert soft_oks_nms(*people, sigmas).tolist() == _slow_soft_nms(*people, sigmas, 0.9, 20)


def test_one_image_with_many_poses():
    keypoints, scores, areas, images = _crowded(3, persons=150)
    images[:] = 3
    expected = _slow_nms(keypoints, scores, areas, images, SIGMAS, 0.7)
    assert oks_nms(keypoints, scores, areas, images, SIGMAS, 0.7).tolist() == expected


def test_images_do_not_disturb_each_other():
    keypoints, scores, areas, images = _crowded(1)
    whole = oks_nms(keypoints, scores, areas, images, SIGMAS)
    parts = []
    for image in np.unique(images):
        rows = np.flatnonzero(images == image)
        parts += rows[oks_nms(keypoints[rows], scores[rows], areas[rows], images[rows], SIGMAS)].tolist()
    assert whole.tolist() == parts
    alone = np.arange(len(images))  # nobody has a neighbour
    assert oks_nms(keypoints, scores, areas, alone, SIGMAS, 0.0).tolist() == alone.tolist()


def test_many_small_images_are_taken_in_several_portions():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 900, 6000)
    keypoints = rng.uniform(0, 4, (6000, 2, 2)) + images[:, None, None] % 7
    scores, areas, sigmas = rng.random(6000).round(2), np.full(6000, 300.0), (0.05, 0.1)
    assert oks_nms(keypoints, scores, areas, images, sigmas, 0.6).tolist() == _slow_nms(
        keypoints, scores, areas, images, sigmas, 0.6
    )


def test_nobody_stays_nobody():
    nothing = (np.zeros((0, 17, 2)), np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64), SIGMAS)
    assert oks_nms(*nothing).tolist() == soft_oks_nms(*nothing).tolist() == []
    assert len(suppressed(Poses.empty(17), SIGMAS)) == 0


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_equals_the_hrnet_repository(test_data, threshold):
    with np.load(test_data / "oracles" / "processing" / "oks_nms_official.npz") as official:
        people = (official["keypoints"][..., :2], official["score"], official["area"], np.zeros(40, dtype=np.int64))
        expected, soft = official[f"keep_{threshold}"], official["soft_0.9"]
    np.testing.assert_array_equal(oks_nms(*people, SIGMAS, threshold), expected)
    np.testing.assert_array_equal(soft_oks_nms(*people, SIGMAS, 0.9), soft)


def _poses(seed):
    keypoints, scores, areas, images = _crowded(seed)
    side = torch.from_numpy(areas).sqrt()
    corners = torch.rand(len(side), 2, dtype=torch.float64) * 50
    boxes = torch.cat([corners, corners + side[:, None]], dim=1)
    return Poses(
        torch.from_numpy(keypoints), torch.rand(60, 17), torch.from_numpy(scores), boxes, torch.from_numpy(images)
    )


def test_poses_are_suppressed_by_the_areas_of_their_boxes_or_by_given_ones():
    poses = _poses(2)
    keypoints, scores, areas, images = _crowded(2)
    kept = suppressed(poses, SIGMAS, 0.5)
    expected = _slow_nms(keypoints, scores, areas, images, SIGMAS, 0.5)
    assert torch.equal(kept.keypoints, poses.keypoints[expected])
    assert torch.equal(kept.image_ids, poses.image_ids[expected])
    larger = suppressed(poses, SIGMAS, 0.5, torch.from_numpy(areas * 4))
    assert torch.equal(larger.scores, poses.scores[_slow_nms(keypoints, scores, areas * 4, images, SIGMAS, 0.5)])
    assert len(larger) < len(kept)


def test_poses_of_half_precision_with_gradients_are_taken_as_they_are():
    poses = _poses(2)
    poses.keypoints = poses.keypoints.bfloat16().requires_grad_()
    expected = _slow_nms(
        poses.keypoints.detach().double().numpy(), poses.scores.numpy(), _crowded(2)[2], poses.image_ids.numpy(),
        SIGMAS, 0.5,
    )  # fmt: skip
    assert torch.equal(suppressed(poses, SIGMAS, 0.5).scores, poses.scores[expected])


@pytest.mark.parametrize("part", ["keypoints", "scores", "areas"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_cannot_be_compared_is_refused_by_its_row(part, bad):
    names = ("keypoints", "scores", "areas", "image_ids")
    people = dict(zip(names, _crowded(0), strict=True))
    people[part][17] = bad
    for function in (oks_nms, soft_oks_nms):
        with pytest.raises(PoseZooError, match=r"1 of 60 poses.*rows \[17\]"):
            function(**people, sigmas=SIGMAS)


def test_nonsense_is_refused():
    keypoints, scores, areas, images = _crowded(0)
    with pytest.raises(PoseZooError, match="negative areas"):
        oks_nms(keypoints, scores, -areas, images, SIGMAS)
    with pytest.raises(PoseZooError, match=r"scores \(59,\) instead of \(60,\)"):
        oks_nms(keypoints, scores[1:], areas, images, SIGMAS)
    with pytest.raises(PoseZooError, match=r"keypoints \(60, 17, 2\) instead of \(60, 16, 2\)"):
        oks_nms(keypoints, scores, areas, images, SIGMAS[1:])
    with pytest.raises(PoseZooError, match="sigmas that are not all positive"):
        oks_nms(keypoints, scores, areas, images, (0.0, *SIGMAS[1:]))
    with pytest.raises(PoseZooError, match="threshold"):
        soft_oks_nms(keypoints, scores, areas, images, SIGMAS, 0.0)


def test_the_score_is_the_mean_of_confident_keypoints_times_the_box_s():
    scores = torch.tensor([[0.9, 0.3, 0.2, 0.1], [0.1, 0.2, 0.0, 0.05], [1.0, 1.0, 1.0, 1.0]])
    torch.testing.assert_close(rescored(scores), torch.tensor([0.6, 0.0, 1.0]))
    boxes = torch.tensor([0.5, 0.5, float("nan")])
    torch.testing.assert_close(rescored(scores, boxes), torch.tensor([0.3, 0.0, 1.0]))
    torch.testing.assert_close(rescored(scores, boxes, confident=0.95), torch.tensor([0.0, 0.0, 1.0]))
