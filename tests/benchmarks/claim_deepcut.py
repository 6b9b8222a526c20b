"""DeepCut in miniature: crowds are told apart, and the exact partition is no worse than the greedy one.

    python tests/benchmarks/claim_deepcut.py --seed S [--minutes M]

Trains the recipe on rendered crowds of one to four people of that seed, and finds everybody in pictures that it has not
seen: by the integer programme, and by the heuristic on the same candidates. Exits with 1 where AP is below the bar,
where the exact partition's AP is lower than the greedy one's by more than chance, or where it costs more in any
picture.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from claims import WARM_UP, Stopwatch, build, prepare, print_table, train

from lightning_pose_zoo.association import Partition, partition_exactly, partition_greedily
from lightning_pose_zoo.callbacks import TrainingPhases
from lightning_pose_zoo.methods import deepcut

RECIPE = "deepcut/deepcut_synthetic.yaml"
BAR, CHANCE = 0.4, 0.005
TIMED, FOLLOW_UP, STATISTICS = 15, 10, 800


def trained(words: list[str], steps: int, statistics: int) -> tuple[object, float]:
    """Train for so many steps and return the command line's parts and the seconds."""
    cli = build(RECIPE, None, [*words, f"--trainer.max_steps={steps}"])
    cli.trainer.callbacks.append(TrainingPhases([steps - FOLLOW_UP, FOLLOW_UP], "steps", statistics))
    return cli, train(cli)


def pace(words: list[str]) -> float:
    """Return the seconds of one step of the first phase."""
    cli, watch = build(RECIPE, None, [*words, f"--trainer.max_steps={WARM_UP + TIMED + 1}"]), Stopwatch()
    cli.trainer.callbacks += [watch, TrainingPhases([WARM_UP + TIMED, 1], "steps", 8)]
    train(cli)
    return (watch.ends[-2] - watch.ends[WARM_UP - 1]) / TIMED


class Both:
    """Solves every problem exactly and greedily, and hands on one of the solutions."""

    def __init__(self, exact: bool) -> None:
        self.exact = exact
        self.found: list[tuple[Partition, Partition]] = []

    def __call__(self, problem: object, limit: float) -> Partition:
        both = partition_exactly(problem, limit), partition_greedily(problem)
        self.found.append(both)
        return both[0 if self.exact else 1]


def main() -> int:
    """Train, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the people, the first weights and the order")
    parser.add_argument("--minutes", type=float, default=20.0, help="the recipe's training is shortened to these")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--pictures", type=int, default=200, help="that are scored")
    arguments = parser.parse_args()
    prepare(arguments.threads)
    words = [
        f"--seed_everything={arguments.seed}",
        f"--data.seed={arguments.seed}",
        f"--data.val_size={arguments.pictures}",
    ]
    most = build(RECIPE, None, words).trainer.max_steps
    steps = max(2 * FOLLOW_UP, min(most, int(60 * arguments.minutes / pace(words))))
    # Fitting takes a step's time for each batch too, without the backward pass.
    statistics = min(STATISTICS, 2 * steps)
    print(f"recipes/{RECIPE}, seed {arguments.seed}: {steps} steps", flush=True)
    cli, seconds = trained(words, steps, statistics)
    scores = {}
    for name, exact in (("exact", True), ("greedy", False)):
        deepcut.partition_exactly = solver = Both(exact)
        start = time.perf_counter()
        scores[name] = cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)[0]
        scores[name]["seconds"] = time.perf_counter() - start
    pairs = solver.found
    sizes = np.array([len(exact.labels) for exact, _ in pairs])
    print_table(
        ["partition", "AP", "AP50", "AR"],
        [[name, *(f"{found[f'test/{key}']:.3f}" for key in ("AP", "AP50", "AR"))] for name, found in scores.items()],
    )
    gaps = np.array([exact.gap for exact, _ in pairs])
    lower = sum(exact.objective < greedy.objective - 1e-6 for exact, greedy in pairs)
    worse = sum(exact.objective > greedy.objective + 1e-6 for exact, greedy in pairs)
    print(f"{len(pairs)} pictures, {sizes.mean():.0f} candidates on average, {sizes.max()} at most")
    print(f"optimal in {(gaps == 0).mean():.1%}, largest gap {gaps.max():.2%}; cheaper than greedy in {lower}")
    ap, greedy = float(scores["exact"]["test/AP"]), float(scores["greedy"]["test/AP"])
    print(f"AP on unseen crowds after {seconds:.0f} s: {ap:.3f}, bar {BAR}; greedy {greedy:.3f}")
    holds = ap >= BAR and ap >= greedy - CHANCE and not worse
    print("the claim holds" if holds else "the claim does NOT hold")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
