"""Outlines of annotations, as one column of run lengths, and what of a picture no loss may count.

Outlines come in COCO's format (cocodataset.org/#format-data): polygons, or run lengths of a mask. They are kept as
compressed run lengths, one after the other in one array, because a list of lists would cost every worker its own copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.data.checks import number_list, pixel_problem

__all__ = ["Regions", "fill_boxes", "outline_problem"]

Mask = npt.NDArray[np.bool_]

_LEAST_NUMBERS = 6  # of a polygon: three corners


@dataclass(frozen=True)
class Regions:
    """The outlines of n annotations; those that have none have no run lengths.

    Attributes:
        counts: (bytes,) uint8, all run lengths, compressed as in COCO's files.
        starts: (n + 1,) int64, the run lengths of annotation i are ``counts[starts[i]:starts[i + 1]]``.
        sizes: (n, 2) int32, height and width of the masks that the run lengths are of.
    """

    counts: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int32]

    @staticmethod
    def encode(outlines: Sequence[Any], image_sizes: npt.NDArray[np.int32]) -> Regions:
        """Compress outlines in which ``outline_problem`` finds nothing wrong.

        Args:
            outlines: For each of n annotations its ``segmentation``, or None.
            image_sizes: (n, 2) width and height of the pictures; 0 where unknown.
        """
        encoded = [
            _encode(outline, height=int(size[1]), width=int(size[0])) if outline else ((0, 0), b"")
            for outline, size in zip(outlines, image_sizes, strict=True)
        ]
        lengths = np.array([0, *(len(counts) for _, counts in encoded)], dtype=np.int64)
        return Regions(
            counts=np.frombuffer(b"".join(counts for _, counts in encoded), dtype=np.uint8),
            starts=np.cumsum(lengths),
            sizes=np.array([size for size, _ in encoded], dtype=np.int32).reshape(-1, 2),
        )

    def __len__(self) -> int:
        """Return the number of annotations."""
        return len(self.sizes)

    def known(self, rows: npt.NDArray[np.int64]) -> Mask:
        """Tell which of some annotations have an outline, (m,)."""
        return np.asarray(self.starts[rows + 1] > self.starts[rows])

    def fill(self, rows: npt.NDArray[np.int64], mask: Mask) -> None:
        """Set a mask (H, W) to True inside the outlines of some annotations."""
        from pycocotools.mask import decode

        for row in rows[self.known(rows)].tolist():
            counts = self.counts[self.starts[row] : self.starts[row + 1]].tobytes()
            inside = decode({"size": self.sizes[row].tolist(), "counts": counts})
            height, width = min(len(mask), inside.shape[0]), min(mask.shape[1], inside.shape[1])
            mask[:height, :width] |= inside[:height, :width] > 0

    def select(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Regions:
        """Keep some annotations (a mask or rows)."""
        kept = np.arange(len(self))[rows]
        parts = [self.counts[self.starts[row] : self.starts[row + 1]] for row in kept]
        starts = np.cumsum(np.array([0, *map(len, parts)], dtype=np.int64))
        return Regions(np.concatenate([np.zeros(0, dtype=np.uint8), *parts]), starts, self.sizes[kept])


def fill_boxes(boxes: npt.NDArray[np.floating], mask: Mask) -> None:
    """Set a mask (H, W) to True where the centre of a pixel is in one of the boxes (n, 4), x0, y0, x1, y1."""
    edges = np.ceil(boxes.astype(np.float64) - 0.5).clip(0).astype(np.int64)
    for left, top, right, bottom in edges.tolist():
        mask[top:bottom, left:right] = True


def outline_problem(outline: Any, image_size: Sequence[int]) -> str | None:
    """Say why a ``segmentation`` cannot be used, None where it can or where there is none.

    Args:
        outline: Polygons [[x, y, x, y, ...], ...], or {size, counts} with a list or a string of run lengths.
        image_size: Width and height of the picture; 0 where unknown.
    """
    if not outline:
        return None
    if isinstance(outline, dict):
        return _run_length_problem(outline, image_size)
    if not isinstance(outline, list) or not all(isinstance(ring, list) for ring in outline):
        return f"segmentation is neither a list of polygons nor run lengths: {str(outline)[:60]}"
    for ring in outline:
        points = number_list(ring, len(ring))
        if points is None or len(points) % 2:
            return f"segmentation has a polygon that is no list of x, y, x, y, ...: {str(outline)[:60]}"
        if (reason := pixel_problem(points)) is not None:
            return f"segmentation: {reason}"
    return None


def _run_length_problem(outline: dict[str, Any], image_size: Sequence[int]) -> str | None:
    size, counts = outline.get("size"), outline.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        return f"segmentation has no size of height and width: {size!r}"
    if 0 not in tuple(image_size) and (size[1], size[0]) != tuple(map(int, image_size)):
        return (
            f"segmentation is of a picture of {size[1]} x {size[0]} pixels, but its picture has "
            f"{image_size[0]} x {image_size[1]}"
        )
    lengths = _run_lengths(counts) if isinstance(counts, str) else counts
    whole = isinstance(lengths, list) and {*map(type, lengths)} <= {int} and min(lengths, default=0) >= 0
    # pycocotools leaves the rest of a mask as the memory was where run lengths end too early.
    if not whole or sum(lengths or []) != size[0] * size[1]:
        return "segmentation has run lengths that do not fill its size"
    return None


def _run_lengths(text: str) -> list[int] | None:
    """Read compressed run lengths: numbers of 5 bits a character, the lowest first; from the third on differences.

    Source: pycocotools, common/maskApi.c (rleFrString).
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return None if shift else lengths


def _encode(outline: Any, height: int, width: int) -> tuple[tuple[int, int], bytes]:
    """Return the size of an outline's mask, height and width, and its compressed run lengths."""
    from pycocotools.mask import frPyObjects, merge

    if isinstance(outline, dict):
        size = (int(outline["size"][0]), int(outline["size"][1]))
        if isinstance(outline["counts"], str):
            return size, outline["counts"].encode()
        return size, bytes(frPyObjects(outline, *size)["counts"])
    rings = [[float(number) for number in ring] for ring in outline if len(ring) >= _LEAST_NUMBERS]
    if not rings:
        return (0, 0), b""
    if not (height and width):
        width, height = (int(np.ceil(max(max(ring[axis::2]) for ring in rings)).clip(1)) for axis in (0, 1))
    return (height, width), bytes(merge(frPyObjects(rings, height, width))["counts"])
