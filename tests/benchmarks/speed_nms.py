"""OKS-NMS of 5000 images with 20 detections each, against a loop over images and pairs as public code has it.

Run: python tests/benchmarks/speed_nms.py
Both sides in one run on one thread; medians of processor time of interleaved repetitions. Exits with 1 below the bar,
or where the two keep different poses.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import torch

from lightning_pose_zoo.association import oks_nms
from lightning_pose_zoo.skeletons import get_skeleton

BAR = 25.0
IMAGES, DETECTIONS, PEOPLE, THRESHOLD = 5000, 20, 7, 0.9
SIGMAS = np.array(get_skeleton("coco17").sigmas)


def crowded_images(per_image: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Make detections of some people per image, in mixed order: some near the person, some far off."""
    rng = np.random.default_rng(0)
    size = rng.uniform(40, 300, (IMAGES, PEOPLE))
    people = (
        rng.uniform(0, 600, (IMAGES, PEOPLE, 1, 2))
        + rng.normal(0, 0.25, (IMAGES, PEOPLE, 17, 2)) * size[..., None, None]
    )
    image = rng.permutation(np.repeat(np.arange(IMAGES), per_image))
    who = rng.integers(0, PEOPLE, len(image))
    noise = rng.choice([0.005, 0.02, 0.08], len(image)) * size[image, who]
    keypoints = people[image, who] + rng.normal(0, 1, (len(image), 17, 2)) * noise[:, None, None]
    return keypoints, rng.random(len(image)), size[image, who] ** 2, image


def nms_by_loops(keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray, images: np.ndarray) -> list[int]:
    """Image by image, and the OKS of the best with one other after the other."""
    rows_of_image: dict[int, list[int]] = {}
    for row, image in enumerate(images.tolist()):
        rows_of_image.setdefault(image, []).append(row)
    variances = (SIGMAS * 2) ** 2
    kept = []
    for image in sorted(rows_of_image):
        rows = np.array(rows_of_image[image])
        order = rows[scores[rows].argsort()[::-1]]
        while order.size > 0:
            best, rest = order[0], order[1:]
            kept.append(int(best))
            similarity = np.zeros(len(rest))
            for place, other in enumerate(rest):
                dx = keypoints[other, :, 0] - keypoints[best, :, 0]
                dy = keypoints[other, :, 1] - keypoints[best, :, 1]
                e = (dx**2 + dy**2) / variances / ((areas[best] + areas[other]) / 2 + np.spacing(1)) / 2
                similarity[place] = np.sum(np.exp(-e)) / e.shape[0]
            order = rest[similarity <= THRESHOLD]
    return kept


def main() -> int:
    """Measure both and print a table."""
    torch.set_num_threads(1)
    good = True
    print(f"{IMAGES} images, {PEOPLE} people in each, threshold {THRESHOLD}; microseconds per image")
    print(f"{'detections per image':>20} {'kept':>6} {'loop':>9} {'ours':>7} {'x':>6}")
    for per_image, repetitions in ((5, 3), (DETECTIONS, 3)):
        people = crowded_images(per_image)
        times: dict[str, list[float]] = {"loop": [], "ours": []}
        for _ in range(repetitions):
            start = time.process_time()
            expected = nms_by_loops(*people)
            middle = time.process_time()
            found = oks_nms(*people, SIGMAS, THRESHOLD)
            times["ours"].append(time.process_time() - middle)
            times["loop"].append(middle - start)
        loop, ours = (statistics.median(times[side]) for side in ("loop", "ours"))
        ratio, share = loop / ours, len(found) / len(people[1])
        print(f"{per_image:20d} {share:6.0%} {loop / IMAGES * 1e6:9.1f} {ours / IMAGES * 1e6:7.1f} {ratio:6.1f}")
        good = good and found.tolist() == expected and (per_image != DETECTIONS or ratio >= BAR)
    print(f"bar at {DETECTIONS} detections: {BAR} x, with the same poses kept: {'reached' if good else 'NOT reached'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
