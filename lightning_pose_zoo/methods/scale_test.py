"""The scale test: a picture is looked at in several sizes, and the maps of all are averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.errors import SettingsError

__all__ = ["check_scales", "maps_in_frame", "scale_averaged"]


def check_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """Return the scales of a test as floats.

    Raises:
        SettingsError: Where there are none, or one is not positive.
    """
    if not scales or not all(scale > 0 for scale in scales):
        raise SettingsError(f"test_scales is {tuple(scales)}; give at least one positive number, as in [1.0].")
    return tuple(float(scale) for scale in scales)


def scale_averaged(
    predict: Callable[[Tensor], Tensor], images: Tensor, scales: Sequence[float], codec: HeatmapCodec
) -> Tensor:
    """Average the maps of pictures over several sizes of them, in the frame of the pictures.

    Sides are rounded to whole cells. Pictures are resized by cubic interpolation, as are their maps. At scales below 1
    a network sees no more of the surroundings than the picture has.

    Args:
        predict: Normalised pictures (B, C, H', W') of any size to maps (B, K, H' / stride, W' / stride).
        images: (B, C, H, W) float, normalised.
        scales: Factors on the sides; at 1.0 picture and maps are taken as they are.
        codec: Where the cells of maps lie in a picture.

    Returns:
        (B, K, H / stride, W / stride).
    """
    height, width = int(images.shape[-2]), int(images.shape[-1])
    total: Tensor | None = None
    for scale in scales:
        size = (_whole_cells(height * scale, codec.stride), _whole_cells(width * scale, codec.stride))
        if size == (height, width):
            maps = predict(images)
        else:
            resized = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)
            maps = maps_in_frame(predict(resized), size, (height, width), codec)
        total = maps if total is None else total + maps
    assert total is not None
    return total / len(scales)


def _whole_cells(pixels: float, stride: int) -> int:
    return max(round(pixels / stride), 1) * stride


def maps_in_frame(maps: Tensor, seen: tuple[int, int], frame: tuple[int, int], codec: HeatmapCodec) -> Tensor:
    """Resample the maps of a resized picture at the cells of the picture itself.

    Pixel x of a picture of width W is pixel (x + 0.5) W' / W - 0.5 of the resized one, as pixels are squares whose
    centres count. The codec says at which pixel a cell is, which for most conventions is not the middle of the pixels
    that it covers: so a map is not resized as a picture is.

    Args:
        maps: (B, K, h', w') of the resized picture.
        seen: Height and width of the resized picture, H' and W'.
        frame: Height and width of the picture, H and W.
        codec: Where cells lie.

    Returns:
        (B, K, h, w), where h and w are the codec's for the picture.
    """
    (height, width), (seen_height, seen_width) = codec.map_size(frame), codec.map_size(seen)
    rows, columns = (torch.arange(side, device=maps.device, dtype=maps.dtype) for side in (height, width))
    cells = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    ratio = cells.new_tensor([seen[1] / frame[1], seen[0] / frame[0]])
    pixels = (codec.to_pixels(cells, (height, width)) + 0.5) * ratio - 0.5
    places = codec.to_cells(pixels, (seen_height, seen_width))
    down, across = _cubic(places[:, 0, 1], seen_height), _cubic(places[0, :, 0], seen_width)
    with torch.autocast(maps.device.type, enabled=False):  # bf16 would move the peaks
        return down @ maps @ across.T


def _cubic(places: Tensor, cells: int) -> Tensor:
    """Return what each cell counts at places between them, (n, cells), by Keys' cubic kernel with a = -0.5.

    It is that of Matlab's ``imresize`` and of F.interpolate with ``antialias``; F.grid_sample's is not exact on slopes.
    """
    distance = (places[:, None] - torch.arange(cells, device=places.device, dtype=places.dtype)).abs()
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weights / weights.sum(dim=1, keepdim=True)
