"""Keypoints in regions: each is one cell of a map that is stretched over the region, as in Mask R-CNN."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["RegionHeatmapCodec", "RegionTargets", "enlarged_peaks"]

_CUBIC = -0.75  # of torch's bicubic interpolation
_OVERSHOOT = 0.1875  # the most that the outer two of its four weights sum up to, below 0
_REACH = 3  # cells to either side of the highest one in which the peak is looked for first
_NEAR = 2  # cells; what counts as the same place


class RegionTargets(NamedTuple):
    """What a network is trained on.

    Attributes:
        cells: (N, K) int64, row * S + column of the cell that a keypoint lies in.
        counted: (N, K) bool, labelled keypoints inside of their region.
    """

    cells: Tensor
    counted: Tensor


class RegionHeatmapCodec(nn.Module):
    """Cells of maps over regions.

    Reading follows torchvision: the map is enlarged to the region's size in pixels by bicubic interpolation, and the
    highest pixel's middle is the keypoint.

    Args:
        scores: What a keypoint's score is. ``probability``: by the softmax over all cells, that it lies within two
            cells of the place that is given, 0 to 1. ``logit``: the height of the enlarged map, torchvision's to the
            last bit; no probability, of any sign, and slower, because all maps are enlarged one by one.

    Raises:
        ValueError: Where there are no such scores.
    """

    def __init__(self, scores: Literal["probability", "logit"] = "probability") -> None:
        super().__init__()
        if scores not in ("probability", "logit"):
            raise ValueError(f"scores is '{scores}'; there are 'probability' and 'logit'.")
        self.scores = scores

    def extra_repr(self) -> str:
        """Say how scores are read; nothing of it is a property of the weights."""
        return ""

    def encode(self, keypoints: Tensor, visibility: Tensor, boxes: Tensor, size: int) -> RegionTargets:
        """Find the cells of keypoints.

        Args:
            keypoints: (N, K, 2), pixels.
            visibility: (N, K); keypoints of 0 are not counted.
            boxes: (N, 4), the region of each person, x0, y0, x1, y1 in pixels.
            size: S, cells of a map's side.
        """
        low, high = boxes[:, None, :2], boxes[:, None, 2:]
        places = ((keypoints - low) * (size / (high - low))).floor().long()
        places = torch.where(keypoints == high, size - 1, places)
        inside = ((places >= 0) & (places < size)).all(dim=-1)
        counted = inside & (visibility > 0)
        cells = places[..., 1] * size + places[..., 0]
        return RegionTargets(torch.where(counted, cells, 0), counted)

    def decode(self, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Find the keypoints of maps.

        Args:
            logits: (P, K, S, S).
            boxes: (P, 4), the region of each map, pixels.

        Returns:
            (P, K, 2) in pixels, (P, K) scores.
        """
        logits, boxes = logits.float(), boxes.float()
        if self.scores == "logit":
            return enlarged_peaks(logits, boxes, search=False)
        keypoints, _ = enlarged_peaks(logits, boxes)
        return keypoints, _probability(logits, boxes, keypoints)


def _probability(logits: Tensor, boxes: Tensor, keypoints: Tensor) -> Tensor:
    """Return how much of the softmax lies around keypoints, (P, K)."""
    size = logits.shape[-1]
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    places = ((keypoints - low) * (size / (high - low).clamp(min=1))).floor().long().clamp(0, size - 1)
    shares = logits.flatten(2).softmax(dim=-1).view(logits.shape)
    shares = F.pad(shares, (_NEAR,) * 4)
    steps = torch.arange(2 * _NEAR + 1, device=logits.device)
    return _patches(shares, places[..., None] + steps).sum(dim=(-2, -1)).clamp(max=1)


def _patches(maps: Tensor, places: Tensor) -> Tensor:
    """Cut squares out of maps (P, K, H, W) by the columns and rows (P, K, 2, n) of their cells; (P, K, n, n)."""
    count, keypoints = maps.shape[:2]
    person = torch.arange(count, device=maps.device)[:, None, None, None]
    keypoint = torch.arange(keypoints, device=maps.device)[None, :, None, None]
    return maps[person, keypoint, places[:, :, 1, :, None], places[:, :, 0, None, :]]


def enlarged_peaks(maps: Tensor, boxes: Tensor, search: bool = True) -> tuple[Tensor, Tensor]:
    """Find the highest pixels of maps that are enlarged to the size of regions.

    All maps are searched at once around their highest cells. Where it is not certain that no other place gets higher by
    interpolation, the whole map is enlarged: the result always is that of enlarging all of them.

    Args:
        maps: (P, K, S, S) float32.
        boxes: (P, 4) float32, the region of each map, pixels.
        search: Search around the highest cells first; else enlarge all maps.

    Returns:
        The middles of the highest pixels (P, K, 2), pixels; their heights (P, K).
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    pixels = sides.ceil()
    if not maps.numel():
        return maps.new_zeros(*maps.shape[:2], 2), maps.new_zeros(maps.shape[:2])
    found, heights = _near_highest_cells(maps, pixels)
    certain = _most_elsewhere(maps) < (heights if search else -torch.inf)
    for row in (~certain).any(dim=1).nonzero().flatten().tolist():
        unsure = (~certain[row]).nonzero().flatten()
        width, height = (int(side) for side in pixels[row].tolist())
        enlarged = F.interpolate(maps[row, unsure][:, None], (height, width), mode="bicubic", align_corners=False)
        highest, place = enlarged.flatten(1).max(dim=1)
        found[row, unsure] = torch.stack([place % width, place // width], dim=-1).to(found.dtype)
        heights[row, unsure] = highest
    return (found + 0.5) * (sides / pixels)[:, None] + boxes[:, None, :2], heights


def _highest_cells(maps: Tensor) -> Tensor:
    """Return column and row of each map's highest cell, (P, K, 2) int64."""
    size = maps.shape[-1]
    highest = maps.flatten(2).argmax(dim=-1)
    return torch.stack([highest % size, highest // size], dim=-1)


def _near_highest_cells(maps: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Search enlarged maps within three cells of their highest ones.

    Args:
        maps: (P, K, S, S).
        pixels: (P, 2) whole numbers, width and height that each person's maps are enlarged to.

    Returns:
        Column and row of the highest pixel (P, K, 2) as floats, and its height (P, K).
    """
    size = maps.shape[-1]
    cells = _highest_cells(maps)
    steps = torch.arange(-_REACH - 1, _REACH + 2, device=maps.device)
    patches = _patches(maps, (cells[..., None] + steps).clamp(0, size - 1))
    zoom = (pixels / size)[:, None]
    first = ((cells - _REACH + 0.5) * zoom - 0.5).ceil().clamp(min=0)
    count = int((2 * _REACH * zoom).ceil().max()) + 1
    columns = first[..., None] + torch.arange(count, device=maps.device)  # (P, K, 2, n)
    sources = (columns + 0.5) / zoom[..., None] - 0.5
    there = (columns < pixels[:, None, :, None]) & (sources < (cells + _REACH)[..., None])
    weights = _cubic(sources[..., None] - (cells[..., None, None] + steps))  # (P, K, 2, n, 7)
    with torch.autocast(maps.device.type, enabled=False):
        enlarged = weights[:, :, 1] @ patches @ weights[:, :, 0].transpose(-1, -2)
    enlarged = torch.where(there[:, :, 1, :, None] & there[:, :, 0, None, :], enlarged, -torch.inf)
    heights, place = enlarged.flatten(2).max(dim=-1)
    return first + torch.stack([place % count, place // count], dim=-1), heights


def _cubic(distance: Tensor) -> Tensor:
    """Return the weights of bicubic interpolation by the distance from a cell."""
    distance = distance.abs()
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = _CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))


def _most_elsewhere(maps: Tensor) -> Tensor:
    """Return what enlarged maps cannot exceed farther than three cells from their highest cells, (P, K).

    Between two cells the interpolation is a weighted mean of the inner two of four cells, less at most ``_OVERSHOOT``
    of the outer two, the weights summing up to 1; once along the rows, and of what comes out along the columns.
    """
    cells = _highest_cells(maps)
    padded = F.pad(maps, (2, 2, 2, 2), mode="replicate")
    most, least = _limits(padded, padded, -1)
    most, _ = _limits(most, least, -2)  # (P, K, S + 1, S + 1): between cells -1 and 0, 0 and 1, ...
    between = torch.arange(-1, maps.shape[-1], device=maps.device)
    near = (between >= cells[..., None] - _REACH) & (between < cells[..., None] + _REACH)  # (P, K, 2, S + 1)
    return most.masked_fill(near[:, :, 1, :, None] & near[:, :, 0, None, :], -torch.inf).amax(dim=(-2, -1))


def _limits(upper: Tensor, lower: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return upper and lower limits of the interpolation of values between limits, between each two along an axis."""
    count = upper.shape[axis] - 3

    def taps(values: Tensor) -> list[Tensor]:
        return [values.narrow(axis, start, count) for start in range(4)]

    (up0, up1, up2, up3), (low0, low1, low2, low3) = taps(upper), taps(lower)
    most, least = torch.maximum(up1, up2), torch.minimum(low1, low2)
    over = (most - torch.minimum(low0, low3)).clamp(min=0)
    under = (torch.maximum(up0, up3) - least).clamp(min=0)
    return most + _OVERSHOOT * over, least - _OVERSHOOT * under
