"""Measures how fast keypoints are read off the maps of regions, against torchvision's loop over regions.

    python tests/benchmarks/speed_regions.py

Both sides read the same maps of 17 keypoints, with clear peaks over a rolling ground. Exits with 1 where the places
differ or reading all maps at once is not faster.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from claims import print_table
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints

from lightning_pose_zoo.codecs.region_heatmap import enlarged_peaks

KEYPOINTS, CELLS, ROUNDS = 17, 56, 5


def regions(count: int, height: float) -> tuple[Tensor, Tensor]:
    """Return maps (count, K, S, S) and the boxes (count, 4) of persons about as high as that."""
    random = torch.Generator().manual_seed(0)
    grid = torch.arange(float(CELLS))
    places = CELLS * torch.rand(count, KEYPOINTS, 2, generator=random)
    columns, rows = ((grid - places[..., axis, None]) ** 2 for axis in (0, 1))
    peaks = 9 * torch.exp(-(columns[..., None, :] + rows[..., :, None]) / 8)
    ground = F.interpolate(torch.randn(count, KEYPOINTS, 9, 9, generator=random), size=CELLS, mode="bilinear")
    sides = torch.tensor([0.45, 1.0]) * height * (0.8 + 0.4 * torch.rand(count, 2, generator=random))
    low = 300 * torch.rand(count, 2, generator=random)
    return peaks + 0.5 * ground, torch.cat([low, low + sides], dim=1)


def fastest(function: Callable[[], object]) -> float:
    """Return the time of the fastest of some rounds, milliseconds of this process."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def main() -> int:
    """Measure, and print a table."""
    torch.set_num_threads(1)
    rows, holds = [], True
    for count, height in ((5, 200.0), (20, 400.0), (50, 200.0)):
        maps, boxes = regions(count, height)
        same = torch.equal(enlarged_peaks(maps, boxes)[0], heatmaps_to_keypoints(maps, boxes)[0][..., :2])
        loop, here = (fastest(partial(read, maps, boxes)) for read in (heatmaps_to_keypoints, enlarged_peaks))
        holds &= same and here < loop
        rows.append([str(count), f"{height:g}", f"{loop:.1f}", f"{here:.1f}", f"{loop / here:.1f}", str(same)])
    print_table(["persons", "pixels high", "loop, ms", "here, ms", "times", "same places"], rows)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
