"""The integer programme of DeepCut against brute force, the paper's own form, and what every solution must keep."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from partition_cases import planted_people

from lightning_pose_zoo.association import PartitionProblem, partition_exactly, partition_greedily
from lightning_pose_zoo.association.partition_program import solve
from lightning_pose_zoo.errors import PoseZooError


def random_problem(seed, candidates, classes=1, one_cluster=False):
    """Costs that attract and repel about equally; every candidate may have each of the classes."""
    rng = np.random.default_rng(seed)
    owners, labels = (grid.ravel() for grid in np.mgrid[:candidates, :classes])
    pairwise = rng.normal(0, 2, (len(owners), len(owners)))
    return PartitionProblem(
        rng.normal(0, 1.5, len(owners)), (pairwise + pairwise.T) / 2, owners, labels, one_cluster=one_cluster
    )


def cost(problem, labels, clusters):
    """Add up a solution's costs one by one."""
    node = {(d, c): n for n, (d, c) in enumerate(zip(problem.owners, problem.classes, strict=True))}
    chosen = [(d, node[d, labels[d]]) for d in range(problem.candidates) if clusters[d] >= 0]
    total = sum(problem.unaries[n] for _, n in chosen)
    for (d, n), (e, m) in itertools.combinations(chosen, 2):
        total += problem.pairwise[n, m] if clusters[d] == clusters[e] else 0.0
    return total


def partitions(items, one_cluster):
    """Yield all set partitions."""
    if not items:
        yield []
    elif one_cluster:
        yield [list(items)]
    else:
        first, *rest = items
        for parts in partitions(rest, False):
            yield [[first], *parts]
            for place in range(len(parts)):
                yield [*parts[:place], [first, *parts[place]], *parts[place + 1 :]]


def brute_force(problem):
    """Return the least cost over all labellings and set partitions."""
    size, best = problem.candidates, 0.0
    options = [[-1, *problem.classes[problem.owners == d]] for d in range(size)]
    for labels in itertools.product(*options):
        chosen = [d for d in range(size) if labels[d] >= 0]
        for parts in partitions(chosen, problem.one_cluster):
            clusters = np.full(size, -1)
            for number, part in enumerate(parts):
                clusters[part] = number
            best = min(best, cost(problem, labels, clusters))
    return best


def published_form(problem):
    """Solve the paper's programme as it is written: x, y and z, with all constraints from the beginning."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    size, kinds = problem.candidates, int(problem.classes.max()) + 1
    names, costs = {}, []

    def new(name, value):
        names[name] = len(costs)
        costs.append(value)

    nodes = list(enumerate(zip(problem.owners, problem.classes, strict=True)))
    for n, (d, c) in nodes:
        new(("x", d, c), problem.unaries[n])
    for d, e in itertools.combinations(range(size), 2):
        new(("y", d, e), 0.0)
    for (n, (d, c)), (m, (e, k)) in itertools.product(nodes, nodes):
        if d < e:
            new(("z", d, e, c, k), problem.pairwise[n, m])
    rows, limits = [], []

    def at_most(limit, *terms):
        row = np.zeros(len(costs))
        for sign, name in terms:
            row[names[name]] += sign
        rows.append(row)
        limits.append(limit)

    def y(d, e):
        return ("y", min(d, e), max(d, e))

    def chosen(sign, d):
        return [(sign, ("x", d, c)) for c in range(kinds)]

    for d in range(size):
        at_most(1, *chosen(1, d))
    for d, e in itertools.combinations(range(size), 2):
        at_most(0, (1, y(d, e)), *chosen(-1, d))
        at_most(0, (1, y(d, e)), *chosen(-1, e))
        for c, k in itertools.product(range(kinds), repeat=2):
            z, ends = ("z", d, e, c, k), (("x", d, c), ("x", e, k), y(d, e))
            at_most(2, *[(1, end) for end in ends], (-1, z))
            for end in ends:
                at_most(0, (1, z), (-1, end))
            if problem.one_cluster:
                at_most(1, (1, ("x", d, c)), (1, ("x", e, k)), (-1, y(d, e)))
    for d, e, f in itertools.permutations(range(size), 3):
        at_most(1, (1, y(d, e)), (1, y(e, f)), (-1, y(d, f)))
    constraints = LinearConstraint(np.array(rows), -np.inf, limits)
    options = {"mip_rel_gap": 0.0}
    return milp(
        costs, integrality=np.ones(len(costs)), bounds=Bounds(0, 1), constraints=constraints, options=options
    ).fun


def check(problem, partition):
    """Check what every solution must keep, whatever its quality."""
    labels, clusters = partition.labels, partition.clusters
    assert labels.shape == clusters.shape == (problem.candidates,)
    assert ((labels >= 0) == (clusters >= 0)).all()
    for d in np.flatnonzero(labels >= 0):
        assert labels[d] in problem.classes[problem.owners == d]
    numbers = np.unique(clusters[clusters >= 0])
    assert numbers.tolist() == list(range(len(numbers)))
    assert not problem.one_cluster or len(numbers) <= 1
    assert partition.objective == pytest.approx(cost(problem, labels, clusters), abs=1e-9)
    assert partition.bound <= partition.objective
    assert partition.gap >= 0
    assert partition.objective <= 0  # nobody costs nothing


TINY = [(6, 1, False), (7, 1, False), (4, 2, False), (3, 3, False), (7, 1, True), (4, 2, True), (3, 3, True)]


@pytest.mark.parametrize(("candidates", "classes", "one_cluster"), TINY)
def test_it_is_the_best_of_all_labellings_and_partitions(candidates, classes, one_cluster):
    found_more = 0
    for seed in range(6):
        problem = random_problem(seed, candidates, classes, one_cluster)
        expected = brute_force(problem)
        exact, greedy = partition_exactly(problem), partition_greedily(problem)
        assert exact.status == "optimal"
        assert exact.objective == pytest.approx(expected, abs=1e-6)
        check(problem, exact)
        check(problem, greedy)
        assert greedy.objective >= expected - 1e-9
        assert greedy.bound <= expected + 1e-9
        found_more += greedy.objective > expected + 1e-6
        # The programme alone, without pruning, parts and a good start.
        nobody = np.full(len(problem.unaries), -1)
        deadline = time.perf_counter() + 30
        choice, bound = solve(problem.unaries, problem.pairwise, problem.owners, one_cluster, nobody, deadline)
        assert bound == pytest.approx(expected, abs=1e-5)
        labels, clusters = np.full((2, candidates), -1)
        labels[problem.owners[choice >= 0]] = problem.classes[choice >= 0]
        clusters[problem.owners[choice >= 0]] = choice[choice >= 0]
        assert cost(problem, labels, clusters) == pytest.approx(expected, abs=1e-6)
    assert found_more < 6


@pytest.mark.parametrize(("candidates", "classes", "one_cluster"), [(9, 1, False), (5, 2, False), (5, 2, True)])
def test_constraints_as_needed_are_as_good_as_the_papers_programme_with_all(candidates, classes, one_cluster):
    for seed in range(2):
        problem = random_problem(10 + seed, candidates, classes, one_cluster)
        assert partition_exactly(problem).objective == pytest.approx(published_form(problem), abs=1e-5)


def test_candidates_may_have_other_numbers_of_classes():
    rng = np.random.default_rng(3)
    owners, classes = np.array([2, 0, 1, 0, 3, 2, 4]), np.array([0, 0, 0, 2, 1, 1, 2])
    for _ in range(6):
        pairwise = rng.normal(-0.3, 2, (7, 7))
        problem = PartitionProblem(rng.normal(0, 1, 7), pairwise + pairwise.T, owners, classes)
        exact = partition_exactly(problem)
        check(problem, exact)
        assert exact.objective == pytest.approx(brute_force(problem), abs=1e-6)


@pytest.mark.parametrize("one_cluster", [False, True])
def test_larger_instances_keep_the_constraints_and_beat_the_heuristic(one_cluster):
    better = 0
    for seed in range(4):
        problem = random_problem(seed, 22, 1, one_cluster)
        exact, greedy = partition_exactly(problem, 20), partition_greedily(problem)
        check(problem, exact)
        check(problem, greedy)
        assert exact.objective <= greedy.objective + 1e-9
        assert greedy.bound <= exact.objective + 1e-6
        better += exact.objective < greedy.objective - 1e-6
    assert one_cluster or better  # else the comparison says nothing


@pytest.mark.parametrize("classes", [1, 2])
def test_the_order_of_the_candidates_does_not_matter(classes):
    problem = random_problem(5, 9 if classes == 1 else 5, classes)
    first = partition_exactly(problem)
    rng = np.random.default_rng(0)
    for _ in range(3):
        order = rng.permutation(len(problem.unaries))
        names = rng.permutation(problem.candidates)
        shuffled = PartitionProblem(
            problem.unaries[order], problem.pairwise[np.ix_(order, order)], names[problem.owners[order]],
            problem.classes[order],
        )  # fmt: skip
        again = partition_exactly(shuffled)
        assert again.objective == pytest.approx(first.objective, abs=1e-6)
        assert again.labels[names].tolist() == first.labels.tolist()
        together = first.clusters[:, None] == first.clusters[None]
        clusters = again.clusters[names]
        assert ((clusters[:, None] == clusters[None]) == together).all()


def test_two_overlapping_people_and_their_duplicates_are_told_apart():
    problem, people = planted_people(people=2, noise=1.0, seed=0)
    found = partition_exactly(problem)
    check(problem, found)
    assert found.status == "optimal"
    for person in range(2):
        assert len(np.unique(found.clusters[people == person])) == 1
    assert found.clusters[people == 0][0] != found.clusters[people == 1][0]
    # Several candidates of one joint are in one cluster, without any suppression before.
    first = people == 0
    assert np.bincount(problem.classes[first]).max() > 1


def test_one_person_is_one_cluster():
    problem, people = planted_people(people=2, noise=1.0, seed=1)
    single = PartitionProblem(problem.unaries, problem.pairwise, classes=problem.classes, one_cluster=True)
    found = partition_exactly(single)
    check(single, found)
    assert found.clusters.max() == 0
    assert found.status == "optimal"
    # The other person's parts repel.
    chosen = people[found.clusters == 0]
    assert (chosen == 0).all() or (chosen == 1).all()


def test_at_the_time_limit_the_best_so_far_is_returned_with_its_bound():
    rng = np.random.default_rng(0)
    pairwise = rng.normal(0, 1, (60, 60))
    problem = PartitionProblem(rng.normal(-0.1, 1, 60), pairwise + pairwise.T)
    greedy = partition_greedily(problem)
    assert greedy.status == "heuristic"
    assert greedy.gap > 0
    for limit in (1e-4, 0.5):
        start = time.perf_counter()
        found = partition_exactly(problem, limit)
        assert time.perf_counter() - start < limit + 2
        check(problem, found)
        assert found.status == "time_limit"
        assert found.gap > 0
        assert greedy.bound <= found.bound < found.objective <= greedy.objective


def test_nobody_one_and_what_never_helps():
    nobody = partition_exactly(PartitionProblem(np.zeros(0), np.zeros((0, 0))))
    assert (nobody.labels.shape, nobody.objective, nobody.bound, nobody.gap) == ((0,), 0, 0, 0)
    one = partition_exactly(PartitionProblem([-1.5], [[7.0]], classes=[4]))
    assert (one.labels.tolist(), one.clusters.tolist(), one.objective, one.bound) == ([4], [0], -1.5, -1.5)
    useless = partition_exactly(PartitionProblem([0.5, 0.7], [[0, -1.0], [-1.0, 0]]))
    assert (useless.clusters.tolist(), useless.status) == ([-1, -1], "optimal")
    # Together they are worth it.
    pair = partition_exactly(PartitionProblem([0.5, 0.7], [[0, -1.3], [-1.3, 0]]))
    assert pair.clusters.tolist() == [0, 0]
    assert pair.objective == pytest.approx(-0.1)


def test_wrong_input_is_refused():
    costs = np.zeros((2, 2))
    with pytest.raises(PoseZooError, match="NaN or infinite"):
        PartitionProblem([0.0, np.nan], costs)
    with pytest.raises(PoseZooError, match="NaN or infinite"):
        PartitionProblem([0.0, 1.0], [[0, np.inf], [np.inf, 0]])
    with pytest.raises(PoseZooError, match="not symmetric"):
        PartitionProblem([0.0, 1.0], [[0, 1.0], [2.0, 0]])
    with pytest.raises(PoseZooError, match="2 nodes have pairwise costs of"):
        PartitionProblem([0.0, 1.0], np.zeros((3, 3)))
    with pytest.raises(PoseZooError, match="owners must number"):
        PartitionProblem([0.0, 1.0], costs, owners=[0, 2])
    with pytest.raises(PoseZooError, match="time_limit is 0"):
        partition_exactly(PartitionProblem([0.0, 1.0], costs), 0)
