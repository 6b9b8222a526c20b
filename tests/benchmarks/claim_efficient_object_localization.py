"""Efficient Object Localization in miniature: the fine network finds keypoints more exactly than the coarse one.

    python tests/benchmarks/claim_efficient_object_localization.py --seed S [--minutes M]

Trains the recipe on rendered people of that seed: coarse maps of 8 pixels per cell, then the fine network on their
features, then both. Prints what both find on the same people, each read at whole cells, as in the paper, and between
them, where the coarse maps are better than the paper lets them be. Exits with 1 where at the tightest threshold, PCK at
0.05 of the torso's diameter, fine is not better than coarse by the margin in both readings.
"""

from __future__ import annotations

import sys

import torch
from claims import TEST_PICTURES, print_table, score_of_mean_pose, train_as_asked
from lightning.pytorch.cli import LightningCLI

from lightning_pose_zoo.codecs.peaks import map_peaks
from lightning_pose_zoo.methods import EfficientObjectLocalization
from lightning_pose_zoo.methods.top_down import poses_from_crops
from lightning_pose_zoo.metrics import PCK

RECIPE = "efficient_object_localization/efficient_object_localization_synthetic.yaml"
THRESHOLDS = (0.2, 0.1, 0.05)
MARGIN = 0.10
COARSE, COARSE_BETWEEN = "coarse, at cells", "coarse, between cells"
FINE, FINE_BETWEEN = "coarse + fine, at cells", "coarse + fine, between cells"


def readings(method: EfficientObjectLocalization, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the keypoints (B, K, 2) of crops in pixels, by how they were read, all of one pass of the network."""
    maps, cells, fine = method.network(method.normalized(images))
    coarse, fine = method.loss.to_heatmaps(maps), method.loss.to_heatmaps(fine)
    origins = method.window_origins(cells)
    fine_cells, _ = map_peaks(fine)
    return {
        COARSE: method.codec.to_pixels(cells.float(), (maps.shape[-2], maps.shape[-1])),
        COARSE_BETWEEN: method.codec.decode(coarse)[0],
        FINE: origins + method.fine_codec.to_pixels(fine_cells.float(), (fine.shape[-2], fine.shape[-1])),
        FINE_BETWEEN: origins + method.fine_codec.decode(fine)[0],
    }


def scores(cli: LightningCLI) -> dict[str, dict[str, float]]:
    """Return PCK on the test set for each way of reading the maps."""
    method, data = cli.model.eval(), cli.datamodule
    data.setup("test")
    metrics: dict[str, PCK] = {}
    with torch.no_grad(), cli.trainer.precision_plugin.forward_context():
        for batch in data.test_dataloader():
            for name, keypoints in readings(method, batch["image"]).items():
                metric = metrics.setdefault(name, PCK(method.skeleton, THRESHOLDS, normalize_by="torso"))
                metric.update_batch(poses_from_crops(keypoints, torch.ones(keypoints.shape[:2]), batch), batch)
    return {name: {key: float(value) for key, value in metric.compute().items()} for name, metric in metrics.items()}


def main() -> int:
    """Train, print the table and say whether the claim holds."""
    cli, seconds = train_as_asked(RECIPE, __doc__)
    found = scores(cli)
    columns = [f"PCK@{threshold}" for threshold in THRESHOLDS]
    mean_pose = score_of_mean_pose(cli.datamodule, cli.datamodule)
    rows = [["mean pose, no network", *(f"{mean_pose[key]:.3f}" if key in mean_pose else "-" for key in columns)]]
    rows += [[name, *(f"{values[key]:.3f}" for key in columns)] for name, values in found.items()]
    print_table(["read from", *columns], rows)
    tightest = columns[-1]
    gain = found[FINE][tightest] - found[COARSE][tightest]
    between = found[FINE_BETWEEN][tightest] - found[COARSE_BETWEEN][tightest]
    print(f"{tightest} on {TEST_PICTURES} unseen people after {seconds:.0f} s: fine over coarse")
    print(f"read at cells, as in the paper: {gain:+.3f}, read between cells: {between:+.3f}, bar {MARGIN:+}")
    holds = min(gain, between) >= MARGIN
    print("the claim holds" if holds else "the claim does NOT hold")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
