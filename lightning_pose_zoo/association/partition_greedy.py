"""A heuristic for labelling and partitioning part candidates: joins what attracts most, then improves step by step.

A choice is an (n,) array with the cluster of every node from 0 on, -1 for nodes that are left out; at most one node of
a candidate is chosen. See ``partition.PartitionProblem`` for the costs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Choice", "cost_of", "greedy_choice", "improved"]

Choice = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_LESS = -1e-9  # a change must lower the cost by more than rounding does, or the search would not end


def cost_of(choice: Choice, unaries: Floats, pairwise: Floats) -> float:
    """Return the cost of a choice: its unaries, and the pairs in each of its clusters."""
    chosen = choice >= 0
    together = (choice[chosen, None] == choice[None, chosen]) * pairwise[np.ix_(chosen, chosen)]
    return float(unaries[chosen].sum() + np.triu(together, 1).sum())


def greedy_choice(unaries: Floats, pairwise: Floats, owners: Integers, one_cluster: bool = False) -> Choice:
    """Find a good solution quickly: the best of two starts, each improved until no simple change helps.

    Args:
        unaries: (n,) costs of the nodes.
        pairwise: (n, n) costs of two nodes in one cluster, 0 for nodes of one candidate.
        owners: (n,) candidate of each node.
        one_cluster: All that is chosen is one cluster.

    Returns:
        (n,) int64.
    """
    best = _best_nodes(unaries, owners)
    alone = np.full(len(unaries), -1, np.int64)
    good = best[unaries[best] < 0]
    alone[good] = 0 if one_cluster else np.arange(len(good))
    joined = np.full(len(unaries), -1, np.int64)
    if not one_cluster:
        joined[best] = _contracted(pairwise[np.ix_(best, best)])
    starts = [improved(start, unaries, pairwise, owners, one_cluster) for start in (alone, joined)]
    return min(starts, key=lambda choice: cost_of(choice, unaries, pairwise))


def _best_nodes(unaries: Floats, owners: Integers) -> Integers:
    """Return the node of each candidate that costs least by itself."""
    order = np.lexsort((unaries, owners))
    _, first = np.unique(owners[order], return_index=True)
    return order[first]


def _contracted(costs: Floats) -> Integers:
    """Join the two clusters whose sum of costs is lowest, as long as it is below 0; return (m,) clusters.

    Greedy additive edge contraction of Keuper et al., "Efficient Decomposition of Image and Mesh Graphs by Lifted
    Multicuts", ICCV 2015, arXiv 1505.06973.
    """
    count = len(costs)
    cluster = np.arange(count)
    if count < 2:
        return cluster
    sums = costs.copy()
    np.fill_diagonal(sums, np.inf)
    nearest = sums.argmin(axis=1)
    lowest = sums[np.arange(count), nearest]
    while (kept := int(lowest.argmin())) >= 0 and lowest[kept] < _LESS:
        gone = int(nearest[kept])
        cluster[cluster == gone] = kept
        sums[kept] += sums[gone]
        sums[:, kept] = sums[kept]
        sums[gone], sums[:, gone] = np.inf, np.inf
        sums[kept, kept] = np.inf
        # Rows whose nearest was one of the two look again; others only where the joined one is nearer.
        stale = np.isin(nearest, (kept, gone)) | (sums[kept] < lowest)
        stale[[kept, gone]] = True
        nearest[stale] = sums[stale].argmin(axis=1)
        lowest = sums[np.arange(count), nearest]
    return np.unique(cluster, return_inverse=True)[1]


def improved(choice: Choice, unaries: Floats, pairwise: Floats, owners: Integers, one_cluster: bool) -> Choice:
    """Change a choice as long as that lowers its cost: single candidates first, then whole clusters.

    Args:
        choice: (n,) to start from; left as it is.
        unaries: (n,).
        pairwise: (n, n).
        owners: (n,).
        one_cluster: No second cluster is opened.

    Returns:
        (n,), its clusters numbered anew from 0.
    """
    current = _numbered(choice)
    while True:
        current = _moved(current, unaries, pairwise, owners, one_cluster)
        rearranged = _rearranged(current, unaries, pairwise)
        if rearranged is None:
            return current
        current = rearranged


def _moved(choice: Choice, unaries: Floats, pairwise: Floats, owners: Integers, one_cluster: bool) -> Choice:
    """Give one candidate after the other another cluster, another class or none, the best such move first."""
    choice = choice.copy()
    count = len(choice)
    if not count:
        return choice
    # The last place is empty: to go there is to open a cluster.
    places = 1 if one_cluster else int(choice.max()) + 2
    inside = np.zeros((count, places))
    inside[choice >= 0, choice[choice >= 0]] = 1
    attached = unaries[:, None] + pairwise @ inside
    candidates = int(owners.max()) + 1
    while True:
        now = np.zeros(candidates)
        chosen = np.flatnonzero(choice >= 0)
        now[owners[chosen]] = attached[chosen, choice[chosen]]
        place = attached.argmin(axis=1)
        gains = attached[np.arange(count), place] - now[owners]
        node, drop = int(gains.argmin()), int(now.argmax())
        if min(gains[node], -now[drop]) >= _LESS:
            return _numbered(choice)
        leaves = -now[drop] < gains[node]
        who = drop if leaves else owners[node]
        for old in chosen[owners[chosen] == who]:
            attached[:, choice[old]] -= pairwise[:, old]
            choice[old] = -1
        if not leaves:
            choice[node] = place[node]
            attached[:, place[node]] += pairwise[:, node]
            if place[node] == attached.shape[1] - 1 and not one_cluster:
                attached = np.concatenate([attached, unaries[:, None]], axis=1)


def _rearranged(choice: Choice, unaries: Floats, pairwise: Floats) -> Choice | None:
    """Drop a cluster that costs more than nothing, or join the two that attract most; None where neither helps."""
    clusters = int(choice.max(initial=-1)) + 1
    if not clusters:
        return None
    inside = np.zeros((len(choice), clusters))
    inside[choice >= 0, choice[choice >= 0]] = 1
    between = inside.T @ pairwise @ inside
    total = unaries @ inside + np.diag(between) / 2
    worst = int(total.argmax())
    if total[worst] > -_LESS:
        return _numbered(np.where(choice == worst, -1, choice))
    np.fill_diagonal(between, np.inf)
    first, second = np.unravel_index(int(between.argmin()), between.shape)
    if between[first, second] < _LESS:
        return _numbered(np.where(choice == second, first, choice))
    return None


def _numbered(choice: Choice) -> Choice:
    """Number the clusters from 0 without holes."""
    numbers = np.full(len(choice), -1, np.int64)
    chosen = choice >= 0
    numbers[chosen] = np.unique(choice[chosen], return_inverse=True)[1]
    return numbers
