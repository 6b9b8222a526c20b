"""Losses against plain loops, and where nothing is labelled."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_pose_zoo.codecs import HeatmapCodec, HeatmapTargets, IntegralCodec
from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.losses import (
    HeatmapCrossEntropy,
    HeatmapMSE,
    HeatmapOHKM,
    SymmetricIntegralLoss,
    _SymmetricMean,
)


@pytest.fixture
def case():
    torch.manual_seed(0)
    outputs = torch.randn(3, 4, 6, 5, requires_grad=True)
    weights = torch.tensor([[1.0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    return outputs, HeatmapTargets(torch.rand(3, 4, 6, 5) * weights[..., None, None], weights)


def errors_by_hand(outputs, targets):
    return [
        [
            0.5
            * targets.weights[n, k].item()
            * sum(
                (outputs[n, k, y, x].item() - targets.heatmaps[n, k, y, x].item()) ** 2
                for y in range(6)
                for x in range(5)
            )
            / 30
            for k in range(4)
        ]
        for n in range(3)
    ]


def test_mse_counts_unlabelled_keypoints_as_zero(case):
    by_hand = errors_by_hand(*case)
    assert HeatmapMSE()(*case).item() == pytest.approx(sum(map(sum, by_hand)) / 12, rel=1e-5)


def test_ohkm_takes_the_worst_keypoints_of_each_person(case):
    by_hand = [sorted(row, reverse=True)[:2] for row in errors_by_hand(*case)]
    assert HeatmapOHKM(2)(*case).item() == pytest.approx(sum(map(sum, by_hand)) / 6, rel=1e-5)
    assert HeatmapOHKM(100)(*case).item() == pytest.approx(HeatmapMSE()(*case).item(), rel=1e-5)


def test_cross_entropy_is_the_mean_over_labelled_keypoints(case):
    outputs, targets = case
    total, count = 0.0, 0
    for n in range(3):
        for k in range(4):
            if not targets.weights[n, k]:
                continue
            norm = math.log(sum(math.exp(value) for value in outputs[n, k].flatten().tolist()))
            share = targets.heatmaps[n, k] / targets.heatmaps[n, k].sum()
            total -= sum(
                p * (value - norm)
                for p, value in zip(share.flatten().tolist(), outputs[n, k].flatten().tolist(), strict=True)
            )
            count += 1
    assert HeatmapCrossEntropy()(*case).item() == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("loss", [HeatmapMSE(), HeatmapOHKM(), HeatmapCrossEntropy()])
def test_nothing_labelled_is_zero_but_connected(loss):
    outputs = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = loss(outputs, HeatmapTargets(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3)))
    assert value.item() == 0
    value.backward()
    assert outputs.grad is not None
    assert (outputs.grad == 0).all()


@pytest.mark.parametrize("loss", [HeatmapMSE(), HeatmapOHKM(), HeatmapCrossEntropy()])
def test_the_right_maps_cost_least(loss):
    from lightning_pose_zoo.codecs import HeatmapCodec

    targets = HeatmapCodec().encode(torch.tensor([[[20.0, 30.0]]]), torch.ones(1, 1), (64, 64))
    right = targets.heatmaps.clamp(min=1e-6).log() if isinstance(loss, HeatmapCrossEntropy) else targets.heatmaps
    assert loss(right, targets) < loss(right.roll(2, dims=-1), targets)
    peak = loss.to_heatmaps(right).amax()
    assert peak.item() == pytest.approx(1.0, abs=0.1)


def test_half_precision_outputs_are_compared_in_full():
    outputs = torch.full((1, 1, 4, 4), 300.0, dtype=torch.float16)
    assert torch.isfinite(HeatmapMSE()(outputs, HeatmapTargets(torch.zeros(1, 1, 4, 4), torch.ones(1, 1))))


def integral_targets(count=3, size=(64, 48)):
    codec = IntegralCodec(stride=4)
    torch.manual_seed(0)
    keypoints = torch.rand(count, 4, 2) * torch.tensor([size[1], size[0]])
    visibility = torch.tensor([2, 2, 1, 0]).expand(count, 4)
    return codec, codec.encode(keypoints, visibility, size), keypoints


@pytest.mark.parametrize("weights", ["softmax", "sigmoid"])
def test_symmetric_integral_loss_is_the_distance_of_the_mean(weights):
    codec, targets, keypoints = integral_targets()
    outputs = torch.randn(3, 4, 16, 12)
    loss = SymmetricIntegralLoss(weights)
    found, _ = codec.decode(loss.to_heatmaps(outputs))
    sides = torch.tensor([48.0, 64.0])
    by_hand = [
        ((found[n, k] - keypoints[n, k]).abs() / sides).sum().item()
        for n in range(3) for k in range(4) if targets.weights[n, k]
    ]  # fmt: skip
    assert len(by_hand) >= 6
    assert loss(outputs, targets).item() == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-4)


def test_symmetric_gradient_is_the_published_rule():
    """-2 before the mean and 2 from it on; 2 everywhere where the mean is beyond the map."""
    profile = torch.tensor([[0.1, 0.2, 0.4, 0.3], [9.0, 0, 0, 1], [0, 0, 3.0, 0]], requires_grad=True)
    mean = _SymmetricMean.apply(profile)
    assert mean.tolist() == pytest.approx([1.9, 3.0, 6.0])
    (mean * torch.tensor([1.0, 0.5, 1.0])).sum().backward()
    assert profile.grad.tolist() == [[-2, -2, 2, 2], [-1, -1, -1, 1], [2, 2, 2, 2]]


def test_symmetric_gradient_does_not_prefer_a_side():
    """A map and its mirror image are moved alike, where the plain mean moves the far side more."""
    outputs = torch.randn(1, 1, 8, 12)
    codec = IntegralCodec(stride=4)

    def gradient(maps, x):
        maps = maps.clone().requires_grad_()
        targets = codec.encode(torch.tensor([[[x, 15.5]]]), torch.ones(1, 1), (32, 48))
        SymmetricIntegralLoss("softmax")(maps, targets).backward()
        return maps.grad

    there, mirrored = gradient(outputs, 10.0), gradient(outputs.flip(-1), 37.0)
    torch.testing.assert_close(mirrored.flip(-1), there, rtol=1e-4, atol=1e-7)


def test_symmetric_integral_needs_its_codec():
    targets = HeatmapCodec("center").encode(torch.zeros(1, 2, 2), torch.ones(1, 2), (32, 32))
    with pytest.raises(SettingsError, match="take IntegralCodec"):
        SymmetricIntegralLoss()(torch.zeros(1, 2, 8, 8), targets)
    with pytest.raises(ValueError, match="softmax or sigmoid"):
        SymmetricIntegralLoss("relu")  # type: ignore[arg-type]


def test_integral_codec_reads_what_it_drew_and_flat_maps_in_the_middle():
    codec = IntegralCodec(stride=4, sigma=1.0)
    keypoints = torch.tensor([[[20.0, 33.0], [30.5, 25.25]]])
    found, scores = codec.decode(codec.encode(keypoints, torch.ones(1, 2), (64, 48)).heatmaps)
    assert (found - keypoints).abs().max() < 0.05
    assert (scores > 0.8).all()
    flat, scores = codec.decode(torch.zeros(1, 1, 16, 12) - 1)
    torch.testing.assert_close(flat, torch.tensor([[[23.5, 31.5]]]))
    assert scores.item() == 0
