"""MPII's multi-person average precision from batches: against plain loops, and who does not count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pose_track_cases import plain_ap

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics import PCKhMeanAveragePrecision
from lightning_pose_zoo.skeletons import get_skeleton
from lightning_pose_zoo.structures import Poses

NAMES = get_skeleton("mpii16").names
SCORED = [index for index, name in enumerate(NAMES) if name not in ("pelvis", "thorax")]


def crowded(seed, pictures=3):
    """A batch of pictures, the last one of nobody, and poses of which some are of strangers far away."""
    rng = np.random.default_rng(seed)
    count, found = int(rng.integers(1, 7)), int(rng.integers(0, 12))
    keypoints = rng.uniform(100, 300, (count, 1, 2)) + rng.uniform(-30, 30, (count, 16, 2))
    middle = rng.uniform(20, 380, (found, 1, 2))
    guesses = middle + rng.uniform(-30, 30, (found, 16, 2))
    near = rng.random(found) < 0.6
    guesses[near] = keypoints[rng.integers(0, count, near.sum())] + rng.normal(0, 6, (near.sum(), 16, 2))
    boxes = np.concatenate([keypoints.min(axis=1), keypoints.max(axis=1)], axis=1)
    batch = {
        "image_id": torch.tensor(rng.permutation(100)[:pictures]),
        "image_index": torch.tensor(rng.integers(0, pictures - 1, count)),
        "keypoints": torch.tensor(keypoints), "visibility": torch.tensor(rng.integers(0, 3, (count, 16))),
        "head_size": torch.tensor(rng.uniform(10, 40, count)), "box": torch.tensor(boxes),
    }  # fmt: skip
    scores = rng.random((found, 16)) * (rng.random((found, 16)) < 0.9)
    poses = Poses(
        torch.tensor(guesses), torch.tensor(scores), torch.rand(found),
        torch.tensor(np.concatenate([guesses.min(axis=1), guesses.max(axis=1)], axis=1)),
        batch["image_id"][torch.tensor(rng.integers(0, pictures, found))],
    )  # fmt: skip
    return poses, batch


def in_loops(cases, groups):
    """Score everything in plain loops; poses whose middle is outside of the annotated boxes are passed over."""
    frames = []
    for poses, batch in cases:
        for row, image in enumerate(batch["image_id"].tolist()):
            persons = [n for n, where in enumerate(batch["image_index"].tolist()) if where == row]
            chosen = []
            for n in range(len(poses)):
                x, y = ((poses.boxes[n, :2] + poses.boxes[n, 2:]) / 2).tolist()
                boxes = [batch["box"][person].tolist() for person in persons]
                inside = boxes and (
                    min(box[0] for box in boxes) <= x <= max(box[2] for box in boxes)
                    and min(box[1] for box in boxes) <= y <= max(box[3] for box in boxes)
                )
                if int(poses.image_ids[n]) == image and (inside or not groups):
                    chosen.append(n)
            frames.append({
                "truth": batch["keypoints"][persons].numpy(), "labelled": batch["visibility"][persons].numpy() > 0,
                "head_size": batch["head_size"][persons].numpy(), "keypoints": poses.keypoints[chosen].numpy(),
                "scores": poses.keypoint_scores[chosen].numpy(), "regions": [],
                "predicted": poses.keypoint_scores[chosen].numpy() > 0,
            })  # fmt: skip
    return plain_ap(frames, SCORED, lambda *_: False)


@pytest.mark.parametrize("groups", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_it_equals_plain_loops(seed, groups):
    cases = [crowded(10 * seed + number) for number in range(5)]
    for number, (poses, batch) in enumerate(cases):
        batch["image_id"] += 1000 * number
        poses.image_ids += 1000 * number
    metric = PCKhMeanAveragePrecision("mpii16", groups=groups)
    for case in cases:
        metric.update_batch(*case)
    values = {name: float(value) for name, value in metric.compute().items()}
    expected = in_loops(cases, groups)
    assert 0 < np.nanmean(expected["AP"]) < 1
    for name, wanted in expected.items():
        single = [values[f"{name}/{NAMES[index]}"] for index in SCORED]
        np.testing.assert_allclose(single, wanted, rtol=1e-9, err_msg=name)
        assert values[name] == pytest.approx(np.nanmean(wanted))
    assert len(values) == 3 * 15
    # Pictures that come again, as a sampler pads, count once.
    metric.update_batch(*cases[2])
    assert {name: float(value) for name, value in metric.compute().items()} == pytest.approx(values, nan_ok=True)


def one_person(places=((100.0, 100.0),), **more):
    """Persons around some places, as the truth and as they are found."""
    figure = torch.tensor(np.random.default_rng(0).uniform(-30, 30, (16, 2)))
    keypoints = torch.tensor(places)[:, None] + figure
    boxes = torch.cat([keypoints.amin(dim=1), keypoints.amax(dim=1)], dim=1)
    count = len(places)
    batch = {
        "image_id": torch.tensor([4]), "image_index": torch.zeros(count, dtype=torch.int64), "keypoints": keypoints,
        "visibility": torch.full((count, 16), 2), "head_size": torch.full((count,), 20.0), "box": boxes, **more,
    }  # fmt: skip
    return Poses(keypoints.clone(), torch.ones(count, 16), torch.ones(count), boxes, torch.full((count,), 4)), batch


def ap(poses, batch, **arguments):
    metric = PCKhMeanAveragePrecision("mpii16", **arguments)
    metric.update_batch(poses, batch)
    return float(metric.compute()["AP"])


def test_who_is_beside_the_group_does_not_count():
    poses, batch = one_person()
    both, _ = one_person(((100.0, 100.0), (300.0, 100.0)))
    both.keypoint_scores[1] = 2.0  # surer than the right one
    assert ap(poses, batch) == 1
    assert ap(both, batch) == 1
    assert ap(both, batch, groups=False) == pytest.approx(0.5)
    # Inside of the group, the same pose is wrong.
    inside, _ = one_person(((100.0, 100.0), (120.0, 100.0)))
    inside.keypoint_scores[1] = 2.0
    assert ap(inside, batch) == pytest.approx(0.5)


def test_a_person_missed_costs_recall_and_pelvis_and_thorax_cost_nothing():
    poses, batch = one_person(((100.0, 100.0), (130.0, 140.0)))
    assert ap(poses[torch.tensor([0])], batch) == pytest.approx(0.5)
    for index in set(range(16)) - set(SCORED):
        poses.keypoints[:, index] += 500
    assert ap(poses, batch) == 1
    assert ap(poses, batch, keypoints=["pelvis"]) == 0


def test_half_of_the_heads_size_is_right():
    poses, batch = one_person()
    poses.keypoints += torch.tensor([9.9, 0.0])
    assert ap(poses, batch) == 1
    poses.keypoints += torch.tensor([0.2, 0.0])
    assert ap(poses, batch) == 0
    assert ap(poses, batch, threshold=0.6) == 1


def test_persons_without_a_head_are_left_out_aloud():
    poses, batch = one_person(((100.0, 100.0), (130.0, 140.0)), head_size=torch.tensor([20.0, torch.nan]))
    metric = PCKhMeanAveragePrecision("mpii16")
    with pytest.warns(UserWarning, match="1 persons of image 4 are left out"):
        metric.update_batch(poses[torch.tensor([0])], batch)
    assert float(metric.compute()["AP"]) == 1


def test_pictures_of_nobody_do_not_count():
    poses, batch = one_person()
    nobody = {name: value[:0] if name != "image_id" else value for name, value in batch.items()}
    metric = PCKhMeanAveragePrecision("mpii16")
    metric.update_batch(poses, nobody)
    assert torch.isnan(metric.compute()["AP"])
    metric.reset()
    metric.update_batch(poses[:0], batch)
    assert float(metric.compute()["AP"]) == 0


def test_what_is_missing_is_named():
    poses, batch = one_person()
    for key in ("image_id", "head_size", "box"):
        with pytest.raises(MetricError, match=f"needs image_id, head_size and box|{key}"):
            ap(poses, {name: value for name, value in batch.items() if name != key})
    poses.keypoints[0, 3] = torch.nan
    with pytest.raises(MetricError, match="NaN"):
        ap(poses, batch)
    assert "0.5 of the head's size" in PCKhMeanAveragePrecision().protocol()
