"""Part fields of DeeperCut: where parts are, how far off the cell's middle, and where the person's other parts are.

E. Insafutdinov, L. Pishchulin, B. Andres, M. Andriluka, B. Schiele, "DeeperCut: A Deeper, Stronger, and Faster
Multi-Person Pose Estimation Model", ECCV 2016, arXiv 1605.03170. In a disc around each joint every cell says that the
joint is there, how far it is (location refinement), and how far each other joint of the same person is. Cell g of
stride s lies at pixel (g + 0.5) s - 0.5, the middle of what it covers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_pose_zoo.errors import PoseZooError

__all__ = ["PartCandidates", "PartFieldCodec", "PartFieldTargets", "TopCandidates"]


class PartFieldTargets(NamedTuple):
    """What a network of part fields is trained on: dense scores, and m cells that lie in a disc.

    Attributes:
        scores: (B, K, h, w) float32, 1 in the discs, else 0.
        weights: (B, 1, h, w) float32, 0 where the picture is to be ignored, else 1.
        rows: (m,) int64, the picture of each cell.
        parts: (m,) int64, the joint that it belongs to.
        cells: (m, 2) int64, x and y.
        offsets: (m, 2) float32, pixels from the cell's middle to that joint.
        toward: (m, K, 2) float32, pixels from the cell's middle to each joint of the same person.
        known: (m, K) bool, whether that joint is labelled and another one than the cell's own.
    """

    scores: Tensor
    weights: Tensor
    rows: Tensor
    parts: Tensor
    cells: Tensor
    offsets: Tensor
    toward: Tensor
    known: Tensor


class PartCandidates(NamedTuple):
    """M places where parts may be, ordered by picture, then by part, the highest first; pixels of the picture.

    Attributes:
        rows: (M,) int64, the picture.
        parts: (M,) int64, the part.
        scores: (M,) float32, probability of the part there.
        centers: (M, 2) float32, the middle of the cell.
        positions: (M, 2) float32, the refined place.
        toward: (M, K, 2) float32, where the cell expects each joint of its person, relative to ``centers``.
    """

    rows: Tensor
    parts: Tensor
    scores: Tensor
    centers: Tensor
    positions: Tensor
    toward: Tensor

    def of(self, kept: Tensor) -> PartCandidates:
        """Return some of the candidates, by a mask or by indices."""
        return PartCandidates(*(column[kept] for column in self))

    def cpu(self) -> PartCandidates:
        """Return the same candidates in main memory."""
        return PartCandidates(*(column.cpu() for column in self))


class TopCandidates(NamedTuple):
    """The best M candidates of each part in each picture, the highest first; what ``PartCandidates`` says of each.

    Attributes:
        scores: (B, K, M) float32; 0 where there are no more, and the rest means nothing there.
        centers: (B, K, M, 2) float32.
        positions: (B, K, M, 2) float32.
        toward: (B, K, M, K, 2) float32.
    """

    scores: Tensor
    centers: Tensor
    positions: Tensor
    toward: Tensor


class PartFieldCodec(nn.Module):
    """Turns everybody's keypoints into part fields, and part fields into candidates.

    Args:
        stride: Pixels of the picture per cell.
        radius: Of the discs, in pixels of the picture; 17 in the paper, for people of about 340 pixels.
        offset_scale: Offsets are learned in units of this many pixels; the released code's by default.
        threshold: Lowest score of a candidate.
        spacing: Pixels around a candidate in which no other one of the same part is taken. Places are compared after
            refinement, so that cells of two people side by side are told apart.
        most: Candidates of one part in one picture at most, the highest.

    Raises:
        ValueError: Where a length or a number is not positive.
    """

    def __init__(
        self,
        stride: int = 8,
        radius: float = 17.0,
        offset_scale: float = 7.2801,
        threshold: float = 0.2,
        spacing: float = 6.0,
        most: int = 20,
    ) -> None:
        super().__init__()
        if min(stride, radius, offset_scale, spacing, most) <= 0:
            raise ValueError(
                f"stride is {stride}, radius {radius}, offset_scale {offset_scale}, spacing {spacing} and most {most}; "
                "all must be positive."
            )
        self.stride = stride
        self.radius = radius
        self.offset_scale = offset_scale
        self.threshold = threshold
        self.spacing = spacing
        self.most = most

    def extra_repr(self) -> str:
        """Show what a network was trained with; how candidates are chosen may change afterwards."""
        return f"stride={self.stride}, radius={self.radius}, offset_scale={self.offset_scale}"

    def map_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the maps for a picture of the given height and width in pixels."""
        return -(-size[0] // self.stride), -(-size[1] // self.stride)

    def centers(self, cells: Tensor) -> Tensor:
        """Return the pixels (..., 2) in the middle of cells (..., 2)."""
        return (cells + 0.5) * self.stride - 0.5

    @torch.no_grad()
    def encode(
        self,
        keypoints: Tensor,
        visibility: Tensor,
        rows: Tensor,
        pictures: int,
        size: tuple[int, int],
        ignore: Tensor | None = None,
    ) -> PartFieldTargets:
        """Make the targets of a batch of pictures.

        A cell in the discs of several persons belongs to the nearest joint, and of equally near ones to the first.

        Args:
            keypoints: (N, K, 2) of all persons, pixels of their pictures; they may lie outside.
            visibility: (N, K); keypoints of 0 have no disc.
            rows: (N,) int64, the picture of each person.
            pictures: B.
            size: Height and width of the pictures in pixels.
            ignore: (B, H, W) bool, where no score counts; cells whose middle is there have the weight 0, outside discs.
        """
        height, width = self.map_size(size)
        joints, device = keypoints.shape[1], keypoints.device
        keypoints = keypoints.float()
        person, part, x, y, distance = self._discs(keypoints, visibility, (height, width))
        flat = ((rows[person] * joints + part) * height + y) * width + x
        nearest = torch.full((pictures * joints * height * width,), torch.inf, device=device)
        nearest.scatter_reduce_(0, flat, distance, "amin")
        kept = distance == nearest[flat]
        first = torch.full_like(nearest, len(keypoints), dtype=torch.int64)
        first.scatter_reduce_(0, flat[kept], person[kept], "amin")
        kept &= person == first[flat]
        person, part, cells = person[kept], part[kept], torch.stack([x[kept], y[kept]], dim=-1)
        toward = keypoints[person] - self.centers(cells.float())[:, None]
        known = (visibility[person] > 0) & (part[:, None] != torch.arange(joints, device=device))
        scores = nearest.isfinite().view(pictures, joints, height, width).float()
        return PartFieldTargets(
            scores=scores,
            weights=self._weights(scores, ignore),
            rows=rows[person],
            parts=part,
            cells=cells,
            offsets=toward.gather(1, part[:, None, None].expand(-1, 1, 2))[:, 0],
            toward=torch.where(known[..., None], toward, 0.0),
            known=known,
        )

    def _discs(
        self, keypoints: Tensor, visibility: Tensor, map_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return person, part, x, y and distance in pixels, (q,) each, of every cell of every joint's disc."""
        reach = math.ceil(self.radius / self.stride)
        around = torch.arange(-reach, reach + 1, device=keypoints.device)
        offsets = torch.cartesian_prod(around, around)
        person, part = (visibility > 0).nonzero(as_tuple=True)
        joints = keypoints[person, part]
        middle = ((joints + 0.5) / self.stride - 0.5).clamp(-1e6, 1e6).round().long()
        cells = middle[:, None] + offsets
        distance = (self.centers(cells.float()) - joints[:, None]).norm(dim=-1)
        limit = torch.tensor([map_size[1], map_size[0]], device=keypoints.device)
        inside = (distance <= self.radius) & ((cells >= 0) & (cells < limit)).all(dim=-1)
        which, place = inside.nonzero(as_tuple=True)
        x, y = cells[which, place].unbind(-1)
        return person[which], part[which], x, y, distance[which, place]

    def _weights(self, scores: Tensor, ignore: Tensor | None) -> Tensor:
        weights = torch.ones_like(scores[:, :1])
        if ignore is None:
            return weights
        height, width = scores.shape[-2:]
        y, x = (torch.arange(steps, device=scores.device) * self.stride + self.stride // 2 for steps in (height, width))
        y, x = y.clamp(max=ignore.shape[-2] - 1), x.clamp(max=ignore.shape[-1] - 1)
        ignored = ignore[:, y[:, None], x[None]][:, None]
        return weights.masked_fill(ignored & (scores.amax(dim=1, keepdim=True) == 0), 0.0)

    @torch.no_grad()
    def candidates(self, scores: Tensor, offsets: Tensor, toward: Tensor) -> PartCandidates:
        """Read candidates off the fields of a batch of pictures, the highest first and none beside a higher one.

        Args:
            scores: (B, K, h, w) probabilities.
            offsets: (B, K, 2, h, w), pixels from each cell's middle to the part.
            toward: (B, K, K, 2, h, w), pixels from each cell's middle, of the first part, to each other part.

        Raises:
            PoseZooError: Where a score is NaN or infinite, or what a candidate says is.
        """
        scores = scores.float()
        rows, parts, y, x = (scores >= self.threshold).nonzero(as_tuple=True)
        found = scores[rows, parts, y, x]
        order = torch.argsort(found, descending=True, stable=True)
        order = order[torch.argsort((rows * scores.shape[1] + parts)[order], stable=True)]
        rows, parts, y, x, found = (column[order] for column in (rows, parts, y, x, found))
        centers = self.centers(torch.stack([x, y], dim=-1).float())
        positions = centers + offsets[rows, parts, :, y, x].float()
        kept = self._spaced(rows * scores.shape[1] + parts, positions)
        rows, parts, y, x = (column[kept] for column in (rows, parts, y, x))
        expected = toward[rows, parts, :, :, y, x].float()
        # One NaN or infinity is enough to spoil a sum.
        if not torch.isfinite(scores.sum() + positions.sum() + expected.sum()):
            raise PoseZooError(
                "a part field is NaN or infinite, so the network's weights or its input are; train anew from the last "
                "good checkpoint, or with a lower learning rate."
            )
        return PartCandidates(rows, parts, found[kept], centers[kept], positions[kept], expected)

    def top_candidates(self, scores: Tensor, offsets: Tensor, toward: Tensor) -> TopCandidates:
        """Read what ``candidates`` reads, in tensors whose shapes do not depend on how much that is.

        Args:
            scores: As there.
            offsets: As there.
            toward: As there.
        """
        height, width = (int(side) for side in scores.shape[-2:])
        y, x = torch.meshgrid(
            torch.arange(height, device=scores.device), torch.arange(width, device=scores.device), indexing="ij"
        )
        middles = self.centers(torch.stack([x, y], dim=-1).float()).view(-1, 2)
        places = middles + offsets.float().flatten(3).transpose(2, 3)  # (B, K, h w, 2)
        left = torch.where(scores >= self.threshold, scores, 0.0).float().flatten(2)
        found, cells = [], []
        for _ in range(min(self.most, height * width)):
            highest, cell = left.max(dim=2, keepdim=True)
            place = places.gather(2, cell[..., None].expand(-1, -1, -1, 2))
            left = torch.where((places - place).norm(dim=-1) >= self.spacing, left, 0.0)
            found.append(highest)
            cells.append(cell)
        values, chosen = torch.cat(found, dim=2), torch.cat(cells, dim=2)
        joints = scores.shape[1]
        expected = toward.float().flatten(4).gather(4, chosen[:, :, None, None].expand(-1, -1, joints, 2, -1))
        return TopCandidates(
            values,
            middles[chosen],
            places.gather(2, chosen[..., None].expand(-1, -1, -1, 2)),
            expected.permute(0, 1, 4, 2, 3),
        )

    def _spaced(self, groups: Tensor, positions: Tensor) -> Tensor:
        """Return which of ordered candidates stay, (n,) int64: those far enough from all before them in their group."""
        kept: list[int] = []
        places, device = positions.double().cpu(), positions.device
        _, counts = torch.unique_consecutive(groups, return_counts=True)
        start = 0
        for count in counts.tolist():
            near = places[start : start + count]
            left = torch.arange(count)
            for _ in range(self.most):
                if not len(left):
                    break
                kept.append(start + int(left[0]))
                distance = (near[left] - near[left[0]]).norm(dim=-1)
                left = left[distance >= self.spacing]
            start += count
        return torch.tensor(kept, dtype=torch.int64, device=device)
