"""Pictures with a coloured dot on each keypoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]


def draw_dots(path: Path, keypoints: np.ndarray, size: tuple[int, int]) -> None:
    """Save a black picture (width, height) with a square of 5 pixels of its own colour around each keypoint."""
    picture = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for (x, y), color in zip(keypoints.astype(int), COLORS, strict=False):
        picture[y - 2 : y + 3, x - 2 : x + 3] = color
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
