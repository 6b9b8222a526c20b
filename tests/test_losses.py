"""Losses against plain loops, and where nothing is labelled."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_pose_zoo.codecs import HeatmapTargets
from lightning_pose_zoo.losses import HeatmapCrossEntropy, HeatmapMSE, HeatmapOHKM


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
