"""Implausible poses: measures against plain loops, ranges of circles, and who counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics import ImplausiblePoses, PoseRanges
from lightning_pose_zoo.metrics.functional import fit_pose_ranges, implausible_poses
from lightning_pose_zoo.metrics.functional.plausibility import measure_names, outside_ranges, pose_measures
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton
from lightning_pose_zoo.structures import Poses

LSP = get_skeleton("lsp14")
# A leg: from the hip down, and a foot to the side.
LEG = Skeleton.from_dict(
    {**LSP.to_dict(), "name": "leg", "names": ["hip", "knee", "ankle", "toe"], "limbs": [[0, 1], [1, 2], [2, 3]],
     "flip_pairs": [], "sigmas": [0.1] * 4, "upper_body": [], "torso": [], "head": [], "colors": []}
)  # fmt: skip
STANDING = torch.tensor([[[0.0, 0.0], [0.0, 40.0], [0.0, 80.0], [20.0, 80.0]]])
ALL = torch.ones(1, 4)


def known_poses(count=200, seed=0):
    """Standing legs, varied a little."""
    generator = torch.Generator().manual_seed(seed)
    return STANDING + torch.randn(count, 4, 2, generator=generator), torch.ones(count, 4)


def test_measures_of_a_leg():
    assert measure_names(LEG) == (["hip-knee", "knee-ankle", "ankle-toe"], ["hip-knee-ankle", "knee-ankle-toe"])
    measures = pose_measures(STANDING, ALL, LEG)
    assert measures.dtype == torch.float64
    # Up along the shin, then to the right: a quarter turn clockwise in the picture, where y points down.
    assert measures[0].abs().tolist() == pytest.approx([1, 1, 0.5, math.pi, math.pi / 2])
    assert measures[0, 4] > 0
    assert pose_measures(STANDING * torch.tensor([-1.0, 1.0]), ALL, LEG)[0, 4] == pytest.approx(-math.pi / 2)


def test_measures_equal_a_plain_loop():
    generator = torch.Generator().manual_seed(1)
    keypoints = torch.rand(20, 14, 2, generator=generator, dtype=torch.float64) * 100
    visibility = torch.randint(0, 3, (20, 14), generator=generator)
    measures = pose_measures(keypoints, visibility, LSP).numpy()
    limbs, angles = measure_names(LSP)
    assert measures.shape == (20, len(limbs) + len(angles))
    place = {name: index for index, name in enumerate(LSP.names)}
    for row, (pose, flags) in enumerate(zip(keypoints.numpy(), visibility.tolist(), strict=True)):
        lengths = [
            np.linalg.norm(pose[a] - pose[b]) if flags[a] and flags[b] else np.nan
            for a, b in ((place[one], place[other]) for one, other in (name.split("-") for name in limbs))
        ]
        # torch's median of an even number is the lower of the middle two.
        labelled = sorted(length for length in lengths if not np.isnan(length))
        middle = labelled[(len(labelled) - 1) // 2] if labelled else np.nan
        np.testing.assert_allclose(measures[row, : len(limbs)], np.array(lengths) / middle, rtol=1e-12)
        for column, name in enumerate(angles, start=len(limbs)):
            one, joint, other = (place[part] for part in name.split("-"))
            if not (flags[one] and flags[joint] and flags[other]):
                assert np.isnan(measures[row, column])
                continue
            first, second = (complex(*(pose[end] - pose[joint])) for end in (one, other))
            assert measures[row, column] == pytest.approx(np.angle(second / first), abs=1e-9)


def test_place_size_and_turn_of_a_person_do_not_matter():
    keypoints, visibility = known_poses(10)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    moved = 3 * keypoints @ turn.T + torch.tensor([50.0, -7.0])
    torch.testing.assert_close(
        pose_measures(moved, visibility, LEG), pose_measures(keypoints, visibility, LEG), rtol=1e-4, atol=1e-4
    )


def test_ranges_leave_out_the_outermost_values_and_arcs_cross_the_half_turn():
    keypoints, visibility = known_poses(1000)
    ranges = fit_pose_ranges(keypoints, visibility, LEG, coverage=0.9)
    measures = pose_measures(keypoints, visibility, LEG)
    outside = outside_ranges(measures, ranges)
    # The foot is never the middle one of the three limbs, of which the ratio is 1.
    assert outside[:, 2:].mean(dim=0).tolist() == pytest.approx([0.1] * 3, abs=0.001)
    assert outside[:, :2].max() == 1
    # The knee is straight: angles are around half a turn, where they change their sign.
    assert measures[:, 3].max() > 3.1
    assert measures[:, 3].min() < -3.1
    assert ranges.high[3] - ranges.low[3] < 0.3
    everything = fit_pose_ranges(keypoints, visibility, LEG, coverage=1.0)
    assert outside_ranges(measures, everything).sum() == 0


def test_what_is_out_of_range_is_named():
    ranges = fit_pose_ranges(*known_poses(), LEG)
    metric = ImplausiblePoses(LEG, ranges)
    long, bent, unlabelled = STANDING.clone(), STANDING.clone(), STANDING.clone()
    long[0, 3, 0] = 70
    bent[0, 2:] = torch.tensor([[40.0, 40.0], [40.0, 60.0]])
    unlabelled[0, 3, 0] = 500
    flags = ALL.repeat(4, 1)
    flags[3, 3] = 0
    poses = torch.cat([STANDING, long, bent, unlabelled])
    metric.update(poses, torch.zeros(4, 4, 2), flags)
    scores = {name: value.item() for name, value in metric.compute().items()}
    assert scores["Implausible"] == 0.5
    assert scores["Implausible/limbs"] == scores["Implausible/angles"] == 0.25
    assert scores["Implausible/ankle-toe"] == pytest.approx(1 / 3)  # of three who have a toe
    assert scores["Implausible/hip-knee-ankle"] == 0.25
    assert scores["Implausible/hip-knee"] == 0
    assert implausible_poses(poses, flags, ranges, LEG).item() == 0.5
    nobody = ImplausiblePoses(LEG, ranges)
    nobody.update(poses, poses, torch.zeros(4, 4))
    assert math.isnan(nobody.compute()["Implausible"])


def test_somebody_who_was_not_predicted_is_not_implausible():
    metric = ImplausiblePoses(LEG, fit_pose_ranges(*known_poses(), LEG))
    batch = {
        "image": torch.zeros(2, 3, 1, 1), "keypoints": STANDING.repeat(2, 1, 1), "visibility": ALL.repeat(2, 1),
        "image_id": torch.tensor([1, 2]), "person_id": torch.tensor([7, 8]),
    }  # fmt: skip
    one = Poses(STANDING, ALL, ALL[:, 0], torch.zeros(1, 4), torch.tensor([1]), torch.tensor([7]))
    metric.update_batch(one, batch)
    assert metric.compute()["Implausible"].item() == 0


def test_ranges_are_kept_in_a_file(tmp_path):
    metric = ImplausiblePoses(LEG)
    metric.update(STANDING, STANDING, ALL)
    with pytest.raises(MetricError, match=r"has no ranges of known poses; give them"):
        metric.compute()
    ranges = metric.fit(*known_poses())
    assert metric.compute()["Implausible"].item() == 0  # poses from before are compared too
    ranges.save(tmp_path / "ranges.json")
    assert PoseRanges.load(tmp_path / "ranges.json") == ranges
    assert ImplausiblePoses(LEG, str(tmp_path / "ranges.json")).ranges == ranges
    assert PoseRanges.from_dict(ranges.to_dict()) == ranges


def test_wrong_ranges_are_refused(tmp_path):
    ranges = fit_pose_ranges(*known_poses(), LEG)
    with pytest.raises(MetricError, match="not those of skeleton 'lsp14'"):
        ImplausiblePoses("lsp14", ranges)
    with pytest.raises(MetricError, match=r"none.json' has no ranges"):
        ImplausiblePoses(LEG, str(tmp_path / "none.json"))
    for text, message in (("[1]", "has no ranges"), ('{"low": 1}', "no ranges of poses, as"), ("x", "could be read")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(MetricError, match=f"bad.json'.*{message}"):
            PoseRanges.load(tmp_path / "bad.json")
    with pytest.raises(MetricError, match="do not fit together"):
        PoseRanges.from_dict({**ranges.to_dict(), "low": [0.0]})
    with pytest.raises(MetricError, match="coverage is 0"):
        fit_pose_ranges(*known_poses(), LEG, coverage=0)
    with pytest.raises(MetricError, match=r"none of 1 known poses has a ankle-toe"):
        fit_pose_ranges(STANDING, torch.tensor([[1, 1, 1, 0]]), LEG)
    with pytest.raises(MetricError, match="has no limbs"):
        measure_names(Skeleton.from_dict({**LEG.to_dict(), "limbs": []}))
    lsp = fit_pose_ranges(torch.rand(50, 14, 2), torch.ones(50, 14), "lsp14")
    with pytest.raises(MetricError, match="5 measures, but ranges of 33"):
        outside_ranges(pose_measures(STANDING, ALL, LEG), lsp)
