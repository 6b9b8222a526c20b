"""Persons out of what an exported file of OpenPose or DeepCut gives for a picture.

``persons_from_links`` needs nothing but Python: it can be copied to where the file runs. ``persons_from_costs`` solves
the integer programme, with numpy and scipy. Both read nested lists as well as arrays and tensors of one picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["FoundPerson", "persons_from_costs", "persons_from_links"]


class FoundPerson(NamedTuple):
    """A person in a picture.

    Attributes:
        keypoints: (x, y) of each of the K keypoints in pixels of the picture; (0, 0) where one was not found.
        keypoint_scores: K; 0 where one was not found.
        score: Of the person.
    """

    keypoints: list[tuple[float, float]]
    keypoint_scores: list[float]
    score: float


def persons_from_links(
    places: Any,
    scores: Any,
    links: Any,
    limbs: Sequence[Sequence[int]],
    keypoint_parts: Sequence[int],
    min_parts: int = 3,
) -> list[FoundPerson]:
    """Put OpenPose's candidates of one picture together, as ``PartGrouping`` does with greedy matching.

    Args:
        places: (J, M, 2), pixels.
        scores: (J, M), 0 where there is no candidate.
        links: (C, M, M), how well each limb goes from a candidate of its first part to one of its second, 0 for not.
        limbs: The parts at both ends of each limb; the file's ``association`` has them.
        keypoint_parts: The part that each keypoint is; there too.
        min_parts: Persons of fewer parts are dropped.

    Returns:
        The persons, the best first.
    """
    pairs = [
        (float(score), limb, first, second)
        for limb, table in enumerate(links)
        for first, row in enumerate(table)
        for second, score in enumerate(row)
        if score > 0
    ]
    # A body is what has been put together: the candidate of each part, and the sum of the scores of its limbs.
    bodies: dict[tuple[int, int], tuple[dict[int, int], list[float]]] = {
        (part, number): ({part: number}, [])
        for part, row in enumerate(scores)
        for number, score in enumerate(row)
        if score > 0
    }
    taken = set()
    for score, limb, first, second in sorted(pairs, key=lambda pair: -pair[0]):
        if (limb, 0, first) in taken or (limb, 1, second) in taken:
            continue
        taken |= {(limb, 0, first), (limb, 1, second)}
        here, there = bodies[limbs[limb][0], first], bodies[limbs[limb][1], second]
        if here is there:
            here[1].append(score)
        elif here[0].keys().isdisjoint(there[0]):
            here[0].update(there[0])
            here[1].extend([*there[1], score])
            for member in there[0].items():
                bodies[member] = here
    persons = []
    for members, sums in {id(body): body for body in bodies.values()}.values():
        if len(members) >= min_parts:
            total = sum(sums) + sum(float(scores[part][number]) for part, number in members.items())
            found = [(part, members.get(part, -1)) for part in keypoint_parts]
            persons.append(
                FoundPerson(
                    [(float(places[p][n][0]), float(places[p][n][1])) if n >= 0 else (0.0, 0.0) for p, n in found],
                    [float(scores[p][n]) if n >= 0 else 0.0 for p, n in found],
                    total / (len(scores) + len(limbs)),
                )
            )
    return sorted(persons, key=lambda person: -person.score)


def persons_from_costs(
    places: Any, scores: Any, costs: Any, time_limit: float = 10.0, one_person: bool = False
) -> list[FoundPerson]:
    """Put DeepCut's candidates of one picture together by its integer programme.

    Args:
        places: (K, M, 2), pixels.
        scores: (K, M), 0 where there is no candidate.
        costs: (K M, K M) of each two candidates in one person, candidates part by part.
        time_limit: Seconds; 0 takes the heuristic's solution.
        one_person: All that is chosen is one person.

    Returns:
        The persons, in no order. Several candidates of a part are averaged.

    Raises:
        PoseZooError: Where a score or a cost is NaN or infinite.
    """
    import numpy as np
    import torch

    from lightning_pose_zoo.association.part_pairs import log_odds
    from lightning_pose_zoo.association.partition import PartitionProblem, partition_exactly, partition_greedily

    # Of the weights of a program, outputs have a gradient.
    given = (part.detach().cpu() if isinstance(part, torch.Tensor) else part for part in (scores, places, costs))
    values, points, table = (np.asarray(part, dtype=np.float64) for part in given)
    rows = np.flatnonzero(values)  # NaN among them, which the problem refuses
    pairwise = table[np.ix_(rows, rows)]
    parts, numbers = np.divmod(rows, max(values.shape[1], 1))
    unaries = log_odds(torch.from_numpy(values.ravel()[rows])).numpy()
    problem = PartitionProblem(unaries, (pairwise + pairwise.T) / 2, classes=parts, one_cluster=one_person)
    solved = partition_exactly(problem, time_limit) if time_limit else partition_greedily(problem)
    persons = []
    for person in range(int(solved.clusters.max(initial=-1)) + 1):
        keypoints, heights = [(0.0, 0.0)] * len(values), [0.0] * len(values)
        for part in np.unique(parts[solved.clusters == person]).tolist():
            members = numbers[(solved.clusters == person) & (parts == part)]
            x, y = np.average(points[part, members], axis=0, weights=values[part, members]).tolist()
            keypoints[part], heights[part] = (x, y), float(values[part, members].max())
        persons.append(FoundPerson(keypoints, heights, sum(heights) / len(heights)))
    return persons
