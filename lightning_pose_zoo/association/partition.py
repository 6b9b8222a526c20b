"""Which part candidates belong to which person: labelling and partitioning as one integer programme.

Every candidate is either left out or gets one class and one cluster. Candidate d of class c costs ``unaries``, two
candidates in one cluster cost ``pairwise``; the sum is minimised. Costs are log-odds, so below 0 attracts:

    min  sum_dc a_dc x_dc + sum_dd'cc' b_dd'cc' z_dd'cc'
    s.t. sum_c x_dc <= 1                            one class
         sum_c' z_dd'cc' <= x_dc                    both ends are chosen, with these classes
         y_dd' + y_d'd'' - x_d' <= y_dd''           transitivity, where y_dd' = sum_cc' z_dd'cc' and x_d = sum_c x_dc
         x_d + x_d' - 1 <= y_dd'                    only where all are to be one person

Paper: L. Pishchulin, E. Insafutdinov, S. Tang, B. Andres, M. Andriluka, P. Gehler, B. Schiele, "DeepCut: Joint Subset
Partition and Labeling for Multi Person Pose Estimation", CVPR 2016, arXiv 1511.06645. It has a variable for every
product and -1 for -x_d'; this form has the same solutions and a tighter relaxation.

The programme is NP-hard. It is solved by HiGHS with constraints that are added where they are violated
(``partition_program``); a heuristic (``partition_greedy``) gives the solution to beat. Where the time is up, the best
solution is returned with a bound on how much better another one could be.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.association.partition_greedy import cost_of, greedy_choice
from lightning_pose_zoo.association.partition_program import solve
from lightning_pose_zoo.errors import PoseZooError

__all__ = ["Partition", "PartitionProblem", "partition_exactly", "partition_greedily"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

Status = Literal["optimal", "time_limit", "heuristic"]

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class PartitionProblem:
    """The costs of an instance: D candidates in n nodes, each a candidate with one of the classes that it may have.

    Where every candidate has one class, as in DeeperCut, nodes are candidates and ``owners`` may be left out.

    Attributes:
        unaries: (n,) cost of a node; ``log((1 - p) / p)`` of the probability that it is right.
        pairwise: (n, n) cost of two nodes in one cluster, symmetric; ``log((1 - p) / p)`` of the probability that they
            are one person's. The diagonal and nodes of one candidate are not read.
        owners: (n,) the candidate that a node is of, 0 to D - 1; each node its own by default.
        classes: (n,) the class of a node; zeros by default.
        one_cluster: All chosen candidates are one person.

    Raises:
        PoseZooError: Where shapes do not fit together, a cost is NaN or infinite, or ``pairwise`` is not symmetric.
    """

    unaries: Floats
    pairwise: Floats
    owners: Integers = None  # type: ignore[assignment]
    classes: Integers = None  # type: ignore[assignment]
    one_cluster: bool = False

    def __post_init__(self) -> None:
        """Check the costs and bring them to one type."""
        unaries = np.asarray(self.unaries, dtype=np.float64)
        pairwise = np.asarray(self.pairwise, dtype=np.float64)
        count = len(unaries)
        owners = np.arange(count) if self.owners is None else np.asarray(self.owners, dtype=np.int64)
        classes = np.zeros(count, np.int64) if self.classes is None else np.asarray(self.classes, dtype=np.int64)
        if pairwise.shape != (count, count) or owners.shape != (count,) or classes.shape != (count,):
            raise PoseZooError(
                f"partition: {count} nodes have pairwise costs of {pairwise.shape}, owners of {owners.shape} and "
                f"classes of {classes.shape}; give ({count}, {count}), ({count},) and ({count},)."
            )
        if not (np.isfinite(unaries).all() and np.isfinite(pairwise).all()):
            raise PoseZooError("partition: a cost is NaN or infinite; clip probabilities before taking log-odds.")
        if not np.allclose(pairwise, pairwise.T, rtol=1e-9, atol=1e-9):
            raise PoseZooError("partition: the pairwise costs are not symmetric; give (b + b.T) / 2.")
        if count and (owners.min() < 0 or len(np.unique(owners)) != owners.max() + 1):
            raise PoseZooError("partition: owners must number the candidates from 0 on, each with at least one node.")
        pairwise = np.where(owners[:, None] == owners[None], 0.0, pairwise)
        for name, value in {"unaries": unaries, "pairwise": pairwise, "owners": owners, "classes": classes}.items():
            object.__setattr__(self, name, value)

    @property
    def candidates(self) -> int:
        """D, the number of candidates."""
        return int(self.owners.max()) + 1 if len(self.owners) else 0


@dataclass(frozen=True)
class Partition:
    """A solution, and how good it is.

    Attributes:
        labels: (D,) class of each candidate, -1 where it is left out.
        clusters: (D,) person of each candidate from 0 on, -1 where it is left out.
        objective: Cost of the solution.
        bound: No solution costs less.
        status: ``optimal``, or ``time_limit`` where that was not proven; ``heuristic`` where it was not tried.
    """

    labels: Integers
    clusters: Integers
    objective: float
    bound: float
    status: Status

    @property
    def gap(self) -> float:
        """How much less the best solution might cost, as a share of the objective; 0 where it is optimal."""
        return 0.0 if self.status == "optimal" else (self.objective - self.bound) / max(abs(self.objective), _TOLERANCE)


def partition_greedily(problem: PartitionProblem) -> Partition:
    """Solve by joining what attracts most, then moving single candidates and joining clusters while that helps."""
    return _solved(problem, None)


def partition_exactly(problem: PartitionProblem, time_limit: float = 60.0) -> Partition:
    """Solve to the optimum, or as far as the time allows.

    Args:
        problem: The costs.
        time_limit: Seconds for the whole of it. The solution at hand is returned then, never one that is worse than the
            greedy one.

    Raises:
        PoseZooError: Where the time limit is not positive.
    """
    if not time_limit > 0:
        raise PoseZooError(f"partition: time_limit is {time_limit}; give a positive number of seconds.")
    return _solved(problem, time.perf_counter() + time_limit)


def _solved(problem: PartitionProblem, deadline: float | None) -> Partition:
    """Solve each part of an instance, greedily where there is no deadline.

    Candidates that can never lower the cost are left out first; what no negative cost connects is solved apart. Neither
    changes the optimum.
    """
    choice = np.full(len(problem.unaries), -1)
    objective, bound, proven, used = 0.0, 0.0, True, 0
    for part in _parts(problem):
        unaries, pairwise = problem.unaries[part], problem.pairwise[np.ix_(part, part)]
        owners = np.unique(problem.owners[part], return_inverse=True)[1]
        found = greedy_choice(unaries, pairwise, owners, problem.one_cluster)
        cost, lowest = cost_of(found, unaries, pairwise), _loosest_bound(unaries, pairwise, owners)
        if deadline is not None and not _equal(lowest, cost):
            found, better = solve(unaries, pairwise, owners, problem.one_cluster, found, deadline)
            cost, lowest = cost_of(found, unaries, pairwise), max(lowest, better)
        proven &= _equal(lowest, cost)
        objective, bound = objective + cost, bound + min(cost, lowest)
        choice[part[found >= 0]] = found[found >= 0] + used
        used += int(found.max(initial=-1)) + 1
    labels, clusters = np.full((2, problem.candidates), -1)
    chosen = choice >= 0
    labels[problem.owners[chosen]] = problem.classes[chosen]
    clusters[problem.owners[chosen]] = choice[chosen]
    status: Status = "optimal" if proven else "heuristic" if deadline is None else "time_limit"
    return Partition(labels, clusters, objective, bound, status)


def _equal(bound: float, cost: float) -> bool:
    """Tell whether nothing lies between a bound and a cost."""
    return bound >= cost - _TOLERANCE * max(1.0, abs(cost))


def _parts(problem: PartitionProblem) -> Iterator[Integers]:
    """Yield the nodes of each part that can be solved apart, small ones first; nodes that never help are in none."""
    from scipy.sparse.csgraph import connected_components

    useful = np.arange(len(problem.unaries))
    while len(useful):
        pairwise, owners = problem.pairwise[np.ix_(useful, useful)], problem.owners[useful]
        attraction = np.minimum(_least(pairwise, owners), 0).sum(axis=1)
        helps = problem.unaries[useful] + attraction < 0
        if helps.all():
            break
        useful = useful[helps]
    if not len(useful):
        return
    if problem.one_cluster:
        yield useful
        return
    linked = (pairwise < 0) | (owners[:, None] == owners[None])
    _, part = connected_components(linked, directed=False)
    for number in np.argsort(np.bincount(part), kind="stable"):
        yield useful[part == number]


def _least(costs: Floats, owners: Integers) -> Floats:
    """Return the least of the columns of each candidate, (..., n) to (..., D), where D counts those that have any."""
    order = np.argsort(owners, kind="stable")
    first = np.unique(owners[order], return_index=True)[1]
    return np.minimum.reduceat(costs[..., order], first, axis=-1)


def _loosest_bound(unaries: Floats, pairwise: Floats, owners: Integers) -> float:
    """Return the sum of all that is below 0, which no choice can cost less than."""
    pairs = _least(_least(pairwise, owners).T, owners)
    return float(np.minimum(_least(unaries, owners), 0).sum() + np.minimum(pairs, 0).sum() / 2)
