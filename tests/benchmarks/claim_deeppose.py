"""DeepPose in miniature: stages that look at each joint again, closer, find it better than the first one did.

    python tests/benchmarks/claim_deeppose.py --seed S [--minutes M]

Trains the recipe on rendered people of that seed, one stage after the other, and prints what each stage finds of people
that were not seen. Exits with 1 where the second or the third stage is not better than the first by the margin.
"""

from __future__ import annotations

import argparse
import sys

import torch
from claims import TEST_PICTURES, TIMED, WARM_UP, build, prepare, print_table, steps_within, train
from lightning.pytorch.cli import LightningCLI

from lightning_pose_zoo.methods.top_down import poses_from_crops
from lightning_pose_zoo.metrics import PDJ

RECIPE = "deeppose/deeppose_synthetic.yaml"
PHASES = "--trainer.callbacks=[{{class_path: TrainingPhases, init_args: {{statistics_samples: {}}}}}]"
STATISTICS = 1000  # as in the recipe
MARGIN = 0.05  # PDJ@0.1
# Rendering, statistics and scoring take a part of the minutes.
TRAINING_SHARE = 0.9


@torch.no_grad()
def stage_scores(cli: LightningCLI) -> list[tuple[float, float]]:
    """Return PDJ@0.2 and PDJ@0.1 of what each stage finds of the test set."""
    method, data = cli.model.eval(), cli.datamodule
    data.setup("test")
    metrics = [PDJ(method.skeleton, thresholds=(0.2, 0.1)) for _ in method.network.stages]
    for batch in data.test_dataloader():
        for metric, keypoints in zip(metrics, method.stage_keypoints(batch["image"]), strict=True):
            metric.update_batch(poses_from_crops(keypoints, torch.ones_like(keypoints[..., 0]), batch), batch)
    return [(float((values := metric.compute())["PDJ@0.2"]), float(values["PDJ@0.1"])) for metric in metrics]


def main() -> int:
    """Train, print a table and say whether the claim holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the people, the first weights and the order")
    parser.add_argument("--minutes", type=float, default=10.0, help="the recipe's training is shortened to these")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    arguments = parser.parse_args()
    prepare(arguments.threads)
    words = [f"--seed_everything={arguments.seed}", f"--data.seed={arguments.seed}", f"--data.val_size={TEST_PICTURES}"]
    steps = steps_within(RECIPE, arguments.minutes * TRAINING_SHARE, [*words, PHASES.format(WARM_UP + TIMED)])
    cli = build(RECIPE, steps, [*words, PHASES.format(STATISTICS)])
    print(f"recipes/{RECIPE}, seed {arguments.seed}: {steps} steps, a third for each stage", flush=True)
    seconds = train(cli)
    found = stage_scores(cli)
    print_table(
        ["stage", "PDJ@0.2", "PDJ@0.1"],
        [[f"{number} of {len(found)}", f"{wide:.3f}", f"{near:.3f}"] for number, (wide, near) in enumerate(found, 1)],
    )
    gains = [near - found[0][1] for _, near in found[1:]]
    told = ", ".join(f"{gain:+.3f}" for gain in gains)
    print(f"{TEST_PICTURES} unseen people after {seconds:.0f} s; PDJ@0.1 over the first stage: {told}, bar {MARGIN:+}")
    holds = min(gains) >= MARGIN
    print("the claim holds" if holds else "the claim does NOT hold")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
