"""What candidates say of each other, against plain loops and scipy's own minimiser."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from lightning_pose_zoo.association.part_pairs import (
    fit_regressions,
    log_odds,
    pair_features,
    partition_problem,
    sampled_pairs,
)
from lightning_pose_zoo.codecs import PartCandidates
from lightning_pose_zoo.networks.deepcut import PairRegression


def candidates(count=12, joints=3, pictures=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = 100 * torch.rand(count, 2, generator=generator)
    return PartCandidates(
        rows=torch.randint(0, pictures, (count,), generator=generator).sort().values,
        parts=torch.randint(0, joints, (count,), generator=generator),
        scores=torch.rand(count, generator=generator),
        centers=centers,
        positions=centers + 3 * torch.randn(count, 2, generator=generator),
        toward=20 * torch.randn(count, joints, 2, generator=generator),
    )


def one_pair(found, i, j, stride):
    """Distance and angle of what i expects of j, and exp(-) of both."""
    true = (found.positions[j] - found.centers[i]).tolist()
    expected = found.toward[i, found.parts[j]].tolist()
    distance = math.dist(true, expected) / stride
    cosine = (true[0] * expected[0] + true[1] * expected[1]) / (math.hypot(*true) * math.hypot(*expected))
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    return [distance, angle, math.exp(-distance), math.exp(-angle)]


def test_features_are_those_of_a_plain_loop():
    found = candidates()
    first, second = torch.triu_indices(12, 12, 1)
    features = pair_features(found, first, second, 8)
    for row, (i, j) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        expected = torch.tensor([one_pair(found, i, j, 8), one_pair(found, j, i, 8)])
        torch.testing.assert_close(features[row], expected, rtol=1e-3, atol=1e-3)


def test_costs_are_those_of_a_plain_loop():
    found, regression = candidates(), PairRegression(3)
    with torch.no_grad():
        regression.weights.normal_()
        regression.low.copy_(torch.tensor([0.1, 0.0, 0.0, 0.1]))
        regression.high.copy_(torch.tensor([9.0, 3.0, 0.9, 1.0]))
    regression.requires_grad_(False)
    problem = partition_problem(found, regression, 8, same_part_distance=37.5)
    assert problem.classes.tolist() == found.parts.tolist()
    for i in range(12):
        p = float(found.scores[i])
        assert problem.unaries[i] == pytest.approx(math.log((1 - p) / p), rel=1e-4)
        for j in set(range(12)) - {i}:
            a, b = int(found.parts[i]), int(found.parts[j])
            if a == b:
                distance = math.dist(found.positions[i].tolist(), found.positions[j].tolist())
                p = 1 / (1 + math.exp(0.2 * distance - 7.5))
                expected = math.log((1 - p) / p)
            else:
                expected = 0.0
                for here, there, one, other in ((i, j, a, b), (j, i, b, a)):
                    for value, low, high, weight in zip(
                        one_pair(found, here, there, 8), regression.low, regression.high,
                        regression.weights[one, other][:4], strict=True,
                    ):  # fmt: skip
                        expected -= float(weight) * (value - float(low)) / (float(high) - float(low))
                    expected -= float(regression.weights[one, other, 4])
            expected = max(-16.118, min(16.118, expected))
            assert problem.pairwise[i, j] == pytest.approx(expected, abs=2e-3)


def test_probabilities_of_0_and_1_have_finite_costs():
    costs = log_odds(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(costs, torch.tensor([16.118, 0, -16.118], dtype=torch.float64), rtol=0, atol=1e-3)


def test_regressions_are_the_minimum_that_scipy_finds():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 3, 900)
    features = np.concatenate([rng.random((900, 4)), np.ones((900, 1))], axis=1)
    truth = np.array([[3.0, -2, 0, 1, -1], [0, 4, -4, 0, 1], [-1, -1, 5, 0, -2]])
    odds = (features * truth[groups]).sum(axis=1)
    together = rng.random(900) < 1 / (1 + np.exp(-odds))

    def best(rows, start):
        x, y = features[rows], together[rows]
        share = np.where(y, len(y) / 2 / y.sum(), len(y) / 2 / (~y).sum())

        def loss(weights):
            odds = x @ weights
            return (share * np.log1p(np.exp(np.where(y, -odds, odds)))).sum() + 0.005 * ((weights - start) ** 2).sum()

        return minimize(loss, start, method="BFGS", options={"gtol": 1e-7}).x

    common = best(np.ones(900, bool), np.zeros(5))
    found = fit_regressions(features, groups, together, 4)
    for group in range(3):
        np.testing.assert_allclose(found[group], best(groups == group, common), atol=2e-3)
    np.testing.assert_allclose(found[3], common, atol=2e-3)  # no pairs at all


def test_regressions_without_overlap_stay_finite():
    features = np.array([[0.0, 1.0]] * 5 + [[1.0, 1.0]] * 5)
    together = np.arange(10) < 5
    [weights] = fit_regressions(features, np.zeros(10, np.int64), together, 1)
    assert np.isfinite(weights).all()
    assert ((features @ weights > 3) == together).all()
    assert (abs(features @ weights) < 20).all()
    # One kind of pairs says nothing.
    assert (fit_regressions(features, np.zeros(10, np.int64), np.ones(10, bool), 1) == 0).all()


def test_pairs_are_told_by_the_labels():
    found = candidates(count=40, joints=3, pictures=2, seed=3)
    keypoints = torch.stack([found.positions[[0, 1, 2]], found.positions[[10, 11, 12]]])
    batch = {
        "image": torch.zeros(2, 3, 110, 110, dtype=torch.uint8),
        "keypoints": keypoints,
        "visibility": torch.tensor([[2, 2, 0], [1, 2, 2]]),
        "ignore": torch.zeros(2, 110, 110, dtype=torch.bool),
    }
    people = torch.tensor([0, 0])
    batch["ignore"][0, :, 70:] = True

    def person(i):
        near = [
            (math.dist(found.positions[i].tolist(), keypoints[n, found.parts[i]].tolist()), n)
            for n in range(2)
            if people[n] == found.rows[i] and batch["visibility"][n, found.parts[i]]
        ]
        return min(near)[1] if near and min(near)[0] <= 15 else -1

    def ignored(i):
        x, y = found.positions[i].round().long().clamp(0, 109).tolist()
        return bool(batch["ignore"][found.rows[i], y, x]) and person(i) < 0

    expected = {
        (int(found.rows[i]), int(found.parts[i]), int(found.parts[j]), person(i) == person(j))
        for i in range(40)
        for j in range(i + 1, 40)
        if found.rows[i] == found.rows[j] and found.parts[i] != found.parts[j] and max(person(i), person(j)) >= 0
        and not ignored(i) and not ignored(j)
    }  # fmt: skip
    rows, features, parts, together = sampled_pairs(found, batch, people, 15.0, 8)
    pairs = zip(rows.tolist(), parts[:, 0].tolist(), parts[:, 1].tolist(), together.tolist(), strict=True)
    assert set(pairs) == expected
    assert {True, False} == set(together.tolist())
    assert features.shape == (len(rows), 2, 4)
