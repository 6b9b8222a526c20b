"""Decoding 64 x 17 heatmaps of 64 x 48 cells, against a loop over persons and joints as public code has it.

Run: python tests/benchmarks/speed_decode.py
Both sides in one run on one thread; medians of interleaved repetitions. Exits with 1 below the bar.
"""

from __future__ import annotations

import statistics
import sys
import time

import cv2
import numpy as np
import torch

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.geometry import apply_affine, crop_affine, invert_affine

BAR = 4.0
SIZE = (256, 192)


def decode_by_loops(heatmaps: np.ndarray, to_original: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Argmax, a quarter cell and the affine map, joint by joint."""
    persons, joints, height, width = heatmaps.shape
    flat = heatmaps.reshape(persons, joints, -1)
    index, scores = flat.argmax(axis=2), flat.max(axis=2)
    keypoints = np.stack([index % width, index // width], axis=2).astype(np.float32)
    keypoints *= (scores > 0)[..., None]
    for person in range(persons):
        for joint in range(joints):
            heatmap = heatmaps[person, joint]
            x, y = int(keypoints[person, joint, 0] + 0.5), int(keypoints[person, joint, 1] + 0.5)
            if 1 < x < width - 1 and 1 < y < height - 1:
                slope = np.array([heatmap[y, x + 1] - heatmap[y, x - 1], heatmap[y + 1, x] - heatmap[y - 1, x]])
                keypoints[person, joint] += np.sign(slope) * 0.25
    for person in range(persons):
        for joint in range(joints):
            point = np.array([*(keypoints[person, joint] * 4), 1.0])
            keypoints[person, joint] = to_original[person] @ point
    return keypoints, scores


def main() -> int:
    """Measure both and print a table."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(rng.uniform(10, 180, (64, 17, 2)).astype(np.float32))
    heatmaps = HeatmapCodec("msra").encode(truth, torch.ones(64, 17), SIZE).heatmaps
    heatmaps = heatmaps + torch.from_numpy(rng.normal(0, 0.02, heatmaps.shape).astype(np.float32))
    centers, sides = rng.uniform(100, 400, (64, 2)), rng.uniform(100, 400, 64)
    to_original = np.stack(
        [
            invert_affine(crop_affine(center, np.array([0.75 * side, side]), SIZE, convention="msra"))
            for center, side in zip(centers, sides, strict=True)
        ]
    ).astype(np.float32)

    def ours(convention: str) -> tuple[torch.Tensor, torch.Tensor]:
        keypoints, scores = HeatmapCodec(convention).decode(heatmaps)
        return apply_affine(keypoints, torch.from_numpy(to_original)), scores

    sides_of_table = {
        "loop over persons and joints (quarter offset)": lambda: decode_by_loops(heatmaps.numpy(), to_original),
        "ours, msra (quarter offset)": lambda: ours("msra"),
        "ours, dark": lambda: ours("dark"),
        "ours, udp": lambda: ours("udp"),
        "ours, center": lambda: ours("center"),
    }
    expected, _ = sides_of_table["loop over persons and joints (quarter offset)"]()
    found, _ = ours("msra")
    worst = float(np.abs(found.numpy() - expected).max())
    times: dict[str, list[float]] = {name: [] for name in sides_of_table}
    for _ in range(30):
        for name, run in sides_of_table.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    loop = medians["loop over persons and joints (quarter offset)"]
    for name, seconds in medians.items():
        print(f"{name:48s} {1000 * seconds:7.2f} ms {loop / seconds:6.1f}x")
    ratio = loop / medians["ours, msra (quarter offset)"]
    print(f"largest difference of the quarter offset's keypoints: {worst:.1e} px; bar: {BAR}x, measured {ratio:.1f}x")
    return 0 if ratio >= BAR and worst < 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
