"""What the claims of the methods share: a training by a recipe on fresh people, its scores and the table of them.

A claim trains what its recipe says, on rendered people of its own seed, and scores it on people that are not in the
training set. PCK is by the torso's diameter over all keypoints; hidden ones count.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import lightning as L
import torch
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_pose_zoo.cli import build_cli
from lightning_pose_zoo.data.base import PoseDataModule
from lightning_pose_zoo.methods.base import PoseModule
from lightning_pose_zoo.methods.top_down import poses_from_crops

RECIPES = Path(__file__).parents[2] / "recipes"
BAR = 0.85
TEST_PICTURES = 1000
WARM_UP, TIMED = 5, 15
NOTHING_BESIDE_THE_TRAINING = [
    "--trainer.logger=false",
    "--trainer.callbacks=null",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.limit_val_batches=0",
]


@dataclass(frozen=True)
class Claim:
    """What a method has to show.

    Attributes:
        recipe: Of the training, below recipes/.
        bar: The least PCK@0.2.
        stage: What a stage of the network is called; empty where the network has one only.
        margin: How much better the last stage is than the first, in PCK@0.2.
    """

    recipe: str
    bar: float = BAR
    stage: str = ""
    margin: float = 0.0


class Stopwatch(L.Callback):
    """Writes down when each training step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        self.ends.append(time.perf_counter())


def prepare(threads: int) -> None:
    """Fix the number of threads, and leave the table alone on the screen."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def build(recipe: str, steps: int | None, words: Sequence[str]) -> LightningCLI:
    """Build what a recipe says, for another number of steps where one is given, without logs and checkpoints."""
    path = RECIPES / recipe
    length = [] if steps is None else [f"--trainer.max_steps={steps}"]
    if steps is not None and "total_steps" in path.read_text():  # a schedule that is told its length
        length.append(f"--model.lr_scheduler.total_steps={steps}")
    folder = f"--trainer.default_root_dir={tempfile.gettempdir()}"
    return build_cli(["--config", str(path), *NOTHING_BESIDE_THE_TRAINING, folder, *length, *words], run=False)


def train(cli: LightningCLI, loader: object = None) -> float:
    """Train, and return how many seconds it took; whoever stops a training gets no 0, as if its claim held.

    Args:
        cli: What was built.
        loader: Batches in place of the data module's.
    """
    start = time.perf_counter()
    try:
        if loader is None:
            cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        else:
            cli.trainer.fit(cli.model, train_dataloaders=loader)
    except SIGTERMException as stopped:
        sys.exit(f"the training was stopped, so that nothing is shown: {stopped!r}")
    return time.perf_counter() - start


def steps_within(recipe: str, minutes: float, words: Sequence[str]) -> int:
    """Return how many steps fit into some minutes, at most as many as the recipe has."""
    cli, watch = build(recipe, WARM_UP + TIMED, words), Stopwatch()
    cli.trainer.callbacks.append(watch)
    train(cli)
    pace = (watch.ends[-1] - watch.ends[WARM_UP - 1]) / TIMED
    return max(1, min(build(recipe, None, words).trainer.max_steps, int(60 * minutes / pace)))


def score(cli: LightningCLI, data: PoseDataModule) -> dict[str, float]:
    """Return the scores on the test set by name."""
    scores = cli.trainer.test(cli.model, datamodule=data, verbose=False)[0]
    return {name.removeprefix("test/"): float(value) for name, value in scores.items()}


def score_of_mean_pose(train_data: PoseDataModule, test_data: PoseDataModule) -> dict[str, float]:
    """Return the scores of one pose for all crops, the mean of some training crops: what needs no network."""
    crops = list(itertools.islice(train_data.train_dataloader(), 20))
    keypoints = torch.cat([batch["keypoints"] for batch in crops])
    labelled = (torch.cat([batch["visibility"] for batch in crops]) > 0)[..., None]
    mean = (keypoints * labelled).sum(dim=0) / labelled.sum(dim=0)
    metrics = list(test_data.metrics())
    for batch in test_data.test_dataloader():
        count = len(batch["image"])
        poses = poses_from_crops(mean.expand(count, -1, -1), torch.ones(count, len(mean)), batch)
        for metric in metrics:
            metric.update_batch(poses, batch)
    return {name: float(value) for metric in metrics for name, value in metric.compute().items()}


def stage_scores(cli: LightningCLI, stage: str) -> dict[str, dict[str, float]]:
    """Return the scores of what each stage finds, first to last; of the poses alone without stages."""
    method = cli.model
    assert isinstance(method, PoseModule)
    if not stage:
        return {"poses": score(cli, cli.datamodule)}
    height, width = cli.datamodule.settings.size
    with torch.no_grad():
        count = method.eval().stage_maps(torch.zeros(1, 3, height, width, dtype=torch.uint8)).shape[1]
    found = {}
    for number in range(count):
        method.read_stage = number
        found[f"{stage} {number + 1} of {count}"] = score(cli, cli.datamodule)
    method.read_stage = -1
    return found


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |", flush=True)


def train_as_asked(recipe: str, description: str | None) -> tuple[LightningCLI, float]:
    """Train a recipe for the seed and the minutes of the command line; return it and the seconds that it took."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the people, the first weights and the order")
    parser.add_argument("--minutes", type=float, default=10.0, help="the recipe's training is shortened to these")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    arguments = parser.parse_args()
    prepare(arguments.threads)
    words = [f"--seed_everything={arguments.seed}", f"--data.seed={arguments.seed}", f"--data.val_size={TEST_PICTURES}"]
    steps = steps_within(recipe, arguments.minutes, words)
    cli = build(recipe, steps, words)
    crops = steps * cli.datamodule.batch_size
    print(f"recipes/{recipe}, seed {arguments.seed}: {steps} steps, {crops} crops", flush=True)
    return cli, train(cli)


def prove(claim: Claim, description: str | None) -> int:
    """Train as a claim says and print a table.

    Returns:
        0 where the claim holds, else 1.
    """
    cli, seconds = train_as_asked(claim.recipe, description)
    found = stage_scores(cli, claim.stage)
    rows = {"mean pose, no network": score_of_mean_pose(cli.datamodule, cli.datamodule)} | found
    print_table(
        ["read from", "PCK@0.2", "PCK@0.1"],
        [[name, f"{scores['PCK@0.2']:.3f}", f"{scores['PCK@0.1']:.3f}"] for name, scores in rows.items()],
    )
    values = [scores["PCK@0.2"] for scores in found.values()]
    gain = values[-1] - values[0]
    print(f"PCK@0.2 on {TEST_PICTURES} unseen people after {seconds:.0f} s: {values[-1]:.3f}, bar {claim.bar}")
    if claim.stage:
        print(f"the last {claim.stage} over the first: {gain:+.3f}, bar {claim.margin:+}")
    holds = values[-1] >= claim.bar and gain >= claim.margin
    print("the claim holds" if holds else "the claim does NOT hold")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit("claims.py is what the claims share; run one of tests/benchmarks/claim_*.py.")
