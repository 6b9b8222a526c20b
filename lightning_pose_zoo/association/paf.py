"""Persons out of confidence maps and part affinity fields, at the maps' own resolution.

Z. Cao, T. Simon, S.-E. Wei, Y. Sheikh, "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields", CVPR
2017, arXiv 1611.08050, and "OpenPose", TPAMI 2019, arXiv 1812.08008. Candidates of two parts belong together where the
field of their limb points from one to the other all along the line between them. All limbs' pairs of all pictures are
measured in one gather; each limb's pairs are matched; what is matched is put together, the surest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lightning_pose_zoo.association.candidates import Candidates, find_candidates
from lightning_pose_zoo.association.line_integrals import Pairs, line_integrals
from lightning_pose_zoo.errors import PoseZooError

__all__ = ["GroupedParts", "Matching", "PartGrouping", "match_pairs"]

Matching = Literal["greedy", "optimal"]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class GroupedParts(NamedTuple):
    """P persons of J parts, ordered by picture, the best first.

    Attributes:
        cells: (P, J, 2) float32, x and y in cells of the maps; 0 where a part was not found.
        part_scores: (P, J) float32, height of the Gaussian in the map; 0 where a part was not found.
        scores: (P,) float32, see ``PartGrouping.forward``.
        rows: (P,) int64, the picture of each person.
    """

    cells: Tensor
    part_scores: Tensor
    scores: Tensor
    rows: Tensor


class PartGrouping(nn.Module):
    """Finds the persons of a batch of pictures.

    None of these settings says what a network was trained on, so a checkpoint does not hold on to them.

    Args:
        threshold: Lowest height of a peak in the confidence maps.
        hidden: Lowest height of what is left beside a peak for a second one; see ``find_candidates``.
        matching: ``greedy`` takes each limb's pairs by falling score, as all released code does; ``optimal`` maximises
            their sum.
        min_parts: Persons of fewer parts are dropped; 1 makes a person of each candidate that nothing joins.

    Raises:
        ValueError: Where an argument is out of range.
    """

    def __init__(
        self, threshold: float = 0.1, hidden: float = 0.3, matching: Matching = "greedy", min_parts: int = 3
    ) -> None:
        super().__init__()
        if matching not in ("greedy", "optimal"):
            raise ValueError(f"unknown matching '{matching}'; choose greedy or optimal.")
        if not (threshold > 0 and hidden > 0 and min_parts > 0):
            raise ValueError(
                f"threshold is {threshold}, hidden {hidden} and min_parts {min_parts}; all must be positive."
            )
        self.threshold = threshold
        self.hidden = hidden
        self.matching: Matching = matching
        self.min_parts = min_parts

    @torch.no_grad()
    def forward(
        self,
        heatmaps: Tensor,
        fields: Tensor,
        limbs: Sequence[tuple[int, int]],
        sigma: float = 0.875,
        field_shift: float = 0.0,
    ) -> GroupedParts:
        """Find the persons.

        A person's score is the sum of its parts' and limbs' scores, divided by their number in a whole body, so that of
        two equally sure persons the one goes first of whom more is seen.

        Args:
            heatmaps: (B, J, h, w), without the background.
            fields: (B, 2 C, h, w), x and y of each limb in turn.
            limbs: The C limbs, pairs of parts.
            sigma: Of the codec, in cells.
            field_shift: Cells that fields lie further right and down than maps (``PartAffinityCodec.field_shift``).

        Returns:
            The persons of all pictures, on the maps' device.

        Raises:
            PoseZooError: Where maps and fields do not fit together, or have values that are not finite.
        """
        _check(heatmaps, fields, limbs)
        candidates = find_candidates(heatmaps, self.threshold, sigma, self.hidden)
        pairs = line_integrals(fields, candidates, limbs, heatmaps.shape[1], field_shift)
        matched = match_pairs(pairs, len(candidates.rows), self.matching)
        bodies, links = _assembled(candidates, matched, self.min_parts <= 1)
        whole = [body for body, members in enumerate(bodies) if len(members) >= self.min_parts]
        bodies, links = [bodies[body] for body in whole], [links[body] for body in whole]
        return _persons(candidates, bodies, links, heatmaps.shape[1], len(limbs))


def _check(heatmaps: Tensor, fields: Tensor, limbs: Sequence[tuple[int, int]]) -> None:
    expected = (heatmaps.shape[0], 2 * len(limbs), *heatmaps.shape[2:])
    if tuple(fields.shape) != expected:
        raise PoseZooError(
            f"confidence maps of {tuple(heatmaps.shape)} and {len(limbs)} limbs need fields of {expected}, not "
            f"{tuple(fields.shape)}."
        )
    for name, maps in (("confidence maps", heatmaps), ("fields", fields)):
        if not torch.isfinite(maps.sum()):  # one NaN or infinity is enough to spoil the sum
            rows = sorted(set((~torch.isfinite(maps)).nonzero()[:, 0].tolist()))
            if rows:
                raise PoseZooError(
                    f"the {name} of pictures {rows} of the batch have values that are not finite, so nobody can be "
                    "found in them; the weights are damaged or the training diverged, take an earlier checkpoint."
                )


def match_pairs(pairs: Pairs, candidates: int, matching: Matching = "greedy") -> Pairs:
    """Choose of each limb's pairs so that no candidate is in two of one limb.

    Args:
        pairs: Of any number of pictures; candidates of different pictures are in no pair.
        candidates: M.
        matching: ``greedy`` by falling score, or ``optimal``, the largest sum (Kuhn-Munkres).

    Returns:
        The chosen pairs in main memory, by falling score.
    """
    order = torch.argsort(pairs.scores, descending=True, stable=True)
    limbs, first, second, scores = (column[order].cpu() for column in pairs)
    ends = (limbs * candidates + first).numpy(), (limbs * candidates + second).numpy()
    chosen = _greedy(*ends) if matching == "greedy" else _optimal(*ends, scores.numpy())
    kept = torch.from_numpy(chosen)
    return Pairs(limbs[kept], first[kept], second[kept], scores[kept])


def _greedy(first: Integers, second: Integers) -> Integers:
    """Go through pairs from the first on, and take those none of whose ends is taken."""
    left = np.arange(len(first))
    chosen = []
    while len(left):
        # A pair that comes before all others of both of its ends is taken in any order.
        earliest = [np.zeros(len(left), dtype=bool) for _ in range(2)]
        for mark, ends in zip(earliest, (first[left], second[left]), strict=True):
            mark[np.unique(ends, return_index=True)[1]] = True
        taken = left[earliest[0] & earliest[1]]
        chosen.append(taken)
        free = ~(np.isin(first[left], first[taken]) | np.isin(second[left], second[taken]))
        left = left[free]
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)


def _optimal(first: Integers, second: Integers, scores: Floats) -> Integers:
    """Choose pairs of the largest sum, piece by piece of what hangs together."""
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not len(first):
        return np.zeros(0, dtype=np.int64)
    rows, row_of = np.unique(first, return_inverse=True)
    columns, column_of = np.unique(second, return_inverse=True)
    size = len(rows) + len(columns)
    graph = coo_matrix((np.ones(len(first)), (row_of, len(rows) + column_of)), shape=(size, size))
    piece = connected_components(graph, directed=False)[1][row_of]
    chosen: list[Any] = []
    for inside in np.split(np.argsort(piece, kind="stable"), np.cumsum(np.bincount(piece))[:-1]):
        here, mine = np.unique(row_of[inside], return_inverse=True)
        there, theirs = np.unique(column_of[inside], return_inverse=True)
        gain = np.zeros((len(here), len(there)))
        pair = np.full(gain.shape, -1)
        gain[mine, theirs], pair[mine, theirs] = scores[inside], inside
        taken = pair[linear_sum_assignment(gain, maximize=True)]
        chosen.append(taken[taken >= 0])
    return np.sort(np.concatenate(chosen))


def _assembled(candidates: Candidates, matched: Pairs, lone: bool) -> tuple[list[dict[int, int]], list[float]]:
    """Put matched pairs together, the surest first.

    A pair joins what its two candidates are in, unless both have the same part. With ``lone`` each candidate that
    nothing joins is a body of its own. Returns for each body the candidate of each part that was found, and the sum of
    the scores of its limbs.
    """
    part_of = candidates.parts.tolist()
    bodies: list[dict[int, int]] = [{part: candidate} for candidate, part in enumerate(part_of)]
    body_of = list(range(len(bodies)))
    sums = [0.0] * len(bodies)
    for first, second, score in zip(*(column.tolist() for column in matched[1:]), strict=True):
        here, there = body_of[first], body_of[second]
        if here == there:
            sums[here] += score
        elif bodies[here].keys().isdisjoint(bodies[there].keys()):
            if len(bodies[here]) < len(bodies[there]):
                here, there = there, here
            for candidate in bodies[there].values():
                body_of[candidate] = here
            bodies[here] |= bodies[there]
            sums[here] += sums[there] + score
            bodies[there] = {}
    kept = [body for body, members in enumerate(bodies) if len(members) > (0 if lone else 1)]
    return [bodies[body] for body in kept], [sums[body] for body in kept]


def _persons(
    candidates: Candidates, bodies: Sequence[dict[int, int]], links: Sequence[float], parts: int, limbs: int
) -> GroupedParts:
    """Write bodies into rows, ordered by picture and score."""
    device = candidates.rows.device
    counts = torch.tensor([len(body) for body in bodies], dtype=torch.int64)
    members = torch.tensor([candidate for body in bodies for candidate in body.values()], dtype=torch.int64)
    which = torch.repeat_interleave(torch.arange(len(bodies)), counts)
    place = torch.tensor([part for body in bodies for part in body], dtype=torch.int64)
    cells = torch.zeros(len(bodies), parts, 2)
    part_scores = torch.zeros(len(bodies), parts)
    cells[which, place] = candidates.cells.cpu()[members]
    part_scores[which, place] = candidates.scores.cpu()[members]
    scores = (part_scores.sum(dim=1) + torch.tensor(links, dtype=torch.float32)) / (parts + limbs)
    rows = torch.zeros(len(bodies), dtype=torch.int64)
    rows[which] = candidates.rows.cpu()[members]
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(rows[order], stable=True)]
    return GroupedParts(*(column[order].to(device) for column in (cells, part_scores, scores, rows)))
