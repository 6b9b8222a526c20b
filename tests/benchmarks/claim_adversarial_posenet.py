"""Adversarial PoseNet in miniature: critics make fewer poses implausible, and no keypoint is found less often.

    python tests/benchmarks/claim_adversarial_posenet.py --seed S [--minutes M] [--steps N]

Trains the recipe on heavily occluded rendered people of that seed, and beside it the same generator without critics:
from the same first weights, on the same crops in the same order, for as many steps. Prints for both, on people that
are not in the training set, the share of poses with a limb or an angle outside of the ranges of the training's poses,
of all people and of those with at least four hidden keypoints, and PCK. Exits with 1 where the critics do not lower the
share of implausible poses, or lower PCK@0.2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from claims import TIMED, WARM_UP, Stopwatch, build, prepare, print_table, train
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader

from lightning_pose_zoo.metrics import PCK, ImplausiblePoses
from lightning_pose_zoo.metrics.functional import fit_pose_ranges
from lightning_pose_zoo.structures import PoseBatch

RECIPE = "adversarial_posenet/adversarial_posenet_synthetic.yaml"
WITHOUT = ["--model.critics.pose_weight=0", "--model.critics.confidence_weight=0"]
HIDDEN = 4  # keypoints, of a person that counts as hard
THRESHOLDS = (0.5, 0.2, 0.1)
# Rendering, timing and scoring take a part of the minutes.
TRAINING_SHARE = 0.8


@dataclass(frozen=True)
class Scores:
    """What one training came to.

    Attributes:
        implausible: Share of poses; of all people, and of the hard ones.
        measures: Mean number of measures of a pose that are outside of their ranges.
        pck: By threshold.
    """

    implausible: tuple[float, float]
    measures: float
    pck: dict[float, float]


def rendered(cli: LightningCLI) -> list[PoseBatch]:
    """Render the crops of one epoch, which both trainings use."""
    cli.datamodule.setup("fit")
    return list(cli.datamodule.train_dataloader())


def fit(cli: LightningCLI, crops: Sequence[PoseBatch], seed: int) -> float:
    """Train on crops that are there already; return the seconds."""
    order = torch.Generator().manual_seed(seed)
    return train(cli, DataLoader(crops, batch_size=None, shuffle=True, generator=order))


@torch.no_grad()
def scored(cli: LightningCLI, test: Sequence[PoseBatch], known: Sequence[PoseBatch]) -> Scores:
    """Score a method on unseen people, its poses against the ranges of the training's."""
    method = cli.model.eval()
    keypoints, visibility = (torch.cat([batch[key] for batch in known]) for key in ("keypoints", "visibility"))
    ranges = fit_pose_ranges(keypoints, visibility, method.skeleton)
    every, hard = (ImplausiblePoses(method.skeleton, ranges) for _ in range(2))
    pck = PCK(method.skeleton, THRESHOLDS, normalize_by="torso")
    for batch in test:
        poses = method.estimate(batch)
        for metric in (every, pck):
            metric.update_batch(poses, batch)
        rows = (batch["visibility"] == 1).sum(dim=1) >= HIDDEN
        truth = batch["original_keypoints"]
        hard.update(poses.keypoints[rows], truth[rows], batch["visibility"][rows], batch["person_id"][rows])
    found, precise = every.compute(), pck.compute()
    return Scores(
        (float(found["Implausible"]), float(hard.compute()["Implausible"])),
        sum(float(found[f"Implausible/{name}"]) for name in ranges.measures if found[f"Implausible/{name}"] >= 0),
        {threshold: float(precise[f"PCK@{threshold}"]) for threshold in THRESHOLDS},
    )


def steps_in_time(minutes: float, words: Sequence[str]) -> int:
    """Return how many steps of both trainings fit into some minutes, at most as many as the recipe has."""
    pace = 0.0
    for more in ([], WITHOUT):
        cli, watch = build(RECIPE, WARM_UP + TIMED, [*words, *more, "--model.critics.start=0"]), Stopwatch()
        cli.trainer.callbacks.append(watch)
        data = build(RECIPE, 1, [*words, f"--data.train_size={16 * 10}"])
        fit(cli, rendered(data), 0)
        pace += (watch.ends[-1] - watch.ends[WARM_UP - 1]) / TIMED
    return max(1, min(build(RECIPE, None, words).trainer.max_steps, int(60 * minutes * TRAINING_SHARE / pace)))


def main() -> int:
    """Train both, print the table and say whether the claim holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the people, the first weights and the order")
    parser.add_argument("--minutes", type=float, default=10.0, help="both trainings are shortened to these together")
    parser.add_argument("--steps", type=int, help="of each training, whatever time they take")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--precision", default="bf16-mixed", help="of both trainings; 32-true on older CPUs")
    arguments = parser.parse_args()
    prepare(arguments.threads)
    seed = arguments.seed
    words = [f"--seed_everything={seed}", f"--data.seed={seed}", f"--trainer.precision={arguments.precision}"]
    steps = arguments.steps or steps_in_time(arguments.minutes, words)
    data = build(RECIPE, steps, words)
    crops = rendered(data)
    data.datamodule.setup("test")
    test = list(data.datamodule.test_dataloader())
    people = sum(len(batch["image"]) for batch in test)
    print(f"recipes/{RECIPE}, seed {seed}: {steps} steps on {sum(len(batch['image']) for batch in crops)} crops, "
          f"{people} other people to score", flush=True)  # fmt: skip
    found: dict[str, Scores] = {}
    rows = []
    for name, more in (("without critics", WITHOUT), ("with critics", [])):
        cli = build(RECIPE, steps, [*words, *more])
        seconds = fit(cli, crops, seed)
        found[name] = scored(cli, test, crops)
        every, hard = found[name].implausible
        pck = [f"{found[name].pck[threshold]:.3f}" for threshold in THRESHOLDS]
        rows.append([f"{name}, {seconds:.0f} s", f"{every:.3f}", f"{hard:.3f}", f"{found[name].measures:.3f}", *pck])
    header = ["trained", "implausible", f"{HIDDEN}+ hidden", "measures outside", *(f"PCK@{t}" for t in THRESHOLDS)]
    print_table(header, rows)
    plain, critics = found["without critics"], found["with critics"]
    fewer = plain.implausible[0] - critics.implausible[0]
    more = critics.pck[0.2] - plain.pck[0.2]
    print(f"implausible poses {-fewer:+.3f}, must be below 0; PCK@0.2 {more:+.3f}, must not be below 0")
    holds = fewer > 0 and more >= 0
    print("the claim holds" if holds else "the claim does NOT hold")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
