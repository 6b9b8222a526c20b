"""Adversarial PoseNet trains on without a NaN: 2,000 steps on two seeds, in float32 and in bfloat16.

    python tests/benchmarks/survive_adversarial_posenet.py [--steps 2000] [--seeds 0 1] [--precisions ...]

A very small configuration, since a CPU without instructions for bfloat16 computes it slowly: one stack of 8 channels,
critics of 8, crops of 64x64 pixels, batches of 2 of sixteen rendered people, gradients clipped at 5. Prints where
losses, weights and the critics' shares of right answers end. Exits with 1 where a loss or a weight was not finite.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time

import lightning as L
import torch
from claims import prepare, print_table
from torch.utils.data import DataLoader

from lightning_pose_zoo.data import SyntheticPeople
from lightning_pose_zoo.errors import TrainingError
from lightning_pose_zoo.methods import AdversarialPoseNet, Critics


class Losses(L.Callback):
    """Keeps the losses of each step."""

    def __init__(self) -> None:
        self.values: list[torch.Tensor] = []
        self.last: dict[str, float] = {}

    def on_train_batch_end(self, trainer: L.Trainer, method: L.LightningModule, *_: object) -> None:
        metrics = trainer.callback_metrics
        names = ("train/loss", "train/critic_pose", "train/critic_confidence")
        self.values.append(torch.stack([metrics[name].float() for name in names]))
        self.last = {name.removeprefix("train/"): float(value) for name, value in metrics.items()}


def survives(seed: int, precision: str, steps: int) -> tuple[bool, list[str]]:
    """Train, and return whether everything stayed finite, with a row for the table."""
    L.seed_everything(seed, verbose=False)
    people = SyntheticPeople(
        "lsp14", (64, 64), train_size=16, crops_per_picture=2, people=(1, 3), occlusion=1.0, batch_size=2, seed=seed
    )
    people.setup("fit")
    crops = DataLoader(list(people.train_dataloader()), batch_size=None, shuffle=True)
    method = AdversarialPoseNet("lsp14", stacks=1, channels=8, critics=Critics(channels=8), flip_test=False)
    losses = Losses()
    trainer = L.Trainer(
        accelerator="cpu", precision=precision, max_steps=steps, gradient_clip_val=5.0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[losses],
    )  # fmt: skip
    start, stopped = time.perf_counter(), ""
    try:
        trainer.fit(method, crops)
    except TrainingError as error:
        stopped = str(error).splitlines()[0]
    finite = all(bool(torch.isfinite(value).all()) for value in (*losses.values, *method.parameters()))
    survived = finite and not stopped and trainer.global_step == steps
    shares = [f"{losses.last.get(f'critic_{name}', math.nan):.2f}" for name in
              ("pose_right_of_true", "pose_right_of_predicted", "pose_good")]  # fmt: skip
    first, last = float(losses.values[0][0]), float(torch.stack(losses.values[-50:])[:, 0].mean())
    seconds = f"{time.perf_counter() - start:.0f}"
    return survived, [str(seed), precision, str(trainer.global_step), f"{first:.1f}", f"{last:.1f}", *shares, seconds]


def main() -> int:
    """Train all combinations, print the table and say whether all survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"])
    arguments = parser.parse_args()
    prepare(threads=1)
    rows, survived = [], True
    for precision, seed in itertools.product(arguments.precisions, arguments.seeds):
        fine, row = survives(seed, precision, arguments.steps)
        survived &= fine
        rows.append(row)
        print(f"seed {seed}, {precision}: {'survived' if fine else 'did NOT survive'}", flush=True)
    header = ["seed", "precision", "steps", "first loss", "last losses", "true right", "predicted right", "good", "s"]
    print_table(header, rows)
    return 0 if survived else 1


if __name__ == "__main__":
    sys.exit(main())
