"""Candidates: where the parts of a body may be, read off confidence maps in which several persons are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Candidates", "find_candidates", "top_candidates"]

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
    lowest, lowest_hidden = _lowest(maps, threshold, hidden)
    found = _peaks(maps, maps, lowest, sigma)
    if hidden <= 1:
        planes = found.rows * maps.shape[1] + found.parts
        rest = maps - _explained(planes, found.cells, found.scores, maps, sigma)
        second = _peaks(rest, maps, lowest_hidden, sigma)
        found = Candidates(*(torch.cat(pair) for pair in zip(found, second, strict=True)))
    parts = maps.shape[1]
    order = torch.argsort(found.scores, descending=True, stable=True)
    order = order[torch.argsort((found.rows * parts + found.parts)[order], stable=True)]
    group = (found.rows * parts + found.parts)[order]
    place = torch.arange(len(order), device=order.device) - torch.searchsorted(group, group)
    return Candidates(*(column[order[place < most]] for column in found))


def top_candidates(
    heatmaps: Tensor, threshold: float = 0.1, sigma: float = 0.875, hidden: float = 0.3, most: int = 32
) -> tuple[Tensor, Tensor]:
    """Find what ``find_candidates`` finds, in tensors whose shapes do not depend on how much that is.

    Args:
        heatmaps: (B, J, h, w), without the background.
        threshold: As there.
        sigma: As there.
        hidden: As there.
        most: M, candidates of one part in one picture.

    Returns:
        Cells (B, J, M, 2) and scores (B, J, M), the highest first; 0 where there are no more. Where there are more than
        M, of the peaks and of the hidden ones M each are looked at.
    """
    maps = heatmaps.float()
    most = min(most, int(maps.shape[-1] * maps.shape[-2]))
    lowest, lowest_hidden = _lowest(maps, threshold, hidden)
    cells, scores = _top_peaks(maps, maps, lowest, sigma, most)
    if hidden <= 1:
        planes = torch.arange(maps.shape[0] * maps.shape[1], device=maps.device).repeat_interleave(most)
        rest = maps - _explained(planes, cells.flatten(0, 2), scores.flatten(), maps, sigma)
        more, heights = _top_peaks(rest, maps, lowest_hidden, sigma, most)
        scores, order = torch.cat([scores, heights], dim=2).topk(most, dim=2)
        cells = torch.cat([cells, more], dim=2).gather(2, order[..., None].expand(-1, -1, -1, 2))
    else:
        scores, order = scores.topk(most, dim=2)
        cells = cells.gather(2, order[..., None].expand(-1, -1, -1, 2))
    return cells, scores


def _lowest(maps: Tensor, threshold: float, hidden: float) -> tuple[Tensor, Tensor]:
    """Return how high peaks and hidden peaks must be in each picture, (B,) each."""
    noise = _cell_noise(maps)
    return (_ABOVE_NOISE * noise).clamp(min=threshold), (_HIDDEN_ABOVE_NOISE * noise).clamp(min=max(threshold, hidden))


def _cell_noise(maps: Tensor) -> Tensor:
    """Estimate the deviation of white noise in each picture's maps, (B,).

    Second differences along a row see what changes from cell to cell, and not what is smooth as the maps of a trained
    network are; their median does not see the peaks.
    """
    some = maps[:, :, ::8]
    bend = (some[..., :-2] - 2 * some[..., 1:-1] + some[..., 2:]).abs().flatten(1)
    if maps.shape[-1] < 3:
        return maps.new_zeros(maps.shape[0])
    # The median of a Gaussian's size is 0.6745 deviations, and those of the difference have 1 + 4 + 1 variances.
    return _middle_value(bend) / (0.6745 * 6**0.5)


def _middle_value(values: Tensor) -> Tensor:
    """Return the median of each row (B, n), by what every exporter knows where a graph is made."""
    if torch.compiler.is_compiling():
        return values.topk(values.shape[1] // 2 + 1, dim=1).values[:, -1]
    return values.median(dim=1).values


def _peaks(maps: Tensor, values: Tensor, lowest: Tensor, sigma: float) -> Candidates:
    """Return the peaks of maps above the lowest height of each picture (B,), with the heights of other maps there."""
    height, width = maps.shape[-2:]
    # Only cells above the threshold are compared with their neighbours: few are.
    flat = (maps > lowest[:, None, None, None]).flatten().nonzero()[:, 0]
    x, y = flat % width, flat.div(width, rounding_mode="floor") % height
    padded = F.pad(maps, (1, 1, 1, 1), value=-torch.inf).flatten()
    plane = flat.div(height * width, rounding_mode="floor")
    nine = padded[_nine(plane * (height + 2) * (width + 2), x, y, width)]
    # Of equal neighbours the first one is the peak.
    is_peak = (nine[4] > nine[:4].amax(dim=0)) & (nine[4] >= nine[5:].amax(dim=0))
    flat, plane, x, y, nine = flat[is_peak], plane[is_peak], x[is_peak], y[is_peak], nine[:, is_peak]
    cells, heights = _refined(nine, values.flatten()[flat], x, y, (height, width), sigma)
    rows, parts = plane.div(maps.shape[1], rounding_mode="floor"), plane % maps.shape[1]
    return Candidates(rows, parts, cells, heights)


def _top_peaks(maps: Tensor, values: Tensor, lowest: Tensor, sigma: float, most: int) -> tuple[Tensor, Tensor]:
    """Return cells (B, J, M, 2) and heights (B, J, M) of the highest peaks, 0 where there are no more."""
    height, width = (int(side) for side in maps.shape[-2:])
    padded = F.pad(maps, (1, 1, 1, 1), value=-torch.inf)
    shifted = [padded[..., dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
    before, after = torch.stack(shifted[:4]).amax(dim=0), torch.stack(shifted[5:]).amax(dim=0)
    is_peak = (maps > before) & (maps >= after) & (maps > lowest[:, None, None, None])
    top, flat = torch.where(is_peak, maps, -1.0).flatten(2).topk(most, dim=2)
    x, y = flat % width, flat.div(width, rounding_mode="floor")
    around = _nine(torch.zeros_like(x), x, y, width).permute(1, 2, 0, 3).flatten(2)
    nine = padded.flatten(2).gather(2, around).unflatten(2, (9, most)).permute(2, 0, 1, 3)
    cells, heights = _refined(nine, values.flatten(2).gather(2, flat), x, y, (height, width), sigma)
    found = top > 0
    return torch.where(found[..., None], cells, 0.0), torch.where(found, heights, 0.0)


def _nine(begin: Tensor, x: Tensor, y: Tensor, width: int) -> Tensor:
    """Return where cells and their neighbours stand, (9, ...), in maps with a border of one cell."""
    line = width + 2
    around = x.new_tensor([dy * line + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    return (begin + (y + 1) * line + x + 1) + around.view(-1, *[1] * x.ndim)


def _refined(
    nine: Tensor, values: Tensor, x: Tensor, y: Tensor, size: tuple[int, int], sigma: float
) -> tuple[Tensor, Tensor]:
    """Place peaks between the cells.

    Args:
        nine: (9, ...), a peak and its neighbours, row by row; beyond the border anything.
        values: (...), what the maps have there whose heights are asked for.
        x: (...), column of the peak.
        y: (...), line.
        size: Height and width of the maps.
        sigma: Of the codec, in cells.

    Returns:
        Cells (..., 2), and the heights there (...).
    """
    above, left, at, right, below = (nine[place].clamp(min=_FLOOR).log() for place in (1, 3, 4, 5, 7))
    # Beyond the border a map goes on as a Gaussian does, whose second difference is known; its top may lie there.
    bend = 2 * at - 1 / sigma**2
    left, right = torch.where(x > 0, left, bend - right), torch.where(x < size[1] - 1, right, bend - left)
    above, below = torch.where(y > 0, above, bend - below), torch.where(y < size[0] - 1, below, bend - above)
    across, along = _top(left, at, right), _top(above, at, below)
    # The highest cell is not the top: between four cells it has three quarters of its height.
    higher = torch.exp((across**2 + along**2) / (2 * sigma**2))
    heights = torch.minimum(values * higher, values.clamp(min=1))
    return torch.stack([x + across, y + along], dim=-1), heights


def _top(before: Tensor, at: Tensor, after: Tensor) -> Tensor:
    """Return how far the top of the parabola through three values lies from the middle one."""
    curvature = (2 * at - before - after).clamp(min=1e-6)
    return (0.5 * (after - before) / curvature).clamp(-1, 1)


def _explained(planes: Tensor, cells: Tensor, scores: Tensor, maps: Tensor, sigma: float) -> Tensor:
    """Draw the Gaussians of peaks, the highest in each cell.

    Args:
        planes: (n,) int64, the map of each peak, of all pictures' in turn.
        cells: (n, 2).
        scores: (n,).
        maps: (B, J, h, w), whose shape the result has.
        sigma: In cells.
    """
    height, width = maps.shape[-2:]
    around = torch.arange(-_REACH, _REACH + 1, device=maps.device)
    middle = cells.round().long()
    x, y = middle[:, 0, None] + around, middle[:, 1, None] + around
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    distance = (y - cells[:, 1, None])[:, :, None] ** 2 + (x - cells[:, 0, None])[:, None, :] ** 2
    values = torch.where(inside, scores[:, None, None] * torch.exp(-distance / (2 * sigma**2)), 0.0)
    index = planes[:, None, None] * (height * width)
    index = index + y.clamp(0, height - 1)[:, :, None] * width + x.clamp(0, width - 1)[:, None, :]
    drawn = torch.zeros_like(maps).flatten()
    return drawn.scatter_reduce_(0, index.flatten(), values.flatten(), "amax").view_as(maps)
