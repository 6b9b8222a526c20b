"""Instances of the partitioning problem with people hidden in them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.association import PartitionProblem

PARTS = 14


def planted_people(
    people: int, noise: float, seed: int, strength: float = 4.0
) -> tuple[PartitionProblem, npt.NDArray[np.int64]]:
    """Hide people among false candidates.

    Every part of a person has one candidate or two, and of every class there is about one that is nobody's.

    Args:
        people: How many.
        noise: Deviation of the pairwise costs.
        seed: Of the noise.
        strength: Cost of two candidates of different persons, and its negative of two of one.

    Returns:
        The problem, and (D,) the person of each candidate, below 0 for nobody's.
    """
    rng = np.random.default_rng(seed)
    person, part = [], []
    for kind in range(PARTS):
        copies = 1 + rng.binomial(1, 0.5, people)
        false = int(rng.poisson(1.0))
        person += [*np.repeat(np.arange(people), copies), *(-1 - len(person) - np.arange(false))]
        part += [kind] * int(copies.sum() + false)
    who, kinds = np.array(person), np.array(part)
    unaries = np.where(who >= 0, -2.0, 1.0) + rng.normal(0, 1, len(who))
    pairwise = np.where(who[:, None] == who[None], -strength, strength) + rng.normal(0, noise, (len(who), len(who)))
    pairwise = np.triu(pairwise, 1)
    return PartitionProblem(unaries, pairwise + pairwise.T, classes=kinds), who
