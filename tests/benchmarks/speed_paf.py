"""Putting people together on 480x640 at stride 8, against plain Python on maps enlarged to the picture's size.

Run: python tests/benchmarks/speed_paf.py
The baseline does what the first public programs do: it enlarges all maps and fields eight times, blurs each map, and
loops over pairs of candidates. Both sides in one run on one thread; medians of processor time of interleaved
repetitions. Exits with 1 where ours is not fast enough at 20 people, or finds fewer joints in their place.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time

import cv2
import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from lightning_pose_zoo.association.paf import PartGrouping
from lightning_pose_zoo.codecs.body_parts import body_parts
from lightning_pose_zoo.codecs.paf import PartAffinityCodec
from lightning_pose_zoo.skeletons import get_skeleton

BAR = 50.0
PEOPLE = 20
SIZE = (480, 640)
LIMBS = body_parts(get_skeleton("coco17")).skeleton.limbs
CODEC = PartAffinityCodec()
BODY = np.array(
    [[0, .05], [0, .2], [-.12, .2], [-.17, .36], [-.2, .5], [.12, .2], [.17, .36], [.2, .5], [-.08, .52], [-.1, .75],
     [-.1, .97], [.08, .52], [.1, .75], [.1, .97], [-.03, .03], [.03, .03], [-.07, .05], [.07, .05]]
)  # fmt: skip


def crowd(people: int, seed: int = 0) -> torch.Tensor:
    """Place standing people of 150 to 300 pixels at random; (N, 18, 2) parts in pixels."""
    rng = np.random.default_rng(seed)
    height = rng.uniform(150, 300, (people, 1, 1))
    left = rng.uniform([60, 0], [580, 180], (people, 1, 2))
    return torch.tensor(left + height * (BODY + rng.normal(0, 0.03, (people, 18, 2))), dtype=torch.float32)


def in_place(found: np.ndarray, places: torch.Tensor) -> float:
    """Return the share of joints that lie within 8 pixels of their place in the pose that fits each person best."""
    if not len(found):
        return 0.0
    near = np.linalg.norm(found[:, None] - places.numpy()[None], axis=-1) < 8
    return float(near.sum(axis=-1).max(axis=0).mean() / 18)


def by_loops(maps: np.ndarray, fields: np.ndarray) -> np.ndarray:
    """Group as public code does; maps (18, h, w) and fields (38, h, w) to persons (P, 18, 2), NaN where not found."""

    def enlarged(planes: np.ndarray) -> np.ndarray:
        whole = cv2.resize(planes.transpose(1, 2, 0), None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
        return cv2.resize(whole, SIZE[::-1], interpolation=cv2.INTER_CUBIC)

    full, vectors = enlarged(maps), enlarged(fields)
    candidates: list[list[tuple[int, int, float, int]]] = []
    running = 0
    for part in range(18):
        plane = full[:, :, part]
        blurred = gaussian_filter(plane, sigma=3)
        beside = [np.zeros_like(blurred) for _ in range(4)]
        beside[0][1:], beside[1][:-1] = blurred[:-1], blurred[1:]
        beside[2][:, 1:], beside[3][:, :-1] = blurred[:, :-1], blurred[:, 1:]
        is_peak = np.logical_and.reduce([*(blurred >= other for other in beside), blurred > 0.1])
        ys, xs = np.nonzero(is_peak)
        candidates.append([(x, y, plane[y, x], running + i) for i, (x, y) in enumerate(zip(xs, ys, strict=True))])
        running += len(xs)
    links = []
    for limb, (a, b) in enumerate(LIMBS):
        found = []
        for i, j in itertools.product(range(len(candidates[a])), range(len(candidates[b]))):
            start, end = candidates[a][i], candidates[b][j]
            way = np.subtract(end[:2], start[:2]).astype(float)
            length = max(0.001, float(np.sqrt(way[0] ** 2 + way[1] ** 2)))
            way /= length
            points = list(
                zip(np.linspace(start[0], end[0], num=10), np.linspace(start[1], end[1], num=10), strict=True)
            )
            read = np.array([vectors[round(y), round(x), 2 * limb : 2 * limb + 2] for x, y in points])
            values = read[:, 0] * way[0] + read[:, 1] * way[1]
            value = sum(values) / len(values) + min(0.5 * SIZE[0] / length - 1, 0)
            if len(np.nonzero(values > 0.05)[0]) > 0.8 * len(values) and value > 0:
                found.append((i, j, value))
        chosen: list[tuple[int, int]] = []
        for i, j, _ in sorted(found, key=lambda link: -link[2]):
            if i not in [link[0] for link in chosen] and j not in [link[1] for link in chosen]:
                chosen.append((i, j))
        links.append([(candidates[a][i], candidates[b][j]) for i, j in chosen])
    persons: list[dict[int, tuple]] = []
    for (a, b), pairs in zip(LIMBS, links, strict=True):
        for start, end in pairs:
            here = [body for body in persons if body.get(a) == start or body.get(b) == end]
            if len(here) == 2 and not here[0].keys() & here[1].keys():
                here[0].update(here[1])
                persons = [body for body in persons if body is not here[1]]
            elif here:
                here[0].setdefault(a, start)
                here[0].setdefault(b, end)
            else:
                persons.append({a: start, b: end})
    persons = [body for body in persons if len(body) >= 4]
    found_parts = np.full((len(persons), 18, 2), np.nan)
    for row, body in enumerate(persons):
        for part, candidate in body.items():
            found_parts[row, part] = candidate[:2]
    return found_parts


def ours(maps: torch.Tensor, fields: torch.Tensor, grouping: PartGrouping) -> np.ndarray:
    """Group with this package."""
    found = grouping(maps, fields, LIMBS)
    points = CODEC.to_pixels(found.cells)
    return torch.where(found.part_scores[..., None] > 0, points, torch.nan).numpy()


def main() -> int:
    """Measure both and print a table."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    good, grouping = True, PartGrouping()
    print(f"{SIZE[0]}x{SIZE[1]}, stride 8; milliseconds of one picture, and joints found in their place")
    print(f"{'people':>6} {'plain':>9} {'ours':>7} {'x':>6} {'plain':>7} {'ours':>7}")
    for people in (1, 5, 10, PEOPLE, 50):
        places = crowd(people)
        rows = torch.zeros(people, dtype=torch.int64)
        fields, maps = CODEC.encode(places, torch.full((people, 18), 2), rows, LIMBS, 1, SIZE)
        maps = maps[:, :-1].contiguous()
        times: dict[str, list[float]] = {"plain": [], "ours": []}
        for _ in range(3):
            start = time.process_time()
            expected = by_loops(maps[0].numpy(), fields[0].numpy())
            times["plain"].append(time.process_time() - start)
            for _ in range(5):
                start = time.process_time()
                found = ours(maps, fields, grouping)
                times["ours"].append(time.process_time() - start)
        plain, mine = (1000 * statistics.median(times[side]) for side in ("plain", "ours"))
        shares = in_place(expected, places), in_place(found, places)
        print(f"{people:6d} {plain:9.1f} {mine:7.2f} {plain / mine:6.1f} {shares[0]:7.3f} {shares[1]:7.3f}", flush=True)
        good = good and (people != PEOPLE or plain / mine >= BAR) and shares[1] >= shares[0]
    print(f"bar at {PEOPLE} people: {BAR:g} x, and no fewer joints: {'reached' if good else 'NOT reached'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
