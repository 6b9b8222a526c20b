"""The integer programme of DeepCut: candidates against seconds and gap, and what it has over the greedy solution.

    python tests/benchmarks/speed_partition.py [--limit SECONDS]

Hides people among false candidates: 14 parts, each with one candidate or two, pairwise costs of 4 and noise on top,
given by its deviation. Seconds are of the processor. Exits with 1 where an instance of at most 150 candidates is not
solved to the optimum within the limit, or where the exact solution is worse than the greedy one.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "association"))

from partition_cases import planted_people

from lightning_pose_zoo.association import partition_exactly, partition_greedily

SETTINGS = [
    (1, 1.0), (2, 1.0), (4, 1.0), (6, 1.0), (1, 3.0), (2, 3.0), (3, 3.0), (4, 3.0), (6, 3.0), (6, 3.5), (2, 5.0),
]  # fmt: skip
MOST = 150


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds for one instance")
    limit = parser.parse_args().limit
    print("| people | noise | candidates | greedy, s | greedy cost | exact, s | exact cost | bound | gap | status |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    good = True
    partition_exactly(planted_people(1, 3.0, 0)[0])  # imports scipy
    for people, noise in SETTINGS:
        problem, _ = planted_people(people, noise, seed=0)
        start = time.process_time()
        greedy = partition_greedily(problem)
        middle = time.process_time()
        exact = partition_exactly(problem, limit)
        end = time.process_time()
        print(
            f"| {people} | {noise} | {problem.candidates} | {middle - start:.3f} | {greedy.objective:.2f} "
            f"| {end - middle:.2f} | {exact.objective:.2f} | {exact.bound:.2f} | {exact.gap:.2%} | {exact.status} |",
            flush=True,
        )
        good &= exact.objective <= greedy.objective + 1e-6 and exact.bound <= exact.objective
        good &= exact.status == "optimal" or problem.candidates > MOST or noise > 4
    print(f"optimal up to {MOST} candidates and never worse than greedy: {'yes' if good else 'NO'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
