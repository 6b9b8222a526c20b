"""Draws the pictures of docs/methods/adversarial_posenet.md: the same hard persons with and without critics.

    python tests/benchmarks/pictures_adversarial_posenet.py --out docs/images/adversarial_posenet.jpg

Trains the recipe twice, as claim_adversarial_posenet.py does, and draws people with many hidden keypoints: the truth,
what the generator finds that trained without critics, what the one finds that trained with them, and the maps of
hidden keypoints. They are the first people of the test set with at least six hidden keypoints, whatever was found.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from claim_adversarial_posenet import RECIPE, WITHOUT, fit, rendered
from claims import build, prepare

from lightning_pose_zoo.visualization import contact_sheet, draw_poses, heatmap_overlay, save_picture, to_picture

HIDDEN = 6
PEOPLE = 6
ENLARGED = 3


def main() -> None:
    """Train, draw and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/adversarial_posenet.jpg"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--precision", default="bf16-mixed")
    arguments = parser.parse_args()
    prepare(threads=1)
    seed = arguments.seed
    words = [f"--seed_everything={seed}", f"--data.seed={seed}", f"--trainer.precision={arguments.precision}"]
    data = build(RECIPE, arguments.steps, words)
    crops = rendered(data)
    methods = []
    for more in (WITHOUT, []):
        cli = build(RECIPE, arguments.steps, [*words, *more])
        fit(cli, crops, seed)
        methods.append(cli.model.eval())
    data.datamodule.setup("test")
    tiles, shown = [], 0
    for batch in data.datamodule.test_dataloader():
        with torch.no_grad():
            poses = [method(batch["image"]) for method in methods]
            hidden = methods[1].occlusion_maps(batch["image"]).clamp(0, 1)
        for row in ((batch["visibility"] == 1).sum(dim=1) >= HIDDEN).nonzero().flatten().tolist():
            if shown == PEOPLE:
                break
            shown += 1
            small = to_picture(batch["image"][row])
            picture = cv2.resize(small, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)

            def drawn(keypoints: torch.Tensor, picture: np.ndarray = picture) -> np.ndarray:
                places = (keypoints.numpy()[None] + 0.5) * ENLARGED - 0.5
                return draw_poses(picture, places, methods[0].skeleton)

            tiles += [
                picture, drawn(batch["keypoints"][row]), drawn(poses[0][0][row]), drawn(poses[1][0][row]),
                heatmap_overlay(picture, hidden[row].numpy()),
            ]  # fmt: skip
    captions = ["picture", "truth", "without critics", "with critics", "hidden keypoints"] * shown
    save_picture(arguments.out, contact_sheet(tiles, columns=10, captions=captions))


if __name__ == "__main__":
    main()
