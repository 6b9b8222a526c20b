"""The integer programme of ``partition``, solved by HiGHS with constraints that are added where they are violated.

scipy's HiGHS has neither callbacks nor a warm start, so it is called in rounds: first without integrality, which gives
bounds quickly and often a whole solution, then with it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.association.partition_greedy import Choice, cost_of, improved

__all__ = ["solve"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_VIOLATED = 1e-5  # HiGHS keeps constraints to 1e-7
_CUTS_PER_ROUND = 4000
_CUTS_PER_CENTER = 100
_FEW_CUTS = 200
_TOLERANCE = 1e-6
_STALLED = 3  # rounds


def solve(
    unaries: Floats, pairwise: Floats, owners: Integers, one_cluster: bool, incumbent: Choice, deadline: float
) -> tuple[Choice, float]:
    """Solve one instance, or come as far as the time allows.

    Args:
        unaries: (n,) costs of the nodes.
        pairwise: (n, n) costs of two nodes in one cluster, 0 for nodes of one candidate.
        owners: (n,) candidate of each node, 0 to D - 1.
        one_cluster: All that is chosen is one cluster.
        incumbent: (n,) a choice to beat.
        deadline: Reading of ``time.perf_counter`` at which it is to stop.

    Returns:
        The best choice found, (n,), and a number that no choice costs less than; minus infinity where the time did not
        do for one.
    """
    search = _Search(unaries, pairwise, owners, one_cluster, incumbent, deadline)
    if len(unaries) > 1 and not search.relaxed():
        search.whole()
    elif len(unaries) <= 1:
        search.bound = min(0.0, float(unaries.sum()))
    return search.best, search.bound


@dataclass
class _Rows:
    """Rows of constraints, ``matrix @ variables <= limits``."""

    matrix: Any
    limits: Floats

    def with_more(self, matrix: Any, limits: Floats) -> _Rows:
        from scipy import sparse

        return _Rows(sparse.vstack([self.matrix, matrix], format="csr"), np.concatenate([self.limits, limits]))


class _Search:
    """One instance with its constraints so far, its best choice and its bound.

    Variables are x of the n nodes, then z of the m pairs of nodes of different candidates.
    """

    def __init__(
        self, unaries: Floats, pairwise: Floats, owners: Integers, one_cluster: bool, incumbent: Choice, deadline: float
    ) -> None:
        self.unaries, self.pairwise, self.owners, self.one_cluster = unaries, pairwise, owners, one_cluster
        self.deadline = deadline
        self.candidates = int(owners.max()) + 1 if len(owners) else 0
        first, second = np.triu_indices(len(unaries), 1)
        apart = owners[first] != owners[second]
        self.first, self.second = first[apart], second[apart]
        self.costs = np.concatenate([unaries, pairwise[self.first, self.second]])
        self.low, self.high = np.zeros(len(self.costs)), np.ones(len(self.costs))
        self.nodes_of = np.bincount(owners, minlength=self.candidates)
        # A candidate that is worth something alone is in every optimum.
        worth = np.zeros(self.candidates, bool)
        worth[owners[unaries < 0]] = not one_cluster
        self.always = worth
        self.low[: len(unaries)] = worth[owners] & (self.nodes_of[owners] == 1)
        self.best, self.best_cost = incumbent, cost_of(incumbent, unaries, pairwise)
        self.bound = -np.inf
        self.sums = self._sums()
        self.fixed_rows = self._first_rows()
        self.cuts = _Rows(self.fixed_rows.matrix[:0], np.zeros(0))

    def _sums(self) -> Any:
        """Return the matrix (D + D D, n + m) from variables to x_d and to y_dd', in both orders."""
        from scipy import sparse

        count, size = len(self.unaries), self.candidates
        one, other = self.owners[self.first], self.owners[self.second]
        pair = np.arange(len(self.first)) + count
        rows = np.concatenate([self.owners, size + one * size + other, size + other * size + one])
        columns = np.concatenate([np.arange(count), pair, pair])
        return sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), (size + size * size, len(self.costs)))

    def _first_rows(self) -> _Rows:
        """Return the constraints that are there from the beginning: one class each, and pairs between chosen nodes."""
        from scipy import sparse

        count, size, several = len(self.unaries), self.candidates, np.flatnonzero(self.nodes_of > 1)
        pair = np.arange(len(self.first)) + count
        node = np.concatenate([self.first, self.second])
        other = self.owners[np.concatenate([self.second, self.first])]
        # Between candidates of one class each, a cost above 0 keeps z down by itself, and so does x = 1.
        loose = (self.nodes_of[other] == 1) & (self.nodes_of[self.owners[node]] == 1)
        loose &= (np.tile(self.costs[count:], 2) >= 0) | (self.low[node] == 1)
        node, other, pair = node[~loose], other[~loose], np.tile(pair, 2)[~loose]
        keys, row = np.unique(node * size + other, return_inverse=True)
        entries = np.concatenate([np.ones(len(row)), -np.ones(len(keys))])
        places = (np.concatenate([row, np.arange(len(keys))]), np.concatenate([pair, keys // max(size, 1)]))
        ends = sparse.csr_matrix((entries, places), (len(keys), len(self.costs)))
        rows = _Rows(ends, np.zeros(len(keys)))
        rows = rows.with_more(self.sums[several], np.ones(len(several)))
        must = several[self.always[several]]
        rows = rows.with_more(-self.sums[must], -np.ones(len(must)))
        if self.one_cluster:
            one, two = np.triu_indices(size, 1)
            rows = rows.with_more(
                self.sums[one] + self.sums[two] - self.sums[size + one * size + two], np.ones(len(one))
            )
        return rows

    def _left(self) -> float:
        return self.deadline - time.perf_counter()

    def _proven(self) -> bool:
        return self.bound >= self.best_cost - _TOLERANCE * max(1.0, abs(self.best_cost))

    def _take_in(self, variables: Floats) -> None:
        """Make a choice of a solution, whole or not, improve it, and keep it where it is the best so far."""
        from scipy.sparse.csgraph import connected_components

        count = len(self.unaries)
        order = np.lexsort((-variables[:count], self.owners))
        top = order[np.unique(self.owners[order], return_index=True)[1]]
        chosen = np.zeros(count, bool)
        chosen[top] = self.sums[: self.candidates] @ variables > 0.5
        linked = np.zeros((count, count), bool)
        linked[self.first, self.second] = variables[count:] > 0.5
        linked &= chosen[:, None] & chosen[None]
        choice = np.where(chosen, 0 if self.one_cluster else connected_components(linked, directed=False)[1], -1)
        choice = improved(choice, self.unaries, self.pairwise, self.owners, self.one_cluster)
        cost = cost_of(choice, self.unaries, self.pairwise)
        if cost < self.best_cost - _TOLERANCE:
            self.best, self.best_cost = choice, cost

    def relaxed(self) -> bool:
        """Solve without integrality until nothing is violated; return whether that proved an optimum."""
        from scipy.optimize import linprog

        stalled = 0
        while (left := self._left()) > 0:
            rows = self.fixed_rows.with_more(self.cuts.matrix, self.cuts.limits)
            result = linprog(
                self.costs, rows.matrix, rows.limits, bounds=np.stack([self.low, self.high], axis=1),
                method="highs", options={"time_limit": left},
            )  # fmt: skip
            if result.status == 2:  # all that could be better than the best was excluded
                self.bound = self.best_cost
                return True
            if result.status != 0:
                return False
            stalled = 0 if result.fun > self.bound + 1e-4 * max(1.0, abs(self.best_cost)) else stalled + 1
            self.bound = max(self.bound, result.fun)
            self._take_in(result.x)
            if self._proven():
                return True
            self._exclude(result)
            more = self._violated(result.x, stars=True)
            if more is None or stalled > _STALLED:
                return False
            if not stalled:
                # The bound rose, so that what is slack may go without the rounds going in circles.
                tight = result.slack[len(self.fixed_rows.limits) :] < 0.05
                self.cuts = _Rows(self.cuts.matrix[tight], self.cuts.limits[tight])
            self.cuts = self.cuts.with_more(*more)
        return False

    def _exclude(self, result: Any) -> None:
        """Fix variables that no choice better than the best can change, by their reduced costs."""
        room = self.best_cost - result.fun
        self.high[(result.lower.marginals > room + _TOLERANCE) & (self.low == 0)] = 0
        self.low[(-result.upper.marginals > room + _TOLERANCE) & (self.high == 1)] = 1

    def whole(self) -> None:
        """Solve with integrality until nothing is violated, or the time is up."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        while (left := self._left()) > 0:
            rows = self.fixed_rows.with_more(self.cuts.matrix, self.cuts.limits)
            constraints = LinearConstraint(rows.matrix, -np.inf, rows.limits) if len(rows.limits) else None
            result = milp(
                self.costs, integrality=np.ones(len(self.costs)), bounds=Bounds(self.low, self.high),
                constraints=constraints, options={"time_limit": left, "mip_rel_gap": 0.0},
            )  # fmt: skip
            if result.status == 2:
                self.bound = self.best_cost
            elif result.mip_dual_bound is not None and np.isfinite(result.mip_dual_bound):
                self.bound = max(self.bound, result.mip_dual_bound)
            if result.x is not None:
                self._take_in(result.x)
            if result.status != 0 or self._proven():
                return
            more = self._violated(result.x, stars=False)
            if more is None:
                return
            self.cuts = self.cuts.with_more(*more)

    def _violated(self, variables: Floats, stars: bool) -> tuple[Any, Floats] | None:
        """Return rows that a solution violates, None where there are none.

        All are stars: sum_t y_st - sum_tt' y_tt' <= x_s over the candidates t < t' of a set. With two of them it is
        transitivity; more of them cut off more of what is not whole, but are only looked for where little else is
        violated.
        """
        from scipy import sparse

        size = self.candidates
        sums = self.sums @ variables
        chosen, together = sums[:size], sums[size:].reshape(size, size)
        found: list[tuple[float, int, Integers]] = []
        for center in range(size):
            around = np.flatnonzero(together[center] > _VIOLATED)
            excess = together[center, around]
            excess = excess[:, None] + excess[None] - together[np.ix_(around, around)] - chosen[center]
            one, two = np.nonzero(np.triu(excess > _VIOLATED, 1))
            worst = np.argsort(-excess[one, two], kind="stable")[:_CUTS_PER_CENTER]
            found += [
                (float(excess[i, j]), center, around[[i, j]]) for i, j in zip(one[worst], two[worst], strict=True)
            ]
        if stars and len(found) < _FEW_CUTS:
            found += [star for center in range(size) for star in _stars(center, chosen, together)]
        if not found:
            return None
        found = sorted(found, key=lambda cut: -cut[0])[:_CUTS_PER_ROUND]
        rows: list[Any] = []
        columns: list[Any] = []
        signs: list[Any] = []
        for number, (_, center, ends) in enumerate(found):
            one, two = (ends[index] for index in np.triu_indices(len(ends), 1))
            columns += [[center], size + center * size + ends, size + one * size + two]
            signs += [[-1.0], np.ones(len(ends)), -np.ones(len(one))]
            rows += [np.full(1 + len(ends) + len(one), number)]
        places = (np.concatenate(rows), np.concatenate(columns))
        matrix = sparse.csr_matrix((np.concatenate(signs), places), (len(found), size + size * size))
        return matrix @ self.sums, np.zeros(len(found))


def _stars(center: int, chosen: Floats, together: Floats) -> list[tuple[float, int, Integers]]:
    """Look for violated stars of three or more around a candidate, growing one from each neighbour."""
    around = np.flatnonzero(together[center] > _VIOLATED)
    found: dict[tuple[int, ...], float] = {}
    for seed in around:
        ends, gains = [int(seed)], together[center] - together[seed]
        total = together[center, seed]
        gains[[center, seed]] = -np.inf
        while (gains.max(initial=-np.inf)) > _VIOLATED:
            best = int(gains.argmax())
            total += gains[best]
            gains -= together[best]
            gains[best] = -np.inf
            ends.append(best)
        if len(ends) > 2 and total > chosen[center] + _VIOLATED:
            found[tuple(sorted(ends))] = float(total - chosen[center])
    return [(excess, center, np.array(ends)) for ends, excess in found.items()]
