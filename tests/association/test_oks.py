"""OKS against a plain loop, pycocotools and the HRNet repository's values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_pose_zoo.association import oks
from lightning_pose_zoo.skeletons import get_skeleton

SIGMAS = get_skeleton("coco17").sigmas


def _slow_oks(points, reference, area, sigmas, labelled):
    total = 0.0
    for k, sigma in enumerate(sigmas):
        if labelled[k]:
            squared = (points[k][0] - reference[k][0]) ** 2 + (points[k][1] - reference[k][1]) ** 2
            total += math.exp(-squared / (2 * area * (2 * sigma) ** 2))
    return total / max(1, sum(labelled))


@pytest.fixture
def people():
    rng = np.random.default_rng(3)
    points, reference = rng.uniform(0, 100, (2, 6, 17, 2))
    points[:3] = reference[:3] + rng.normal(0, 3, (3, 17, 2))
    labelled = rng.random((6, 17)) < 0.6
    labelled[5] = False
    return points, reference, rng.uniform(500, 9000, 6), labelled


def test_equals_a_plain_loop_pair_by_pair_and_all_with_all(people):
    points, reference, areas, labelled = people
    slow = np.array(
        [[_slow_oks(points[p], reference[g], areas[g], SIGMAS, labelled[g]) for g in range(6)] for p in range(6)]
    )
    np.testing.assert_allclose(oks(points, reference, areas, SIGMAS, labelled), slow.diagonal(), atol=1e-14)
    matrix = oks(points[:, None], reference[None], areas[None], SIGMAS, labelled[None])
    np.testing.assert_allclose(matrix, slow, atol=1e-14)
    assert slow[:3].max() > 0.5  # the comparison is about numbers that are not all near 0


def test_tensors_give_what_arrays_give(people):
    points, reference, areas, labelled = people
    expected = oks(points, reference, areas, SIGMAS, labelled)
    for dtype, tolerance in ((torch.float64, 1e-15), (torch.float32, 1e-5)):
        tensors = [torch.from_numpy(value).to(dtype) for value in (points, reference, areas)]
        similarity = oks(*tensors, SIGMAS, torch.from_numpy(labelled))
        assert similarity.dtype == dtype
        np.testing.assert_allclose(similarity.numpy(), expected, atol=tolerance)


def test_half_precision_is_widened_before_anything_is_squared():
    points = torch.full((1, 17, 2), 600.0, dtype=torch.float16)
    reference = torch.zeros(1, 17, 2, dtype=torch.float16)  # 600^2 overflows float16
    similarity = oks(points, reference, torch.tensor([1e6]), SIGMAS)
    assert similarity.dtype == torch.float32
    assert 0 < similarity.item() < 1


def test_keypoints_without_a_label_may_be_anything(people):
    points, reference, areas, labelled = people
    spoilt = np.where(labelled[..., None], reference, np.nan)
    np.testing.assert_array_equal(
        oks(points, spoilt, areas, SIGMAS, labelled), oks(points, reference, areas, SIGMAS, labelled)
    )
    assert oks(points, spoilt, areas, SIGMAS, labelled)[5] == 0


def test_an_area_of_zero_gives_no_nan():
    points = np.zeros((2, 17, 2))
    points[1] += 1
    np.testing.assert_array_equal(oks(points, np.zeros((2, 17, 2)), np.zeros(2), SIGMAS), [1, 0])


def test_equals_the_hrnet_repository(test_data):
    with np.load(test_data / "oracles" / "processing" / "oks_nms_official.npz") as official:
        keypoints, areas, expected = official["keypoints"][..., :2], official["area"], official["oks_first"]
    similarity = oks(keypoints[1:], keypoints[0], (areas[1:] + areas[0]) / 2, SIGMAS)
    np.testing.assert_allclose(similarity, expected, atol=1e-14)
