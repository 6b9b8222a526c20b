"""Normalised mean error and RMSE against numpy and mmpose's numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics import EPE, NME, RMSE
from lightning_pose_zoo.metrics.functional import nme, rmse
from lightning_pose_zoo.skeletons import get_skeleton
from lightning_pose_zoo.structures import Poses


def _people(seed, persons):
    rng = np.random.default_rng(seed)
    target = rng.uniform(0, 300, (persons, 17, 2))
    predicted = target + rng.normal(0, 9, target.shape)
    return predicted, target, rng.integers(0, 3, (persons, 17)), rng.uniform(20, 90, persons)


@pytest.mark.parametrize("persons", [1, 2, 25])
def test_equal_numpy(persons):
    predicted, target, visibility, sizes = _people(persons, persons)
    people = [torch.from_numpy(value) for value in (predicted, target, visibility)]
    distances, labelled = np.linalg.norm(predicted - target, axis=-1), visibility > 0
    relative = distances / sizes[:, None]
    mean, root = NME(), RMSE()
    for part in torch.arange(persons).split(7):
        mean.update(*(value[part] for value in people), torch.from_numpy(sizes)[part])
        root.update(*(value[part] for value in people))
    mean_scores, root_scores = mean.compute(), root.compute()
    assert mean_scores["NME"].item() == pytest.approx(relative[labelled].mean(), rel=1e-14)
    assert root_scores["RMSE"].item() == pytest.approx(math.sqrt((distances[labelled] ** 2).mean()), rel=1e-14)
    assert nme(*people, torch.from_numpy(sizes)) == mean_scores["NME"]
    assert rmse(*people) == root_scores["RMSE"]
    for k, name in enumerate(get_skeleton("coco17").names):
        seen = labelled[:, k]
        if seen.any():
            assert mean_scores[f"NME/{name}"].item() == pytest.approx(relative[seen, k].mean(), rel=1e-14)
            root_mean = math.sqrt((distances[seen, k] ** 2).mean())
            assert root_scores[f"RMSE/{name}"].item() == pytest.approx(root_mean, rel=1e-14)
        else:
            assert mean_scores[f"NME/{name}"].isnan()
            assert root_scores[f"RMSE/{name}"].isnan()


def test_nme_reproduces_mmpose(test_data):
    folder = test_data / "oracles"
    processing = json.loads((folder / "processing" / "metrics_mmpose.json").read_text())["nme"]
    lsp = json.loads((folder / "expected.json").read_text())["pck_lspet"]["expected"]["NME_torso"]
    for file, size, skeleton, expected in (
        ("processing/metrics_mmpose.npz", "norm", "mpii16", processing),
        ("pck_lspet/input.npz", "torso", "lsp14", lsp),
    ):
        with np.load(folder / file) as data:
            arguments = [torch.from_numpy(data[name]) for name in ("pred", "gt", "mask", size)]
        metric = NME(skeleton)
        metric.update(*arguments)
        assert metric.compute()["NME"].item() == pytest.approx(expected, rel=1e-6)  # mmpose sums in float32
    measured = NME("lsp14", normalize_by="torso")
    measured.update(*arguments[:3])  # the torso is measured on the truth
    assert measured.compute()["NME"].item() == pytest.approx(lsp, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=17, max_size=17), st.randoms(use_true_random=False))
def test_rmse_is_never_below_the_mean_and_no_order_changes_it(offsets, random):
    target = torch.zeros(1, 17, 2, dtype=torch.float64)
    shuffled = random.sample(offsets, len(offsets))
    values = []
    for some in (offsets, shuffled):
        predicted = torch.stack([torch.tensor(some, dtype=torch.float64), torch.zeros(17)], dim=-1)[None]
        values.append(rmse(predicted, target, torch.ones(1, 17)).item())
    assert values[0] == values[1]
    assert values[0] >= np.mean(offsets) * (1 - 1e-12)
    assert values[0] <= max(offsets) * (1 + 1e-12)


def test_update_batch_divides_by_the_longer_side_of_the_box():
    target = torch.rand(2, 17, 2) * 100
    ids, boxes = torch.arange(2), torch.tensor([[0.0, 0.0, 50.0, 20.0], [0.0, 0.0, 10.0, 100.0]])
    batch = {"keypoints": target, "visibility": torch.ones(2, 17), "box": boxes, "person_id": ids}
    poses = Poses(target + torch.tensor([3.0, 4.0]), torch.ones(2, 17), torch.ones(2), boxes, ids, ids)
    metric = NME()
    metric.update_batch(poses, batch)
    assert metric.compute()["NME"].item() == pytest.approx((5 / 50 + 5 / 100) / 2, rel=1e-5)


def test_pixels_are_the_end_point_error():
    people = [torch.from_numpy(value) for value in _people(3, 20)[:3]]
    metric, error = NME(normalize_by="pixel"), EPE()
    metric.update(*people)
    error.update(*people)
    assert metric.compute()["NME"] == error.compute()["EPE"]


def test_persons_without_a_size_are_left_out_and_bad_input_is_refused():
    people = [torch.from_numpy(value) for value in _people(5, 10)]
    spoilt = people[3].clone()
    spoilt[:2] = torch.tensor([0.0, torch.nan])
    metric = NME()
    metric.update(*people[:3], spoilt)
    with pytest.warns(UserWarning, match="2 of 10 persons are left out"):
        value = metric.compute()["NME"]
    assert value == nme(*(column[2:] for column in people))
    with pytest.raises(MetricError, match="NME normalised by boxes needs their longer side"):
        metric.update(*people[:3])
    with pytest.raises(MetricError, match="NME knows torso, box, head and pixel"):
        NME(normalize_by="eyes")
    people[0][4, 0, 0] = torch.nan
    with pytest.raises(MetricError, match=r"rows \[4\]"):
        RMSE().update(*people[:3])


def test_nobody_is_nan():
    for metric in (NME(), RMSE()):
        with pytest.warns(UserWarning, match="before the ``update``"):
            scores = metric.compute()
        assert len(scores) == 18
        assert all(value.isnan() for value in scores.values())
