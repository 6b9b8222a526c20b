"""What two part candidates say of each other, and how likely they are one person's.

The pairwise terms of DeeperCut (Insafutdinov et al., ECCV 2016, arXiv 1605.03170): each candidate's cell expects every
other joint of its person somewhere; how wrong that is for another candidate decides by logistic regression whether they
belong together. Two candidates of one part do where they are close.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_pose_zoo.association.partition import PartitionProblem
from lightning_pose_zoo.codecs.part_fields import PartCandidates, TopCandidates
from lightning_pose_zoo.structures import PoseBatch

__all__ = ["fit_regressions", "log_odds", "pair_costs", "pair_features", "partition_problem", "sampled_pairs"]

Floats = npt.NDArray[np.float64]

_SURE = 1e-7  # probabilities are kept this far from 0 and 1, as in the released code
_CERTAIN = float(np.log((1 - _SURE) / _SURE))
_SAME_PART_SLOPE = 7.5  # the published p = 1 / (1 + exp(0.2 d - 7.5)) is even at 37.5 pixels
_PRIOR = 0.01  # of a regression's weights around the common ones, in pairs per unit
_PAIRS_PER_PICTURE = 2000
_STEPS = 50
_SETTLED = 1e-8


def log_odds(probability: Tensor) -> Tensor:
    """Return log((1 - p) / p), the cost of what has the probability p; p is clipped to 1e-7 from 0 and 1."""
    clipped = probability.double().clamp(_SURE, 1 - _SURE)
    return ((1 - clipped) / clipped).log()


def pair_features(candidates: PartCandidates, first: Tensor, second: Tensor, stride: int) -> Tensor:
    """Measure how wrong both ends of pairs are about each other.

    From the middle of a candidate's cell to the other candidate's refined place is the true displacement; the cell
    expects another one.

    Args:
        candidates: M candidates.
        first: (m,) int64, one candidate of each pair.
        second: (m,) int64, the other one, of another part and in the same picture.
        stride: Pixels per cell.

    Returns:
        (m, 2, 4) float32, for each end the distance in cells, the angle in radians and exp(-) of both.
    """
    ends = []
    for here, there in ((first, second), (second, first)):
        true = candidates.positions[there] - candidates.centers[here]
        ends.append(_mistakes(true, candidates.toward[here, candidates.parts[there]], stride))
    return torch.stack(ends, dim=1)


def _mistakes(true: Tensor, expected: Tensor, stride: int) -> Tensor:
    """Measure how wrong expected displacements (..., 2) are, (..., 4)."""
    distance = (true - expected).norm(dim=-1) / stride
    cross = true[..., 0] * expected[..., 1] - true[..., 1] * expected[..., 0]
    angle = torch.atan2(cross.abs(), (true * expected).sum(dim=-1))
    return torch.stack([distance, angle, (-distance).exp(), (-angle).exp()], dim=-1)


def pair_costs(
    candidates: TopCandidates,
    one_end: Callable[[Tensor, Tensor, Tensor], Tensor],
    stride: int,
    same_part_distance: float,
) -> Tensor:
    """Compose the pairwise costs of ``partition_problem`` for candidates in tensors of fixed shapes.

    Args:
        candidates: K times M in each of B pictures.
        one_end: ``PairRegression.of_one_end``: features (..., 4) and the parts of both ends to (...).
        stride: Pixels per cell.
        same_part_distance: As there.

    Returns:
        (B, K M, K M), candidates part by part; 0 on the diagonal and where there is no candidate.
    """
    joints, most = int(candidates.scores.shape[1]), int(candidates.scores.shape[2])
    parts = torch.arange(joints, device=candidates.scores.device).repeat_interleave(most)
    positions, centers = candidates.positions.flatten(1, 2), candidates.centers.flatten(1, 2)
    expected = candidates.toward.flatten(1, 2)[:, :, parts]  # (B, K M, K M, 2): of the row about the column
    true = positions[:, None] - centers[:, :, None]
    ends = one_end(_mistakes(true, expected, stride), parts[:, None], parts[None])
    distance = (positions[:, None] - positions[:, :, None]).norm(dim=-1)
    same_part = _SAME_PART_SLOPE * (distance / same_part_distance - 1)
    costs = torch.where(parts[:, None] == parts[None], same_part, -(ends + ends.transpose(1, 2)))
    there = candidates.scores.flatten(1) > 0
    counted = there[:, :, None] & there[:, None] & ~torch.eye(joints * most, dtype=torch.bool, device=parts.device)
    return torch.where(counted, costs.clamp(-_CERTAIN, _CERTAIN), 0.0)


def partition_problem(
    candidates: PartCandidates,
    regression: Callable[[Tensor, Tensor], Tensor],
    stride: int,
    same_part_distance: float,
    one_person: bool = False,
) -> PartitionProblem:
    """Compose the costs of one picture's candidates.

    Args:
        candidates: M candidates of one picture.
        regression: Features (m, 2, 4) and parts (m, 2) of pairs to log-odds (m,) that they are one person's.
        stride: Pixels per cell.
        same_part_distance: Pixels at which two candidates of one part are as likely one person's as not.
        one_person: All that is chosen is one person.

    Returns:
        The problem, a node for each candidate.
    """
    count = len(candidates.parts)
    first, second = torch.triu_indices(count, count, 1, device=candidates.parts.device)
    alike = candidates.parts[first] == candidates.parts[second]
    distance = (candidates.positions[first] - candidates.positions[second]).norm(dim=-1).double()
    costs = _SAME_PART_SLOPE * (distance / same_part_distance - 1)
    other = ~alike
    features = pair_features(candidates, first[other], second[other], stride)
    parts = torch.stack([candidates.parts[first[other]], candidates.parts[second[other]]], dim=1)
    costs[other] = -regression(features, parts).double()
    pairwise = np.zeros((count, count))
    places = first.cpu().numpy(), second.cpu().numpy()
    pairwise[places] = costs.detach().clamp(-_CERTAIN, _CERTAIN).cpu().numpy()
    unaries = log_odds(candidates.scores).cpu().numpy()
    return PartitionProblem(
        unaries, pairwise + pairwise.T, classes=candidates.parts.cpu().numpy(), one_cluster=one_person
    )


def fit_regressions(
    features: Floats, groups: npt.NDArray[np.int64], together: npt.NDArray[np.bool_], count: int
) -> Floats:
    """Fit one logistic regression for each group, by Newton's method to the optimum.

    Pairs that belong together and pairs that do not weigh the same in sum, so that the log-odds say what the features
    say and not how many pairs there were of each. First one regression is fitted to all; each group's stays near it
    where the group has few pairs.

    Args:
        features: (m, F), the last one 1.
        groups: (m,) 0 to ``count`` - 1.
        together: (m,) whether a pair is one person's.
        count: How many groups.

    Returns:
        (count, F) weights; those of all together where a group has pairs of one kind only, zeros where all have.
    """
    common = _fit(features, together, np.zeros(features.shape[1]))
    weights = np.repeat(common[None], count, axis=0)
    order = np.argsort(groups, kind="stable")
    ends = np.searchsorted(groups[order], np.arange(count + 1))
    for group in range(count):
        rows = order[ends[group] : ends[group + 1]]
        weights[group] = _fit(features[rows], together[rows], common)
    return weights


def _fit(features: Floats, together: npt.NDArray[np.bool_], start: Floats) -> Floats:
    """Minimise the balanced loss of one regression plus the squared distance from ``start``."""
    weights, right = start.copy(), float(together.sum())
    if right in (0, len(together)):
        return weights
    total = len(together) / 2
    share = np.where(together, total / right, total / (len(together) - right))

    def loss(at: Floats) -> float:
        signed = np.where(together, 1.0, -1.0) * (features @ at)
        return float((share * np.logaddexp(0, -signed)).sum() + _PRIOR / 2 * ((at - start) ** 2).sum())

    value = loss(weights)
    for _ in range(_STEPS):
        odds = 1 / (1 + np.exp(-np.clip(features @ weights, -500, 500)))
        slope = features.T @ (share * (odds - together)) + _PRIOR * (weights - start)
        bend = (features * (share * odds * (1 - odds))[:, None]).T @ features + _PRIOR * np.eye(len(weights))
        step = np.linalg.solve(bend, slope)
        size = 1.0
        while (lower := loss(weights - size * step)) > value and size > 1e-6:
            size /= 2
        if lower > value:
            break
        weights, gained, value = weights - size * step, value - lower, lower
        if gained < _SETTLED * max(1.0, value):
            break
    return weights


def sampled_pairs(
    candidates: PartCandidates, batch: PoseBatch, people: Tensor, radius: float, stride: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pair the candidates of each picture and tell by the labels which pairs are one person's.

    A candidate is a person's where the nearest labelled joint of its part is that person's and not farther than
    ``radius``; else it is nobody's. Pairs of two that are nobody's say nothing, nor do candidates in ignored regions.

    Args:
        candidates: Of all pictures of a batch.
        batch: The pictures' labels.
        people: (N,) int64, the picture of each person.
        radius: Pixels.
        stride: Pixels per cell.

    Returns:
        The picture (m,) of each pair, features (m, 2, 4), parts (m, 2), the lower one first, and whether the pair is
        one person's (m,).
    """
    person = _matched(candidates, batch, people, radius)
    known = torch.ones_like(person, dtype=torch.bool)
    if "ignore" in batch:
        x, y = candidates.positions.round().long().unbind(-1)
        height, width = batch["ignore"].shape[-2:]
        known = ~batch["ignore"][candidates.rows, y.clamp(0, height - 1), x.clamp(0, width - 1)] | (person >= 0)
    firsts, seconds = [], []
    for row in range(len(batch["image"])):
        here = ((candidates.rows == row) & known).nonzero()[:, 0]
        one, two = torch.triu_indices(len(here), len(here), 1, device=here.device)
        first, second = here[one], here[two]
        kept = candidates.parts[first] != candidates.parts[second]
        kept &= (person[first] >= 0) | (person[second] >= 0)
        chosen = kept.nonzero()[:, 0]
        # Spread evenly, so that crowds do not outweigh all else.
        step = max(1, -(-len(chosen) // _PAIRS_PER_PICTURE))
        firsts.append(first[chosen[::step]])
        seconds.append(second[chosen[::step]])
    first, second = torch.cat(firsts), torch.cat(seconds)
    parts = torch.stack([candidates.parts[first], candidates.parts[second]], dim=1)
    together = (person[first] == person[second]) & (person[first] >= 0)
    return candidates.rows[first], pair_features(candidates, first, second, stride), parts, together


def _matched(candidates: PartCandidates, batch: PoseBatch, people: Tensor, radius: float) -> Tensor:
    """Return the person (M,) that each candidate is a part of, -1 for nobody."""
    if not len(people):
        return torch.full_like(candidates.rows, -1)
    joints = batch["keypoints"][:, candidates.parts].transpose(0, 1).float()  # (M, N, 2)
    distance = (candidates.positions[:, None] - joints).norm(dim=-1)
    wrong = (batch["visibility"][:, candidates.parts].T == 0) | (people[None] != candidates.rows[:, None])
    nearest, person = distance.masked_fill(wrong, torch.inf).min(dim=1)
    return torch.where(nearest <= radius, person, -1)
