"""Coordinates in units of a box: both ways, and what counts."""

from __future__ import annotations

import pytest
import torch

from lightning_pose_zoo.codecs import RegressionCodec
from lightning_pose_zoo.losses import coordinate_loss


@pytest.mark.parametrize("convention", ["center", "mmpose"])
def test_round_trip(convention):
    torch.manual_seed(0)
    codec = RegressionCodec(convention)
    keypoints = torch.rand(5, 14, 2) * 300 - 50  # some outside
    targets = codec.encode(keypoints, torch.ones(5, 14), (192, 128))
    found, _ = codec.decode(targets.coordinates, (192, 128))
    torch.testing.assert_close(found, keypoints, rtol=0, atol=1e-4)


def test_units_by_hand():
    corners = torch.tensor([[[-0.5, -0.5], [127.5, 191.5], [63.5, 95.5]]])  # the crop's outermost edges, its middle
    inside = RegressionCodec().encode(corners, torch.ones(1, 3), (192, 128)).coordinates
    assert inside.tolist() == [[[-0.5, -0.5], [0.5, 0.5], [0.0, 0.0]]]
    theirs = RegressionCodec("mmpose").encode(torch.tensor([[[64.0, 48.0]]]), torch.ones(1, 1), (192, 128))
    assert theirs.coordinates.tolist() == [[[0.5, 0.25]]]


def test_displacements_are_scaled_and_nothing_is_added():
    torch.manual_seed(0)
    keypoints, centers, sides = torch.rand(3, 4, 2) * 99, torch.rand(3, 4, 2) * 99, torch.rand(3, 4) * 50 + 1
    for convention in ("center", "mmpose"):
        codec = RegressionCodec(convention)
        targets = codec.encode_displacement(keypoints, torch.ones(3, 4), centers, sides)
        back = centers + codec.decode_displacement(targets.coordinates, sides)
        torch.testing.assert_close(back, keypoints)
        assert codec.decode_displacement(torch.zeros(3, 4, 2), sides).abs().max() == 0
        outputs = torch.randn(3, 4, 2)
        torch.testing.assert_close(codec.decode_displacement(outputs, sides), outputs * sides[..., None])


def test_unlabelled_keypoints_count_for_nothing_wherever_they_are():
    codec = RegressionCodec()
    keypoints = torch.tensor([[[10.0, 20.0], [torch.nan, torch.inf]]])
    visibility = torch.tensor([[2, 0]], dtype=torch.uint8)
    for targets in (
        codec.encode(keypoints, visibility, (64, 64)),
        codec.encode_displacement(keypoints, visibility, torch.zeros(1, 2, 2), torch.ones(1, 2)),
    ):
        assert targets.weights.tolist() == [[1.0, 0.0]]
        assert targets.coordinates[0, 1].tolist() == [0.0, 0.0]
        outputs = torch.randn(1, 2, 2, requires_grad=True)
        loss = coordinate_loss(outputs, targets)
        loss.backward()
        by_hand = ((outputs[0, 0] - targets.coordinates[0, 0]) ** 2).sum()
        assert loss.item() == pytest.approx(by_hand.item())
        assert outputs.grad[0, 1].abs().max() == 0
    nothing = codec.encode(keypoints, torch.zeros(1, 2), (64, 64))
    assert coordinate_loss(outputs, nothing).item() == 0


def test_scores_say_what_is_inside_of_the_crop():
    codec = RegressionCodec()
    keypoints = torch.tensor([[[0.0, 0.0], [-0.6, 5.0], [31.4, 47.4], [31.6, 5.0], [5.0, 48.0]]])
    assert codec.scores(keypoints, (48, 32)).tolist() == [[1.0, 0.0, 1.0, 0.0, 0.0]]
    _, scores = codec.decode(torch.tensor([[[0.0, 0.0], [0.51, 0.0]]]), (48, 32))
    assert scores.tolist() == [[1.0, 0.0]]


def test_settings_are_told_and_checked():
    assert repr(RegressionCodec("mmpose")) == "RegressionCodec(convention=mmpose)"
    with pytest.raises(ValueError, match="choose center or mmpose"):
        RegressionCodec("pixels")
