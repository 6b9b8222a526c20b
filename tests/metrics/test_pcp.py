"""The percentage of correct parts against a plain loop over the ten sticks of published tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_pose_zoo.errors import MetricError, SkeletonError
from lightning_pose_zoo.metrics import PCP
from lightning_pose_zoo.metrics.functional import pcp
from lightning_pose_zoo.metrics.functional.pcp import pcp_limbs
from lightning_pose_zoo.skeletons import get_skeleton
from lightning_pose_zoo.structures import Poses

# The sticks in LSP's order of joints (right ankle, knee, hip, left hip, knee, ankle, right wrist, elbow, shoulder, left
# shoulder, elbow, wrist, neck, head top), written down anew; groups as the tables have them.
STICKS = {
    "Torso": [((8, 9), (2, 3))],
    "Upper Leg": [((3,), (4,)), ((2,), (1,))],
    "Lower Leg": [((4,), (5,)), ((1,), (0,))],
    "Upper Arm": [((9,), (10,)), ((8,), (7,))],
    "Forearm": [((10,), (11,)), ((7,), (6,))],
    "Head": [((12,), (13,))],
}


def _slow(predicted, target, visibility, stick, threshold, strict):
    """Count right and scored limbs by a loop."""
    right = counted = 0
    for n in range(len(target)):
        if not all(visibility[n, k] > 0 for end in stick for k in end):
            continue
        true = [sum(target[n, k] for k in end) / len(end) for end in stick]
        found = [sum(predicted[n, k] for k in end) / len(end) for end in stick]
        length = np.hypot(*(true[0] - true[1]))
        errors = [np.hypot(*(place - other)) / length for place, other in zip(true, found, strict=True)]
        counted += 1
        right += (errors[0] <= threshold and errors[1] <= threshold) if strict else sum(errors) / 2 <= threshold
    return right, counted


def _people(seed, persons=40, all_labelled=False):
    rng = np.random.default_rng(seed)
    target = rng.uniform(0, 200, (persons, 14, 2))
    predicted = target + rng.normal(0, 35, target.shape)
    visibility = np.ones((persons, 14), int) if all_labelled else rng.integers(0, 4, (persons, 14))
    return predicted, target, visibility


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("variant", ["strict", "relaxed"])
def test_equals_a_plain_loop(seed, variant):
    people = _people(seed)
    tensors = [torch.from_numpy(value) for value in people]
    metric = PCP("lsp14", thresholds=(0.5, 0.3), variant=variant)
    for part in torch.arange(40).split(9):
        metric.update(*(value[part] for value in tensors))
    scores = metric.compute()
    names = get_skeleton("lsp14").names
    for threshold in (0.5, 0.3):
        rights, counts = 0, 0
        for group, sticks in STICKS.items():
            fractions = []
            for stick in sticks:
                right, counted = _slow(*people, stick, threshold, variant == "strict")
                rights, counts = rights + right, counts + counted
                fractions.append(right / counted)
                if group not in ("Torso", "Head"):
                    key = f"PCP@{threshold}/{names[stick[0][0]]}-{names[stick[1][0]]}"
                    assert scores[key].item() == right / counted
            assert scores[f"PCP@{threshold}/{group}"].item() == np.mean(fractions)
        assert scores[f"PCP@{threshold}"].item() == rights / counts
        assert pcp(*tensors, threshold=threshold, variant=variant).item() == rights / counts
        assert 0 < rights < counts
    assert len(scores) == 2 * (1 + 10 + 6)
    single = pcp(*tensors, variant=variant, average=None)
    limbs = [limb.name for limb in pcp_limbs("lsp14")]
    assert [scores[f"PCP@0.5/{name}"].item() for name in limbs] == single.tolist()


def test_where_all_is_labelled_the_mean_is_that_of_the_ten_sticks():
    metric = PCP()
    metric.update(*(torch.from_numpy(value) for value in _people(1, all_labelled=True)))
    scores = metric.compute()
    sticks = [scores[f"PCP@0.5/{limb.name}"].item() for limb in metric.limbs]
    assert len(sticks) == 10
    assert scores["PCP@0.5"].item() == pytest.approx(np.mean(sticks), abs=1e-15)


def test_strict_and_relaxed_differ_where_one_end_is_off():
    """The right forearm is 10 pixels long; one end is found, the other 8 pixels off."""
    target = torch.zeros(1, 14, 2)
    target[0, 6] = torch.tensor([10.0, 0.0])
    predicted = target.clone()
    predicted[0, 6, 1] = 8.0
    visibility = torch.zeros(1, 14)
    visibility[0, [6, 7]] = 1
    assert pcp(predicted, target, visibility, variant="strict") == 0
    assert pcp(predicted, target, visibility, variant="relaxed") == 1
    predicted[0, 6, 1] = 5.0  # exactly half of the length
    assert pcp(predicted, target, visibility, variant="strict") == 1
    metric = PCP()
    metric.update(predicted, target, visibility)
    assert metric.compute()["PCP@0.5"] == 1
    assert metric.compute()["PCP@0.5/right_elbow-right_wrist"] == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 2), st.floats(-3, 3), st.floats(0.01, 50))
def test_strict_is_never_above_relaxed_and_similarity_changes_nothing(seed, threshold, angle, scale):
    people = [torch.from_numpy(value) for value in _people(seed, persons=5)]
    strict, relaxed = (pcp(*people, threshold=threshold, variant=variant) for variant in ("strict", "relaxed"))
    if strict.isnan():
        return
    assert strict <= relaxed
    turn = torch.tensor([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) * scale
    moved = [people[0] @ turn + 17, people[1] @ turn + 17, people[2]]
    # Rounding may move a limb over the threshold, but not two of 50.
    assert pcp(*moved, threshold=threshold).item() == pytest.approx(strict.item(), abs=1 / 5)


def test_mirrored_limbs_do_not_count_as_right():
    target = torch.from_numpy(_people(2, all_labelled=True)[1])
    swapped = target[:, get_skeleton("lsp14").flip_permutation]
    metric = PCP()
    metric.update(swapped, target, torch.ones(40, 14))
    scores = metric.compute()
    assert scores["PCP@0.5/Torso"] == 1  # the middles of shoulders and hips stay
    assert scores["PCP@0.5/Head"] == 1
    assert scores["PCP@0.5/Forearm"] < 0.2


@pytest.mark.parametrize(
    ("skeleton", "sticks", "head"),
    [
        ("lsp14", 10, "neck-head_top"),
        ("mpii16", 10, "upper_neck-head_top"),
        ("crowdpose14", 10, "neck-head_top"),
        ("coco17", 9, None),
        ("h36m17", 9, None),
    ],
)
def test_the_sticks_of_human_skeletons(skeleton, sticks, head):
    limbs = pcp_limbs(skeleton)
    assert len(limbs) == sticks
    assert [limb.name for limb in limbs if limb.group == "Head"] == ([head] if head else [])
    assert sum(limb.group == "Lower Leg" for limb in limbs) == 2
    (torso,) = [limb for limb in limbs if limb.group == "Torso"]
    names = get_skeleton(skeleton).names
    assert [sorted(names[k] for k in end) for end in torso.ends] == [
        ["left_shoulder", "right_shoulder"],
        ["left_hip", "right_hip"],
    ]


def test_other_skeletons_are_scored_on_their_limbs_and_limbs_can_be_given():
    mouse = {"name": "mouse", "names": ["nose", "neck", "tail"], "limbs": [[0, 1], [1, 2]]}
    metric = PCP(mouse)
    target = torch.tensor([[[0.0, 0.0], [10.0, 0.0], [40.0, 0.0]]])
    metric.update(target + torch.tensor([0.0, 6.0]), target, torch.ones(1, 3))
    scores = {name: value.item() for name, value in metric.compute().items()}
    assert scores == {"PCP@0.5": 0.5, "PCP@0.5/nose-neck": 0.0, "PCP@0.5/neck-tail": 1.0}
    given_limbs = PCP("lsp14", limbs=[("left_wrist", "left_elbow"), ("neck", "left_hip")])
    given_limbs.update(*(torch.from_numpy(value) for value in _people(3)))
    assert set(given_limbs.compute()) == {
        "PCP@0.5", "PCP@0.5/left_wrist-left_elbow", "PCP@0.5/neck-left_hip", "PCP@0.5/Forearm",
    }  # fmt: skip


def test_limbs_without_length_or_labels_do_not_count():
    target = torch.rand(2, 14, 2) * 100
    target[0, 6] = target[0, 7]  # a forearm of no length
    visibility = torch.ones(2, 14)
    visibility[1, 6] = 0
    metric = PCP()
    metric.update(target + 1e-3, target, visibility)
    scores = metric.compute()
    assert scores["PCP@0.5/right_elbow-right_wrist"].isnan()
    assert scores["PCP@0.5/Forearm"].isnan()
    assert scores["PCP@0.5"] == 1


def test_update_batch_counts_the_unpredicted_as_wrong_in_pixels_of_the_original():
    original = torch.rand(3, 14, 2) * 100
    ids = torch.arange(3)
    matrix = torch.tensor([[2.0, 0.0, 5.0], [0.0, 2.0, -3.0]]).expand(3, 2, 3)
    batch = {
        "keypoints": (original - torch.tensor([5.0, -3.0])) / 2, "visibility": torch.ones(3, 14),
        "to_original": matrix, "person_id": ids,
    }  # fmt: skip
    found = Poses(original[1:], torch.ones(2, 14), torch.ones(2), torch.zeros(2, 4), ids[1:], ids[1:])
    metric = PCP()
    metric.update_batch(found, batch)
    assert metric.compute()["PCP@0.5"].item() == pytest.approx(2 / 3)
    metric = PCP(variant="relaxed")
    metric.update_batch(found, batch)
    assert metric.compute()["PCP@0.5/Torso"].item() == pytest.approx(2 / 3)


def test_wrong_settings_and_input_are_refused_and_nobody_is_nan():
    with pytest.raises(MetricError, match="PCP knows strict and relaxed"):
        PCP(variant="loose")
    with pytest.raises(MetricError, match="skeleton 'mouse' has no limbs"):
        PCP({"name": "mouse", "names": ["nose", "tail"]})
    with pytest.raises(SkeletonError, match="no keypoint 'left_paw'"):
        PCP("lsp14", limbs=[("left_paw", "neck")])
    people = [torch.from_numpy(value) for value in _people(0)]
    people[0][3, 2, 0] = torch.inf
    with pytest.raises(MetricError, match=r"rows \[3\]"):
        PCP().update(*people)
    with pytest.raises(MetricError, match=r"\(N, 16, 2\), not \(40, 14, 2\)"):
        PCP("mpii16").update(*people)
    with pytest.warns(UserWarning, match="before the ``update``"):
        scores = PCP().compute()
    assert len(scores) == 17
    assert all(value.isnan() for value in scores.values())
