"""The end point error against numpy and mmpose's numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lightning_pose_zoo.metrics import EPE
from lightning_pose_zoo.metrics.functional import epe
from lightning_pose_zoo.skeletons import get_skeleton
from lightning_pose_zoo.structures import Poses


@pytest.mark.parametrize("persons", [1, 2, 25])
def test_equals_numpy(persons):
    rng = np.random.default_rng(persons)
    target = rng.uniform(0, 300, (persons, 17, 2))
    predicted = target + rng.normal(0, 9, target.shape)
    visibility = rng.integers(0, 3, (persons, 17))
    distances = np.linalg.norm(predicted - target, axis=-1)
    metric = EPE()
    metric.update(*(torch.from_numpy(value) for value in (predicted, target, visibility)))
    scores = metric.compute()
    labelled = visibility > 0
    assert scores["EPE"].item() == pytest.approx(distances[labelled].mean(), rel=1e-14)
    assert scores["EPE/median"].item() == pytest.approx(np.median(distances[labelled]), rel=1e-14)
    single = epe(*(torch.from_numpy(value) for value in (predicted, target, visibility)), average="none")
    for k, name in enumerate(get_skeleton("coco17").names):
        if labelled[:, k].any():
            assert scores[f"EPE/{name}"].item() == pytest.approx(distances[labelled[:, k], k].mean(), rel=1e-14)
            assert scores[f"EPE/{name}"] == single[k]
        else:
            assert scores[f"EPE/{name}"].isnan()
            assert single[k].isnan()


def test_reproduces_mmpose(test_data):
    folder = test_data / "oracles"
    processing = json.loads((folder / "processing" / "metrics_mmpose.json").read_text())["epe"]
    lsp = json.loads((folder / "expected.json").read_text())["pck_lspet"]["expected"]["EPE"]
    for file, expected in (("processing/metrics_mmpose.npz", processing), ("pck_lspet/input.npz", lsp)):
        with np.load(folder / file) as data:
            arguments = [torch.from_numpy(data[name]) for name in ("pred", "gt", "mask")]
        assert epe(*arguments).item() == pytest.approx(expected, rel=1e-6)  # mmpose sums in float32


def test_the_order_of_persons_does_not_change_a_single_bit():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(500, 17, 2, dtype=torch.float64, generator=generator) * 1000
    predicted = target + torch.randn(500, 17, 2, dtype=torch.float64, generator=generator) * 10.0 ** torch.randint(
        -6, 6, (500, 17, 1), generator=generator
    )
    forward, backward = EPE(), EPE()
    forward.update(predicted, target, torch.ones(500, 17))
    backward.update(predicted.flip(0), target.flip(0), torch.ones(500, 17))
    assert forward.compute() == backward.compute()


def test_somebody_not_predicted_makes_the_mean_infinite_but_not_the_median():
    target = torch.rand(3, 17, 2) * 100
    batch = {"keypoints": target, "visibility": torch.ones(3, 17), "person_id": torch.arange(3)}
    shifted, ids = target[:2] + torch.tensor([3.0, 4.0]), torch.arange(2)
    found = Poses(shifted, torch.ones(2, 17), torch.ones(2), torch.zeros(2, 4), ids, person_ids=ids)
    metric = EPE()
    metric.update_batch(found, batch)
    scores = metric.compute()
    assert scores["EPE"] == torch.inf
    assert scores["EPE/median"].item() == pytest.approx(5, rel=1e-6)
