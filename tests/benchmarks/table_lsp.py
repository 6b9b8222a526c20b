"""Heatmap methods on real photos: one table of all, from random weights, for the same number of steps.

    POSE_ZOO_TEST_DATA=<folder> python tests/benchmarks/table_lsp.py [--steps 600] [--seed 0]

Each method's network and rate are its synthetic recipe's. They train on lsp-extended-401-1200, 800 people of Leeds
Sports Pose extended (one of them is held back, because a data module has a validation set), and are scored on lsp-400,
400 others. Prints a Markdown table: PCK@0.2 by the torso's diameter, strict PCP@0.5, the seconds of the training.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from claims import build, prepare, print_table, score, score_of_mean_pose, train

from lightning_pose_zoo.data import LSP

RECIPES = {
    "Simple Baselines": "simple_baseline/simple_baseline_synthetic.yaml",
    "HRNet": "hrnet/hrnet_synthetic.yaml",
    "Stacked Hourglass": "stacked_hourglass/stacked_hourglass_synthetic.yaml",
    "Convolutional Pose Machine": "convolutional_pose_machine/convolutional_pose_machine_synthetic.yaml",
}
SIZE, BATCH_SIZE = (128, 128), 32
HEADER = ["method", "parameters", "PCK@0.2", "PCP@0.5", "seconds"]


def row(method: str, scores: dict[str, float], parameters: int = 0, seconds: float = 0.0) -> list[str]:
    """Return one row of the table."""
    values = [f"{scores[name]:.3f}" for name in ("PCK@0.2", "PCP@0.5")]
    return [method, f"{parameters / 1e6:.2f} M", *values, f"{seconds:.0f}"]


def main() -> int:
    """Train each method and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="batches of 32 that each method sees")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights, the order and the augmentation")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    arguments = parser.parse_args()
    if "POSE_ZOO_TEST_DATA" not in os.environ:
        parser.error("POSE_ZOO_TEST_DATA must name the folder that holds lsp-extended-401-1200 and lsp-400")
    prepare(arguments.threads)
    folder = Path(os.environ["POSE_ZOO_TEST_DATA"])
    test = LSP(str(folder / "lsp-400"), val_fraction=0.999, image_size=SIZE, batch_size=BATCH_SIZE, num_workers=0)
    words = [
        f"--seed_everything={arguments.seed}", "--data=LSP", f"--data.root={folder / 'lsp-extended-401-1200'}",
        "--data.val_fraction=0.001", f"--data.image_size={list(SIZE)}", f"--data.batch_size={BATCH_SIZE}",
        "--data.num_workers=0", f"--data.seed={arguments.seed}",
    ]  # fmt: skip
    rows = []
    for method, recipe in RECIPES.items():
        cli = build(recipe, arguments.steps, words)
        seconds = train(cli)
        found = row(method, score(cli, test), sum(p.numel() for p in cli.model.network.parameters()), seconds)
        print(*found, sep="  ", flush=True)
        rows.append(found)
    rows.insert(0, row("mean pose, no network", score_of_mean_pose(cli.datamodule, test)))
    sizes = [len(data.datasets[split]) for data, split in ((cli.datamodule, "train"), (test, "test"))]
    what = f"{arguments.steps} batches of {BATCH_SIZE}, seed {arguments.seed}"
    print(f"\n{what}: {sizes[0]} people to train, {sizes[1]} to test\n")
    print_table(HEADER, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
