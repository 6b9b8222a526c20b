"""The percentage of detected joints against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics import PCK, PDJ
from lightning_pose_zoo.metrics.functional import pdj
from lightning_pose_zoo.skeletons import get_skeleton
from lightning_pose_zoo.structures import Poses

LSP = get_skeleton("lsp14")
LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_HIP, RIGHT_HIP = (
    LSP.index(name) for name in ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
)


def _slow_pdj(predicted, target, visibility, threshold):
    """Count detected and labelled joints by loops; (K,) each."""
    right, counted = np.zeros(14), np.zeros(14)
    for n in range(len(target)):
        diameter = None
        for first, second in ((LEFT_SHOULDER, RIGHT_HIP), (RIGHT_SHOULDER, LEFT_HIP)):
            if diameter is None and visibility[n, first] > 0 and visibility[n, second] > 0:
                diameter = np.hypot(*(target[n, first] - target[n, second]))
        for k in range(14):
            if diameter is not None and visibility[n, k] > 0:
                counted[k] += 1
                right[k] += np.hypot(*(predicted[n, k] - target[n, k])) <= threshold * diameter
    return right, counted


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore:.*persons are left out")
def test_equals_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    target = rng.uniform(0, 200, (40, 14, 2))
    predicted = target + rng.normal(0, 15, target.shape)
    visibility = rng.integers(0, 3, (40, 14))
    tensors = [torch.from_numpy(value) for value in (predicted, target, visibility)]
    metric = PDJ(thresholds=(0.2, 0.1, 0.35))
    for part in torch.arange(40).split(11):
        metric.update(*(value[part] for value in tensors))
    scores = metric.compute()
    for threshold in (0.2, 0.1, 0.35):
        right, counted = _slow_pdj(predicted, target, visibility, threshold)
        assert scores[f"PDJ@{threshold}"].item() == right.sum() / counted.sum()
        assert pdj(*tensors, threshold=threshold).item() == right.sum() / counted.sum()
        single = [scores[f"PDJ@{threshold}/{name}"].item() for name in LSP.names]
        np.testing.assert_array_equal(single, right / counted)
        np.testing.assert_array_equal(pdj(*tensors, threshold=threshold, average=None).numpy(), right / counted)
    assert 0 < scores["PDJ@0.1"] < scores["PDJ@0.2"] < scores["PDJ@0.35"] < 1


def _square(width):
    """A person whose torso is 50 pixels from left shoulder to right hip, and ``width`` on the other diagonal."""
    target = torch.zeros(1, 14, 2)
    target[0, RIGHT_HIP] = torch.tensor([30.0, 40.0])
    target[0, LEFT_HIP] = torch.tensor([width, 0.0])
    return target


def test_the_diameter_is_from_the_left_shoulder_to_the_right_hip():
    target = _square(width=100.0)
    predicted, labelled = target + torch.tensor([0.0, 15.0]), torch.ones(1, 14)
    assert pdj(predicted, target, labelled, threshold=0.2) == 0  # 15 of 50 pixels
    labelled[0, LEFT_SHOULDER] = 0
    assert pdj(predicted, target, labelled, threshold=0.2) == 1  # 15 of 100 pixels
    pck = PCK("lsp14")
    pck.update(predicted, target, torch.ones(1, 14))
    assert pck.compute()["PCK@0.2"] == 1  # by the skeleton's first pair, the other diagonal


def test_exactly_at_the_threshold_is_detected():
    target = _square(width=10.0)
    assert pdj(target + torch.tensor([0.0, 12.5]), target, torch.ones(1, 14), threshold=0.25) == 1
    assert pdj(target + torch.tensor([0.0, 12.6]), target, torch.ones(1, 14), threshold=0.25) == 0


def test_a_batch_is_measured_on_the_annotation_and_people_without_a_torso_are_left_out():
    target = torch.cat([_square(10.0), _square(10.0)])
    visibility = torch.full((2, 14), 2, dtype=torch.uint8)
    visibility[1, [LEFT_SHOULDER, RIGHT_SHOULDER]] = 0
    ids = torch.arange(2)
    batch = {"keypoints": target / 2, "original_keypoints": target, "visibility": visibility, "person_id": ids}
    poses = Poses(target + 8, torch.ones(2, 14), torch.ones(2), torch.zeros(2, 4), ids, ids)  # 11.3 of 50 pixels
    metric = PDJ(thresholds=(0.23, 0.22))
    metric.update_batch(poses, batch)
    with pytest.warns(UserWarning, match="1 of 2 persons are left out"):
        scores = metric.compute()
    assert scores["PDJ@0.23"] == 1
    assert scores["PDJ@0.22"] == 0


def test_a_skeleton_without_a_torso_is_refused():
    with pytest.raises(MetricError, match="no torso"):
        PDJ({"name": "mouse", "names": ["nose", "tail"]})
