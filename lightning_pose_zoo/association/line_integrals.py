"""How well the field of a limb goes from one candidate to another: the line integrals of part affinity fields.

Z. Cao, T. Simon, S.-E. Wei, Y. Sheikh, "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields", CVPR
2017, arXiv 1611.08050. All limbs' pairs of all pictures are measured in one gather.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_pose_zoo.association.candidates import Candidates

__all__ = ["Pairs", "limb_scores", "line_integrals"]

_SAMPLES = 10
_ORDER = (5, 3, 7, 4, 6, 2, 8, 1, 9, 0)  # the order in which samples are taken
_AGREEING = 0.8  # share of the samples
_ALONG = 0.05  # a sample agrees where the field goes along the limb by more than this
_NEAR = 0.4  # cells
_LONG = 0.5  # of the maps' height; the ten places of a longer line may by chance all meet limbs of other people


class Pairs(NamedTuple):
    """Pairs of candidates that a limb may join.

    Attributes:
        limbs: (Q,) int64.
        first: (Q,) int64, row of the candidates.
        second: (Q,) int64.
        scores: (Q,) float32, line integral and candidates' scores, above 0.
    """

    limbs: Tensor
    first: Tensor
    second: Tensor
    scores: Tensor


def line_integrals(
    fields: Tensor,
    candidates: Candidates,
    limbs: Sequence[tuple[int, int]],
    parts: int,
    field_shift: float = 0.0,
    agreeing: float = _AGREEING,
) -> Pairs:
    """Measure for every pair of candidates how well the field of their limb goes from one to the other.

    The field is read at ten places along the line, between the cells, and multiplied with the line's direction. A pair
    counts where the share ``agreeing`` of them is above 0.05; its score is the mean of all ten. A line longer than half
    of the maps' height loses the share of its length by which it is longer, as in the first released code. Two samples
    are taken first, and pairs that cannot reach that share any more are left out.

    Args:
        fields: (B, 2 C, h, w).
        candidates: Of the B pictures.
        limbs: Pairs of parts.
        parts: J.
        field_shift: Cells that fields lie further right and down than maps.
        agreeing: Share of the samples that must agree.
    """
    limb, first, second = _all_pairs(candidates, limbs, parts, len(fields))
    lines = _Lines(candidates.cells[first] + field_shift, candidates.cells[second] + field_shift)
    maps, vectors = candidates.rows[first] * len(limbs) + limb, _Vectors.of(fields)
    allowed = round(_SAMPLES * (1 - agreeing))
    # Most pairs are of different persons: none of the first samples agrees, and that is more than are allowed to fail.
    first_ones, others = _ORDER[: allowed + 1], _ORDER[allowed + 1 :]
    early = _along(vectors, maps, lines, first_ones)
    left = (lines.near | (early > _ALONG).any(dim=1)).nonzero()[:, 0]
    lines = _Lines(lines.start[left], lines.end[left])
    values = torch.cat([early[left], _along(vectors, maps[left], lines, others)], dim=1)
    limb, first, second = limb[left], first[left], second[left]
    heights = (candidates.scores[first] * candidates.scores[second]).sqrt()
    score = _pair_scores(values, lines, vectors.height, allowed) * heights
    kept = score > 0
    return Pairs(limb[kept], first[kept], second[kept], score[kept])


def limb_scores(
    fields: Tensor, cells: Tensor, scores: Tensor, limbs: Sequence[tuple[int, int]], field_shift: float = 0.0
) -> Tensor:
    """Measure what ``line_integrals`` measures, of candidates in tensors of fixed shapes.

    Args:
        fields: (B, 2 C, h, w).
        cells: (B, J, M, 2), of ``candidates.top_candidates``.
        scores: (B, J, M), 0 where there is no candidate.
        limbs: The C limbs, pairs of parts.
        field_shift: Cells that fields lie further right and down than maps.

    Returns:
        (B, C, M, M) scores of each limb's first and second candidate, 0 where they do not belong together.
    """
    starts, ends = [limb[0] for limb in limbs], [limb[1] for limb in limbs]
    most = int(cells.shape[2])
    shape = (-1, len(limbs), most, most)
    start = cells[:, starts][:, :, :, None].expand(*shape, 2).flatten(0, 3) + field_shift
    end = cells[:, ends][:, :, None].expand(*shape, 2).flatten(0, 3) + field_shift
    first = scores[:, starts][:, :, :, None].expand(shape).flatten()
    second = scores[:, ends][:, :, None].expand(shape).flatten()
    maps = torch.arange(fields.shape[0] * len(limbs), device=fields.device).repeat_interleave(most * most)
    lines = _Lines(start, end)
    vectors = _Vectors.of(fields)
    values = _along(vectors, maps, lines, range(_SAMPLES))
    found: Tensor = _pair_scores(values, lines, vectors.height, round(_SAMPLES * (1 - _AGREEING)))
    return (found * (first * second).sqrt()).view(shape)


class _Lines(NamedTuple):
    """Lines between candidates, (q, 2) cells of the fields each."""

    start: Tensor
    end: Tensor

    @property
    def length(self) -> Tensor:
        """Their lengths, (q,)."""
        length: Tensor = (self.end - self.start).norm(dim=-1)
        return length

    @property
    def near(self) -> Tensor:
        """Whether the ends lie in one place, (q,)."""
        near: Tensor = self.length < _NEAR
        return near


class _Vectors(NamedTuple):
    """Fields as rows: the vectors (B * C * h * w, 2) of all limbs of all pictures in turn."""

    rows: Tensor
    height: int
    width: int

    @classmethod
    def of(cls, fields: Tensor) -> _Vectors:
        """Bring fields (B, 2 C, h, w) into rows."""
        rows = fields.float().unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2).reshape(-1, 2)
        return cls(rows, int(fields.shape[-2]), int(fields.shape[-1]))


def _along(vectors: _Vectors, maps: Tensor, lines: _Lines, which: Sequence[int]) -> Tensor:
    """Return how far fields go along lines at some of the ten places.

    Args:
        vectors: The fields.
        maps: (q,) int64, the limb of each line, of all pictures' limbs in turn.
        lines: The q lines.
        which: S of the places.

    Returns:
        (q, S).
    """
    difference = lines.end - lines.start
    length = lines.length[:, None]
    way = torch.where(length > 1e-3, difference / length.clamp(min=1e-3), 0.0)
    steps = torch.linspace(0, 1, _SAMPLES, device=vectors.rows.device)[list(which), None]
    places = lines.start[:, None] + difference[:, None] * steps
    read = _between_cells(vectors, maps[:, None] * (vectors.height * vectors.width), places)
    return (read * way[:, None]).sum(dim=-1)


def _pair_scores(values: Tensor, lines: _Lines, height: int, allowed: int) -> Tensor:
    """Return the scores (q,) of lines, 0 where their ends do not belong together.

    Args:
        values: (q, 10), how far the field goes along each line.
        lines: The q lines.
        height: Of the maps, in cells.
        allowed: So many values may disagree.
    """
    length = lines.length
    score = values.mean(dim=1) + (_LONG * height / length.clamp(min=_NEAR) - 1).clamp(max=0)
    good = ((values > _ALONG).sum(dim=1) >= _SAMPLES - allowed) & (score > 0)
    return torch.where(length < _NEAR, score.clamp(min=_ALONG), torch.where(good, score, 0.0))


def _all_pairs(
    candidates: Candidates, limbs: Sequence[tuple[int, int]], parts: int, pictures: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return limb, first and second candidate of all pairs, of all limbs in all pictures."""
    device = candidates.rows.device
    group = candidates.rows * parts + candidates.parts
    counts = torch.bincount(group, minlength=pictures * parts)
    begins = counts.cumsum(0) - counts
    ends = torch.tensor(limbs, device=device).reshape(-1, 2)
    running = torch.arange(pictures, device=device)[:, None] * parts
    first_group, second_group = (running + ends[:, 0]).flatten(), (running + ends[:, 1]).flatten()
    sizes = counts[first_group] * counts[second_group]
    limb_of_group = torch.arange(len(limbs), device=device).repeat(pictures)
    which = torch.repeat_interleave(torch.arange(len(sizes), device=device), sizes)
    inner = torch.arange(len(which), device=device) - (sizes.cumsum(0) - sizes)[which]
    wide = counts[second_group][which].clamp(min=1)
    quotient = torch.div(inner, wide, rounding_mode="floor")
    first = begins[first_group][which] + quotient
    second = begins[second_group][which] + inner - quotient * wide
    return limb_of_group[which], first, second


def _between_cells(vectors: _Vectors, base: Tensor, places: Tensor) -> Tensor:
    """Read fields, from the rows ``base`` (q, 1) on, at places (q, S, 2) between the cells, clamped to the map."""
    height, width = vectors.height, vectors.width
    x = places[..., 0].clamp(0, width - 1)
    y = places[..., 1].clamp(0, height - 1)
    column, line = x.long(), y.long()
    right_share, lower_share = (x - column)[..., None], (y - line)[..., None]
    corner = base + line * width + column
    # The last column and row have nothing behind them, and a share of 0 there.
    right, lower = (column + 1 < width).long(), (line + 1 < height).long() * width

    def read(cells: Tensor) -> Tensor:
        return vectors.rows.index_select(0, cells.flatten()).view(*cells.shape, 2)

    upper = torch.lerp(read(corner), read(corner + right), right_share)
    corner = corner + lower
    below = torch.lerp(read(corner), read(corner + right), right_share)
    return torch.lerp(upper, below, lower_share)
