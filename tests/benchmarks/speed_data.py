"""Speed of top-down training data: ``COCOKeypoints`` against what public code does, in one process and one thread.

The baseline does the steps of the published pipelines sample by sample: decode with OpenCV, mirror the picture, warp,
ToTensor and Normalize, draw one Gaussian after the other, collate. Both sides draw their crops by the same statistics.
Both decode every picture anew; batches of both alternate, and medians are compared.

    POSE_ZOO_TEST_DATA=<folder> python tests/benchmarks/speed_data.py [--batches 30]

Prints a table and exits with 1 where the loader is less than 1.7 times as fast as the baseline.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from lightning_pose_zoo import geometry
from lightning_pose_zoo.codecs.heatmap import HeatmapCodec
from lightning_pose_zoo.data import COCOKeypoints, CropAugmentation
from lightning_pose_zoo.data.crops import TableCrops
from lightning_pose_zoo.methods.normalization import Normalization

BAR = 1.7
BATCH_SIZE = 32
CROP = (256, 192)
STRIDE, SIGMA = 4, 2


class PublicPipeline(Dataset):
    """One sample after the other, as the repositories of HRNet and Simple Baselines do it."""

    def __init__(self, crops: TableCrops, augmentation: CropAugmentation) -> None:
        self.crops = crops
        self.augmentation = augmentation
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
        )
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, object]]:
        table, skeleton = self.crops.table, self.crops.skeleton
        path = table.path(int(table.image_rows[index]))
        picture = cv2.cvtColor(
            cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), cv2.COLOR_BGR2RGB
        )
        keypoints, visibility = table.keypoints[index].astype(np.float64), table.visibility[index]
        center, size = geometry.box_center_size(table.boxes[index].astype(np.float64))
        size = geometry.fit_aspect(size, CROP[1] / CROP[0], 1.25)
        center, size, angle, flip = self.augmentation.vary(center, size, keypoints, visibility, skeleton, self.rng)
        if flip:
            picture = picture[:, ::-1, :]
            keypoints = geometry.flip_keypoints(keypoints, picture.shape[1], skeleton.flip_permutation)
            visibility = visibility[skeleton.flip_permutation]
            center = np.array([picture.shape[1] - center[0] - 1, center[1]])
        matrix = geometry.crop_affine(center, size, CROP, -angle if flip else angle, convention="msra")
        crop = cv2.warpAffine(picture, matrix, (CROP[1], CROP[0]), flags=cv2.INTER_LINEAR)
        for joint in range(len(keypoints)):
            if visibility[joint] > 0:
                keypoints[joint] = matrix @ np.array([keypoints[joint, 0], keypoints[joint, 1], 1.0])
        maps, weights = gaussians(keypoints, visibility)
        meta = {"image": str(path), "joints": keypoints, "center": center, "scale": size, "rotation": angle, "score": 1}
        return self.transform(crop), torch.from_numpy(maps), torch.from_numpy(weights), meta


def gaussians(keypoints: np.ndarray, visibility: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw one map per joint: a patch of a Gaussian, pasted where it overlaps the map."""
    height, width = CROP[0] // STRIDE, CROP[1] // STRIDE
    reach = 3 * SIGMA
    maps = np.zeros((len(keypoints), height, width), dtype=np.float32)
    weights = (visibility[:, None] > 0).astype(np.float32)
    for joint, (x, y) in enumerate(keypoints):
        column, row = int(x / STRIDE + 0.5), int(y / STRIDE + 0.5)
        if column - reach >= width or row - reach >= height or column + reach < 0 or row + reach < 0:
            weights[joint] = 0
            continue
        axis = np.arange(0, 2 * reach + 1, 1, np.float32)
        patch = np.exp(-((axis - reach) ** 2 + (axis[:, None] - reach) ** 2) / (2 * SIGMA**2))
        left, right = max(0, column - reach), min(column + reach + 1, width)
        top, bottom = max(0, row - reach), min(row + reach + 1, height)
        if weights[joint] > 0.5:
            maps[joint, top:bottom, left:right] = patch[
                top - row + reach : bottom - row + reach, left - column + reach : right - column + reach
            ]
    return maps, weights


def endless(loader: DataLoader) -> Iterator:
    """Repeat a loader, with new variations each time."""
    epoch = 0
    while True:
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def timed(step: Callable[[], object]) -> float:
    """Return the seconds that a step takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure(root: Path, batches: int) -> dict[str, float]:
    """Return the median seconds per batch of each side."""
    augmentation = CropAugmentation(scale=0.35, rotation=45.0, half_body_probability=0.3)
    data = COCOKeypoints(
        str(root),
        image_size=CROP,
        batch_size=BATCH_SIZE,
        num_workers=0,
        crop_convention="msra",
        augmentation=augmentation,
    )
    data.setup("fit")
    crops = data.datasets["train"]
    public = endless(
        DataLoader(PublicPipeline(crops, augmentation), batch_size=BATCH_SIZE, shuffle=True, drop_last=True)
    )
    ours, ours_to_the_end = endless(data.train_dataloader()), endless(data.train_dataloader())
    normalization, codec = Normalization(), HeatmapCodec("msra", STRIDE, SIGMA)

    def to_the_end() -> object:
        batch = next(ours_to_the_end)
        return normalization(batch["image"]), codec.encode(batch["keypoints"], batch["visibility"], CROP)

    sides = {
        "public": lambda: next(public),
        "loader": lambda: next(ours),
        "loader + normalise + encode": to_the_end,
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(batches + 2):
        for name, step in sides.items():
            spent = timed(step)
            if repetition >= 2:  # the first reads fill the disk's cache
                seconds[name].append(spent)
    return {name: statistics.median(spent) for name, spent in seconds.items()}


def main() -> int:
    """Measure, print the table, and return 1 where the loader is below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=30, help="how many batches each side makes")
    arguments = parser.parse_args()
    if "POSE_ZOO_TEST_DATA" not in os.environ:
        parser.error("POSE_ZOO_TEST_DATA must name the folder that holds coco-mini")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    medians = measure(Path(os.environ["POSE_ZOO_TEST_DATA"]) / "coco-mini", arguments.batches)
    print(f"coco-mini, crops {CROP[0]} x {CROP[1]}, batches of {BATCH_SIZE}, one thread, median of {arguments.batches}")
    print(f"{'side':30} {'ms/sample':>10} {'samples/s':>10} {'x public':>9}")
    for name, spent in medians.items():
        print(f"{name:30} {spent / BATCH_SIZE * 1e3:10.2f} {BATCH_SIZE / spent:10.0f} {medians['public'] / spent:9.2f}")
    ratio = medians["public"] / medians["loader"]
    print(f"bar for the loader: {BAR} x; reached: {ratio:.2f} x")
    return 0 if ratio >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
