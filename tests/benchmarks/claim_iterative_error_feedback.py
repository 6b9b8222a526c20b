"""Iterative Error Feedback in miniature: every correction brings the pose nearer, and all together beat a single guess.

    python tests/benchmarks/claim_iterative_error_feedback.py --seed S [--minutes M]

Trains the recipe on rendered people of that seed, and beside it the same backbone, for as many steps on as many crops,
to say at once where the keypoints are: one correction, as long as it needs to be. Prints what is found after each step:
the mean distance to the label in torso diameters and PCK@0.2, on crops of other people, varied as in training, so that
there is a way to go. Exits with 1 where a step does not lower the distance and raise PCK, or where the last one is not
clearly better than the single guess: nearer on average by more than three standard errors, the crops taken in pairs,
and by the margin in PCK. Steps and crops are equal; a step that trains four corrections takes longer.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence

import torch
from claims import RECIPES, TIMED, WARM_UP, build, prepare, print_table, steps_within, train

from lightning_pose_zoo.methods import IterativeErrorFeedback
from lightning_pose_zoo.methods.top_down import poses_from_crops
from lightning_pose_zoo.metrics import NME, PCK
from lightning_pose_zoo.structures import PoseBatch

RECIPE = "iterative_error_feedback/iterative_error_feedback_synthetic.yaml"
SINGLE_GUESS = ["--model.steps=1", "--model.max_step=112"]
PHASES = "--trainer.callbacks=[{{class_path: TrainingPhases, init_args: {{lengths: {}, statistics_samples: 600}}}}]"
FIRST_PHASES = 1 / 12  # of the training, as in the recipe: three short phases and a long one
OTHER_PEOPLE = ["--data.train_size=1000", "--data.crops_per_picture=1"]
FAR = 1000  # from a seed to that of the people who are scored
STANDARD_ERRORS = 3.0
MORE_PCK = 0.03
FEWEST_STEPS = 800  # with less the network has hardly begun to see; a busy machine takes longer than the minutes
# Rendering, scoring and building take a part of the minutes.
TRAINING_SHARE = 0.85


def phases(steps: int, count: int = 4) -> str:
    """Say how long the phases of a training of so many steps are."""
    short = max(1, int(steps * FIRST_PHASES))
    return PHASES.format([short] * (count - 1) + [steps - short * (count - 1)])


def unseen_crops(seed: int, words: Sequence[str]) -> list[PoseBatch]:
    """Render crops of people of another seed than the training's, varied as there."""
    data = build(RECIPE, 1, [*words, *OTHER_PEOPLE, f"--data.seed={seed + FAR}"]).datamodule
    data.setup("fit")
    return list(data.statistics_dataloader())


@torch.no_grad()
def distances(method: IterativeErrorFeedback, crops: Sequence[PoseBatch]) -> list[tuple[float, float, torch.Tensor]]:
    """Return the mean distance in torso diameters, PCK@0.2 and the distance in each crop after each step, 0 first."""
    rounds = range(method.network.steps + 1)
    metrics = [(NME(method.skeleton, "torso"), PCK(method.skeleton, (0.2,), normalize_by="torso")) for _ in rounds]
    method.eval()
    for batch in crops:
        poses, scores = method.trajectory(batch["image"])
        for step in rounds:
            found = poses_from_crops(poses[:, step], scores, batch)
            for metric in metrics[step]:
                metric.update_batch(found, batch)
    return [
        (float(nme.compute()["NME"]), float(pck.compute()["PCK@0.2"]), nme.errors().nanmean(dim=1))
        for nme, pck in metrics
    ]


def main() -> int:
    """Train both, print a table and say whether the claim holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the people, the first weights and the order")
    parser.add_argument("--minutes", type=float, default=10.0, help="both trainings are shortened to these together")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    arguments = parser.parse_args()
    prepare(arguments.threads)
    words = [f"--seed_everything={arguments.seed}", f"--data.seed={arguments.seed}"]
    in_time = steps_within(RECIPE, arguments.minutes * TRAINING_SHARE / 2, [*words, phases(WARM_UP + TIMED)])
    steps = max(FEWEST_STEPS, in_time)
    print(f"{(RECIPES / RECIPE).name}, seed {arguments.seed}: {steps} steps", flush=True)
    crops = unseen_crops(arguments.seed, words)
    rows, found = [], {}
    for name, more in (("single guess", [*SINGLE_GUESS, phases(steps, 1)]), ("corrections", [phases(steps)])):
        cli = build(RECIPE, steps, [*words, *more])
        seconds = train(cli)
        found[name] = distances(cli.model, crops)
        rows += [
            [f"{name}, {seconds:.0f} s", f"{step} of {len(found[name]) - 1}", f"{distance:.4f}", f"{pck:.3f}"]
            for step, (distance, pck, _) in enumerate(found[name])
        ]
    print_table(["trained", "step", "distance / torso", "PCK@0.2"], rows)
    path, (guess, guess_pck, guess_each) = found["corrections"], found["single guess"][-1]
    nearer = all(after[0] < before[0] and after[1] > before[1] for before, after in itertools.pairwise(path))
    last, last_pck, last_each = path[-1]
    less = (guess_each - last_each)[~(guess_each.isnan() | last_each.isnan())]
    errors, more_pck = float(less.mean() / less.std() * len(less) ** 0.5), last_pck - guess_pck
    print(f"every step is nearer: {nearer}")
    print(f"the last step against the single guess: distance {last / guess - 1:+.1%}, nearer by {errors:.1f} standard "
          f"errors, bar {STANDARD_ERRORS}; PCK@0.2 {more_pck:+.3f}, bar {MORE_PCK:+}")  # fmt: skip
    holds = nearer and errors >= STANDARD_ERRORS and more_pck >= MORE_PCK
    print("the claim holds" if holds else "the claim does NOT hold")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
