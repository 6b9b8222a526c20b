"""The symmetric spatial transformer of RMPE: a network looks at a crop through a window of its own choice, and back.

The spatial transformer (STN) chooses an affine window and warps the crop; the inverse one (SDTN) warps what was found
there back to the crop. Windows are matrices in units of half a picture, from -1 at one edge to 1 at the other: they map
a place in the window to the place in the crop that is seen there.

Paper: H. Fang, S. Xie, Y. Tai, C. Lu, "RMPE: Regional Multi-person Pose Estimation", ICCV 2017, arXiv 1612.00137; the
transformer itself is Jaderberg et al., "Spatial Transformer Networks", NeurIPS 2015, arXiv 1506.02025.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_pose_zoo.geometry import apply_affine
from lightning_pose_zoo.networks.timm_models import pooled_backbone

__all__ = ["SpatialTransformer", "conjugated", "warp", "window_to_crop"]

_NUMBERS = 6
_STEP = 0.1  # of what the head says: at the rates that heatmaps are learned with, windows would be thrown about


class SpatialTransformer(nn.Module):
    """Chooses a window of each crop: any backbone, pooled, and six numbers that begin as the whole crop.

    The numbers are an angle, the logarithms of two extents, a shear and a shift. Extents stay between 1 / ``zoom`` and
    ``zoom``, so that every window can be inverted, whatever the weights are: its determinant is never below
    1 / zoom^2. Every window that does not mirror the crop can be written so.

    Args:
        backbone: Any timm model; ``resnet18`` in the paper.
        pretrained: Start from timm's ImageNet weights, downloaded at first use.
        zoom: How many times narrower or wider than the crop a window can be.

    Raises:
        ValueError: Where there is no such model, or the zoom is not above 1.
    """

    def __init__(self, backbone: str = "resnet18", pretrained: bool = False, zoom: float = 4.0) -> None:
        super().__init__()
        if not zoom > 1:
            raise ValueError(f"zoom is {zoom}; give how many times narrower a window can be, above 1.")
        self.backbone, channels = pooled_backbone(backbone, pretrained)
        self.head = nn.Linear(channels, _NUMBERS)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.zoom = zoom

    def forward(self, crops: Tensor) -> Tensor:
        """Return the windows of crops.

        Args:
            crops: (B, 3, H, W), normalised.

        Returns:
            (B, 2, 3) float32.
        """
        return self.windows(self.numbers(crops))

    def numbers(self, crops: Tensor) -> Tensor:
        """Return the six numbers of the windows of crops (B, 3, H, W), (B, 6) float32."""
        features = self.backbone(crops).float()
        # No matrix product: mixed precision would round the windows by pixels.
        numbers: Tensor = (features[:, None] * self.head.weight).sum(dim=-1) + self.head.bias
        return _STEP * numbers

    def windows(self, numbers: Tensor) -> Tensor:
        """Turn numbers (B, 6) into windows (B, 2, 3)."""
        angle, wide, high, shear, x, y = numbers.unbind(dim=-1)
        limit = math.log(self.zoom)
        wide, high = (limit * torch.tanh(extent / limit) for extent in (wide, high))
        wide, high, cos, sin = wide.exp(), high.exp(), angle.cos(), angle.sin()
        rows = [cos * wide, cos * shear - sin * high, x, sin * wide, sin * shear + cos * high, y]
        windows: Tensor = torch.stack(rows, dim=-1).unflatten(-1, (2, 3))
        return windows

    @staticmethod
    def mirrored(numbers: Tensor) -> Tensor:
        """Turn the numbers (B, 6) of mirrored crops' windows into those of the same places in the crops."""
        return numbers * numbers.new_tensor([-1.0, 1.0, 1.0, -1.0, -1.0, 1.0])


def warp(pictures: Tensor, windows: Tensor) -> Tensor:
    """Look at pictures, or maps, through windows; what is outside of them is 0.

    Args:
        pictures: (B, C, h, w).
        windows: (B, 2, 3), from places in the result to places in the pictures, in units of half a picture.

    Returns:
        (B, C, h, w) float32, read between pixels linearly.
    """
    height, width = pictures.shape[-2:]
    y, x = (
        (2 * torch.arange(length, device=pictures.device, dtype=torch.float32) + 1) / length - 1
        for length in (height, width)
    )
    y, x = torch.meshgrid(y, x, indexing="ij")
    grid = apply_affine(torch.stack([x, y], dim=-1).expand(windows.shape[0], -1, -1, -1), windows.float())
    return F.grid_sample(pictures.float(), grid, align_corners=False)


def window_to_crop(points: Tensor, windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Carry points that were found in windows to the crops, exactly.

    Args:
        points: (B, ..., 2), pixels of the windowed picture.
        windows: (B, 2, 3).
        size: Height and width of both in pixels.

    Returns:
        (B, ..., 2), pixels of the crop.
    """
    sides = points.new_tensor([size[1], size[0]])
    return ((apply_affine((2 * points + 1) / sides - 1, windows) + 1) * sides - 1) / 2


def conjugated(windows: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Write windows in other units, u' = scale * u + shift.

    Args:
        windows: (B, 2, 3).
        scale: (2,), of x and y.
        shift: (2,).

    Returns:
        (B, 2, 3), which map u' where ``windows`` map u.
    """
    linear = windows[..., :2] * scale[:, None] / scale
    moved = scale * windows[..., 2] + shift - (linear * shift).sum(dim=-1)
    return torch.cat([linear, moved[..., None]], dim=-1)
