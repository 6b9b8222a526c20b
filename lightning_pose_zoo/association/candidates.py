"""Candidates: where the parts of a body may be, read off confidence maps in which several persons are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Candidates", "find_candidates"]

_REACH = 3  # cells around a peak in which it explains the map
_FLOOR = 1e-4  # values below count as this much, so that they have a logarithm
# So many deviations of the noise are exceeded by few cells of all, and by fewer where peaks were taken off.
_ABOVE_NOISE, _HIDDEN_ABOVE_NOISE = 3.0, 4.0


class Candidates(NamedTuple):
    """M places where parts may be, ordered by picture, then by part, the highest first.

    Attributes:
        rows: (M,) int64, the picture.
        parts: (M,) int64, the part.
        cells: (M, 2) float32, x and y in cells of the maps.
        scores: (M,) float32, the height of the Gaussian there.
    """

    rows: Tensor
    parts: Tensor
    cells: Tensor
    scores: Tensor


def find_candidates(
    heatmaps: Tensor, threshold: float = 0.1, sigma: float = 0.875, hidden: float = 0.3, most: int = 128
) -> Candidates:
    """Find the peaks of confidence maps, and those that a higher one nearby hides.

    A peak is a cell above ``threshold`` that none of its eight neighbours exceeds; its place between the cells is the
    top of the Gaussian through it and its neighbours. Two joints of one kind that fall into neighbouring cells make one
    peak with a shoulder. Therefore what the peaks explain, a Gaussian of ``sigma`` each, is taken off, and what is left
    is searched a second time. Where a picture's maps are noisy from cell to cell, a peak must be three times, and a
    hidden one four times as high as the noise's deviation.

    Args:
        heatmaps: (B, J, h, w), without the background.
        threshold: Lowest height of a peak.
        sigma: Of the codec, in cells.
        hidden: Lowest height of what is left beside a peak for a second one; above 1 none is looked for.
        most: Candidates of one part in one picture at most, the highest; noise has thousands of peaks.

    Returns:
        The candidates of all pictures.
    """
    maps = heatmaps.float()
    noise = _cell_noise(maps)
    lowest = (_ABOVE_NOISE * noise).clamp(min=threshold)
    found = _peaks(maps, maps, lowest, sigma)
    if hidden <= 1:
        rest = maps - _explained(found, maps, sigma)
        second = _peaks(rest, maps, (_HIDDEN_ABOVE_NOISE * noise).clamp(min=max(threshold, hidden)), sigma)
        found = Candidates(*(torch.cat(pair) for pair in zip(found, second, strict=True)))
    parts = maps.shape[1]
    order = torch.argsort(found.scores, descending=True, stable=True)
    order = order[torch.argsort((found.rows * parts + found.parts)[order], stable=True)]
    group = (found.rows * parts + found.parts)[order]
    place = torch.arange(len(order), device=order.device) - torch.searchsorted(group, group)
    return Candidates(*(column[order[place < most]] for column in found))


def _cell_noise(maps: Tensor) -> Tensor:
    """Estimate the deviation of white noise in each picture's maps, (B,).

    Second differences along a row see what changes from cell to cell, and not what is smooth as the maps of a trained
    network are; their median does not see the peaks.
    """
    some = maps[:, :, ::4]
    bend = (some[..., :-2] - 2 * some[..., 1:-1] + some[..., 2:]).abs().flatten(1)
    if not bend.shape[1]:
        return maps.new_zeros(len(maps))
    # The median of a Gaussian's size is 0.6745 deviations, and those of the difference have 1 + 4 + 1 variances.
    return bend.median(dim=1).values / (0.6745 * 6**0.5)


def _peaks(maps: Tensor, values: Tensor, lowest: Tensor, sigma: float) -> Candidates:
    """Return the peaks of maps above the lowest height of each picture (B,), with the heights of other maps there."""
    height, width = maps.shape[-2:]
    # Only cells above the threshold are compared with their neighbours: few are.
    flat = (maps > lowest[:, None, None, None]).flatten().nonzero()[:, 0]
    x, y = flat % width, flat.div(width, rounding_mode="floor") % height
    padded = F.pad(maps, (1, 1, 1, 1), value=-torch.inf).flatten()
    line = width + 2
    place = flat.div(height * width, rounding_mode="floor") * (line * (height + 2)) + (y + 1) * line + x + 1
    around = place.new_tensor([dy * line + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    nine = padded[place + around[:, None]]
    # Of equal neighbours the first one is the peak.
    is_peak = (nine[4] > nine[:4].amax(dim=0)) & (nine[4] >= nine[5:].amax(dim=0))
    flat, x, y, nine = flat[is_peak], x[is_peak], y[is_peak], nine[:, is_peak]
    above, left, at, right, below = nine[[1, 3, 4, 5, 7]].clamp(min=_FLOOR).log()
    # Beyond the border a map goes on as a Gaussian does, whose second difference is known; its top may lie there.
    bend = 2 * at - 1 / sigma**2
    left, right = torch.where(x > 0, left, bend - right), torch.where(x < width - 1, right, bend - left)
    above, below = torch.where(y > 0, above, bend - below), torch.where(y < height - 1, below, bend - above)
    across, along = _top(left, at, right), _top(above, at, below)
    # The highest cell is not the top: between four cells it has three quarters of its height.
    higher = torch.exp((across**2 + along**2) / (2 * sigma**2))
    height_there = values.flatten()[flat]
    heights = torch.minimum(height_there * higher, height_there.clamp(min=1))
    plane = flat.div(height * width, rounding_mode="floor")
    rows, parts = plane.div(maps.shape[1], rounding_mode="floor"), plane % maps.shape[1]
    return Candidates(rows, parts, torch.stack([x + across, y + along], dim=-1), heights)


def _top(before: Tensor, at: Tensor, after: Tensor) -> Tensor:
    """Return how far the top of the parabola through three values lies from the middle one."""
    curvature = (2 * at - before - after).clamp(min=1e-6)
    return (0.5 * (after - before) / curvature).clamp(-1, 1)


def _explained(peaks: Candidates, maps: Tensor, sigma: float) -> Tensor:
    """Draw the Gaussians of peaks, the highest in each cell."""
    height, width = maps.shape[-2:]
    around = torch.arange(-_REACH, _REACH + 1, device=maps.device)
    middle = peaks.cells.round().long()
    x, y = middle[:, 0, None] + around, middle[:, 1, None] + around
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    distance = (y - peaks.cells[:, 1, None])[:, :, None] ** 2 + (x - peaks.cells[:, 0, None])[:, None, :] ** 2
    values = peaks.scores[:, None, None] * torch.exp(-distance / (2 * sigma**2))
    index = (peaks.rows * maps.shape[1] + peaks.parts)[:, None, None] * (height * width)
    index = index + y[:, :, None] * width + x[:, None, :]
    drawn = torch.zeros_like(maps).flatten()
    return drawn.scatter_reduce_(0, index[inside], values[inside], "amax").view_as(maps)
