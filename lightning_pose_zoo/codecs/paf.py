"""Part affinity fields: along each limb a field of unit vectors that says which two ends belong together.

Z. Cao, T. Simon, S.-E. Wei, Y. Sheikh, "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields", CVPR
2017, arXiv 1611.08050. Beside the fields stand the confidence maps of the parts: the highest of all persons' Gaussians
in each cell, and one map for the background.

=========== ================================ ============================================================
convention  a joint of pixel x is in cell    whose
=========== ================================ ============================================================
``center``  (x + 0.5) / s - 0.5, everywhere  exact; what to train with
``openpose`` the same in maps, x / s in fields  the released trainings: fields lie half a cell beside the maps
=========== ================================ ============================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_pose_zoo.codecs.heatmap import HeatmapCodec

__all__ = ["PartAffinityCodec", "PartAffinityConvention", "PartAffinityTargets"]

PartAffinityConvention = Literal["center", "openpose"]

_VALUES_AT_ONCE = 2**22  # keeps what is drawn at once, before persons are brought together, in tens of megabytes


class PartAffinityTargets(NamedTuple):
    """What a network of confidence maps and fields is trained on.

    Attributes:
        fields: (B, 2 C, h, w) float32, x and y of each of the C limbs in turn; vectors of length 1 on a limb, shorter
            where limbs of several persons cross, 0 elsewhere.
        heatmaps: (B, J + 1, h, w) float32, a map of each part and one of the background, 1 less the highest part.
    """

    fields: Tensor
    heatmaps: Tensor


class PartAffinityCodec(nn.Module):
    """Draws confidence maps and part affinity fields of everybody in a picture.

    A cell is on a limb where it is at most ``limb_width`` cells beside the line through the limb's ends, and inside of
    the upright box around the ends, grown by as much. That is the released code's rule; the paper cuts off at the ends
    squarely. Where limbs of several persons cover a cell, the mean of their vectors stands there.

    Args:
        convention: ``center``, or ``openpose`` to read and train on released weights; see the module's table.
        stride: Pixels of the picture per cell.
        sigma: Standard deviation of the confidence maps in cells; 0.875, the released 7 pixels, by default.
        limb_width: In cells; 1, 8 pixels, as released.

    Raises:
        ValueError: Where an argument is out of range.
    """

    def __init__(
        self,
        convention: PartAffinityConvention = "center",
        stride: int = 8,
        sigma: float = 0.875,
        limb_width: float = 1.0,
    ) -> None:
        super().__init__()
        if convention not in ("center", "openpose"):
            raise ValueError(f"unknown convention of fields '{convention}'; choose center or openpose.")
        if limb_width <= 0:
            raise ValueError(f"limb_width is {limb_width}; it must be positive.")
        self.convention = convention
        self.stride = stride
        self.sigma = sigma
        self.limb_width = limb_width
        self.maps = HeatmapCodec("center", stride, sigma)

    def extra_repr(self) -> str:
        """Show the settings when a module is printed."""
        return f"convention={self.convention}, stride={self.stride}, sigma={self.sigma}, limb_width={self.limb_width}"

    @property
    def field_shift(self) -> float:
        """Cells that a joint lies further right and down in the fields than in the maps."""
        return 0.5 - 0.5 / self.stride if self.convention == "openpose" else 0.0

    def to_pixels(self, cells: Tensor) -> Tensor:
        """Map (..., 2) cells of the confidence maps to pixels of the picture."""
        return (cells + 0.5) * self.stride - 0.5

    def unflip(self, fields: Tensor, mirrored: Sequence[int], ways: Sequence[float]) -> Tensor:
        """Turn the fields of mirrored pictures into fields of the pictures.

        Fields of ``openpose``, which lie beside the maps, come back seven eighths of a cell beside the right ones and
        are shifted by one cell.

        Args:
            fields: (B, 2 C, h, w), of mirrored pictures.
            mirrored: For each limb its mirror image.
            ways: For each limb -1 where that one is counted from the other end, else 1 (``BodyParts.mirrored_limbs``).

        Returns:
            (B, 2 C, h, w).
        """
        vectors = fields.flip(-1).unflatten(1, (-1, 2))[:, list(mirrored)]
        sign = fields.new_tensor(ways)[:, None] * fields.new_tensor([-1.0, 1.0])
        turned: Tensor = (vectors * sign[..., None, None]).flatten(1, 2)
        if self.convention == "openpose":
            turned = torch.cat([turned[..., :1], turned[..., :-1]], dim=-1)
        return turned

    @torch.no_grad()
    def encode(
        self,
        parts: Tensor,
        visibility: Tensor,
        rows: Tensor,
        limbs: Sequence[tuple[int, int]],
        pictures: int,
        size: tuple[int, int],
    ) -> PartAffinityTargets:
        """Draw the targets of a batch of pictures.

        Args:
            parts: (N, J, 2) of all persons, pixels of their pictures; they may lie outside.
            visibility: (N, J); parts of 0 are not drawn, and no limb of theirs.
            rows: (N,) int64, the picture of each person.
            limbs: Parts at both ends of each limb.
            pictures: B.
            size: Height and width of the pictures in pixels.
        """
        height, width = self.maps.map_size(size)
        count = parts.shape[1]
        heatmaps = parts.new_zeros(pictures, count, height, width, dtype=torch.float32)
        fields = parts.new_zeros(pictures, len(limbs), 2, height, width, dtype=torch.float32)
        covered = parts.new_zeros(pictures, len(limbs), 1, height, width, dtype=torch.float32)
        step = max(1, _VALUES_AT_ONCE // max(1, height * width * max(count, len(limbs))))
        for first in range(0, len(parts), step):
            some = slice(first, first + step)
            drawn, _ = self.maps.encode(parts[some], visibility[some], size)
            of_picture = rows[some, None, None, None].expand_as(drawn)
            heatmaps.scatter_reduce_(0, of_picture, drawn, "amax")
            vectors, on_limb = self._limbs(parts[some], visibility[some], limbs, (height, width))
            covered.index_add_(0, rows[some], on_limb)
            fields.index_add_(0, rows[some], on_limb * vectors[..., None, None])
        background = 1 - heatmaps.amax(dim=1, keepdim=True)
        return PartAffinityTargets(
            (fields / covered.clamp(min=1)).flatten(1, 2), torch.cat([heatmaps, background], dim=1)
        )

    def _limbs(
        self, parts: Tensor, visibility: Tensor, limbs: Sequence[tuple[int, int]], map_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return the directions (n, C, 2) of limbs, and the cells (n, C, 1, h, w) that each covers, 1 or 0."""
        ends = torch.tensor(limbs, device=parts.device).reshape(-1, 2)
        cells = (parts.float() + 0.5) / self.stride - 0.5 + self.field_shift
        start, end = cells[:, ends[:, 0]], cells[:, ends[:, 1]]
        length = (end - start).norm(dim=-1, keepdim=True)
        there = (visibility[:, ends] > 0).all(dim=-1) & (length[..., 0] > 0)
        along = torch.where(there[..., None], (end - start) / length.clamp(min=1e-9), 0.0)
        inside, offsets = [], []
        for axis, steps in ((0, map_size[1]), (1, map_size[0])):
            grid = torch.arange(steps, device=parts.device, dtype=torch.float32)
            near = torch.minimum(start, end)[..., axis, None] - self.limb_width
            far = torch.maximum(start, end)[..., axis, None] + self.limb_width
            inside.append((grid >= near) & (grid <= far))
            offsets.append(grid - start[..., axis, None])
        beside = (
            offsets[1][..., :, None] * along[..., 0, None, None] - offsets[0][..., None, :] * along[..., 1, None, None]
        )
        on_limb = beside.abs() <= self.limb_width
        on_limb &= inside[1][..., :, None]
        on_limb &= inside[0][..., None, :] & there[..., None, None]
        return along, on_limb.float()[:, :, None]
