"""Boxes, affine crops and flips, for numpy arrays and tensors; no state.

A crop is described by one 2x3 matrix from pixels of the original image to pixels of the crop. Flip, rotation, scale
and cut are folded into it, so that a picture is warped once. How a box of the original relates to the crop is named by
a ``CropConvention``, because published weights were trained with different ones; keypoints always go through the same
matrix as the pixels, so every convention is exact in itself.
"""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "FAR_AWAY",
    "CropConvention",
    "apply_affine",
    "box_area",
    "box_center_size",
    "boxes_from_keypoints",
    "clip_boxes",
    "crop_affine",
    "crop_squares",
    "fit_aspect",
    "flip_keypoints",
    "invert_affine",
    "xywh_to_xyxy",
    "xyxy_to_xywh",
]

FAR_AWAY = 1e6
"""No picture is that large: coordinates beyond it, in pixels, are mistakes."""

Array = npt.NDArray[np.floating]
ArrayOrTensor = TypeVar("ArrayOrTensor", npt.NDArray[np.floating], Tensor)

CropConvention = Literal["center", "msra", "udp"]
"""``center``: pixel centres are kept exactly, (u + 0.5) = zoom * (x + 0.5 - left); ``msra``: the HRNet repository's,
the box's centre falls on (W / 2, H / 2) and no half pixels are counted; ``udp``: lengths are counted from the first to
the last pixel, W - 1 instead of W (Huang et al., "The Devil Is in the Details", CVPR 2020)."""


def xywh_to_xyxy(boxes: ArrayOrTensor) -> ArrayOrTensor:
    """Turn (..., 4) boxes x, y, width, height into x0, y0, x1, y1."""
    if isinstance(boxes, Tensor):
        return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], dim=-1)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def xyxy_to_xywh(boxes: ArrayOrTensor) -> ArrayOrTensor:
    """Turn (..., 4) boxes x0, y0, x1, y1 into x, y, width, height."""
    if isinstance(boxes, Tensor):
        return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], dim=-1)
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def box_area(boxes: ArrayOrTensor) -> ArrayOrTensor:
    """Return the area (...,) of (..., 4) boxes x0, y0, x1, y1; 0 for inverted ones."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    if isinstance(width, Tensor):
        return width.clamp(min=0) * height.clamp(min=0)
    return np.maximum(width, 0) * np.maximum(height, 0)


def clip_boxes(boxes: Array, width: ArrayOrTensor | float, height: ArrayOrTensor | float) -> Array:
    """Clip (n, 4) boxes x0, y0, x1, y1 to pictures of the given sizes (numbers or (n,) arrays, pixels)."""
    x = np.clip(boxes[:, 0::2], 0, np.broadcast_to(np.asarray(width), boxes.shape[:1])[:, None])
    y = np.clip(boxes[:, 1::2], 0, np.broadcast_to(np.asarray(height), boxes.shape[:1])[:, None])
    return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)


def boxes_from_keypoints(keypoints: Array, visibility: npt.NDArray[np.integer], margin: float = 0.0) -> Array:
    """Return the tight boxes around labelled keypoints.

    Args:
        keypoints: (n, K, 2), pixels.
        visibility: (n, K); keypoints of 0 do not count.
        margin: Grown by this fraction of each side, on every side.

    Returns:
        (n, 4) boxes x0, y0, x1, y1; zeros for persons without a labelled keypoint.
    """
    labelled = (visibility > 0)[..., None]
    low = np.where(labelled, keypoints, np.inf).min(axis=1)
    high = np.where(labelled, keypoints, -np.inf).max(axis=1)
    nobody = ~labelled.any(axis=1)
    low, high = np.where(nobody, 0.0, low), np.where(nobody, 0.0, high)
    grow = (high - low) * margin
    return np.concatenate([low - grow, high + grow], axis=1)


def box_center_size(boxes: Array) -> tuple[Array, Array]:
    """Return the centres (n, 2) and sizes (n, 2: width, height) of (n, 4) boxes x0, y0, x1, y1, in pixels."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def fit_aspect(size: Array, aspect: float, padding: float = 1.0) -> Array:
    """Grow the shorter side of boxes until width / height equals an aspect, then grow both by a factor.

    Args:
        size: (..., 2) width and height, pixels.
        aspect: Width divided by height of the crop.
        padding: Factor on both sides; 1.25 in the HRNet and Simple Baselines repositories.

    Returns:
        (..., 2) width and height.
    """
    width, height = size[..., 0], size[..., 1]
    wide = width > height * aspect
    return np.stack([np.where(wide, width, height * aspect), np.where(wide, width / aspect, height)], axis=-1) * padding


def crop_affine(
    center: Array,
    size: Array,
    output_size: tuple[int, int],
    rotation: float = 0.0,
    flip: bool = False,
    convention: CropConvention = "center",
) -> npt.NDArray[np.float64]:
    """Compose the matrix from the original image to one crop.

    The width alone defines the zoom, so bring ``size`` to the crop's aspect first (``fit_aspect``).

    Args:
        center: (2,) x, y of the box, pixels of the original; where COCO's box edges are, so a picture of width W has
            its middle at W / 2.
        size: (2,) width and height of the box, pixels of the original.
        output_size: Height and width of the crop in pixels.
        rotation: Degrees; the content turns counter-clockwise as seen, as in the HRNet repository.
        flip: Mirror the crop left to right after all else.
        convention: How box and crop relate; see ``CropConvention``.

    Returns:
        (2, 3) matrix: pixels of the original to pixels of the crop.
    """
    height, width = output_size
    # `source` is the point of the original that falls on `target` in the crop, both by pixel centres.
    source = np.asarray(center, dtype=np.float64)
    if convention == "msra":
        zoom, target = width / float(size[0]), np.array([width / 2, height / 2])
    elif convention == "udp":
        zoom, target = (width - 1) / float(size[0]), np.array([(width - 1) / 2, (height - 1) / 2])
    else:
        zoom, source, target = width / float(size[0]), source - 0.5, np.array([(width - 1) / 2, (height - 1) / 2])
    angle = np.deg2rad(rotation)
    linear = zoom * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix = np.concatenate([linear, (target - linear @ source)[:, None]], axis=1)
    if flip:
        matrix[0] = -matrix[0]
        matrix[0, 2] += width - 1
    return matrix


def apply_affine(points: ArrayOrTensor, matrix: ArrayOrTensor) -> ArrayOrTensor:
    """Map points through 2x3 matrices.

    Args:
        points: (..., 2) x, y.
        matrix: (2, 3), or (n, 2, 3) for points of shape (n, ..., 2).

    Returns:
        (..., 2), of the same kind and type as ``points``.
    """
    if matrix.ndim == 3:
        matrix = matrix.reshape(matrix.shape[0], *([1] * (points.ndim - 2)), 2, 3)
    if isinstance(points, Tensor):
        # No matrix product: mixed precision would round it to whole pixels.
        return (matrix[..., :2] * points[..., None, :]).sum(dim=-1) + matrix[..., 2]
    mapped: Array = (matrix[..., :2] @ points[..., None])[..., 0] + matrix[..., 2]
    return mapped.astype(points.dtype, copy=False)


def invert_affine(matrix: ArrayOrTensor) -> ArrayOrTensor:
    """Invert (..., 2, 3) matrices."""
    if isinstance(matrix, Tensor):
        # No matrix product, as above; and written out, so that it is exported as a few multiplications.
        (a, b, x), (c, d, y) = (row.unbind(dim=-1) for row in matrix.unbind(dim=-2))
        rows = [d, -b, b * y - d * x, -c, a, c * x - a * y]
        inverse: Tensor = (torch.stack(rows, dim=-1) / (a * d - b * c)[..., None]).unflatten(-1, (2, 3))
        return inverse
    turned = np.linalg.inv(matrix[..., :2])
    return np.concatenate([turned, -turned @ matrix[..., 2:]], axis=-1)


def flip_keypoints(keypoints: ArrayOrTensor, width: int, permutation: list[int]) -> ArrayOrTensor:
    """Mirror keypoints in a picture left to right, and exchange left and right ones.

    Args:
        keypoints: (..., K, 2), pixels.
        width: Width of the picture in pixels.
        permutation: For every keypoint the index of its mirror image (``Skeleton.flip_permutation``).

    Returns:
        (..., K, 2), pixels of the mirrored picture.
    """
    mirrored = keypoints[..., permutation, :]
    mirrored[..., 0] = width - 1 - mirrored[..., 0]
    return mirrored


def crop_squares(images: Tensor, centers: Tensor, sides: Tensor, output_size: tuple[int, int]) -> Tensor:
    """Cut squares out of pictures, all at once on their device, and bring each to one size.

    The outermost edges of a crop are the edges of its square, so pixel u of w lies at center + side * ((u + 0.5) / w -
    0.5). What is outside of the picture is 0. Squares that shrink are read from halved pictures, mixed between the two
    nearest, so that fine patterns do not alias (Williams, "Pyramidal Parametrics", SIGGRAPH 1983).

    Args:
        images: (B, 3, H, W) floats.
        centers: (B, J, 2) x and y of J squares of each picture, pixels.
        sides: (B, J), pixels, above 0.
        output_size: Height and width of the crops in pixels; where they differ, squares are stretched.

    Returns:
        (B, J, 3, height, width) of the pictures' type.
    """
    height, width = output_size
    squares = centers.shape[1]
    picture = images.float()
    halvings = max(0, math.ceil(math.log2(max(images.shape[-2:]) / min(output_size))))
    if halvings:
        # Filled up, so that all levels have the same extent.
        rest = [-length % 2**halvings for length in (images.shape[-1], images.shape[-2])]
        picture = F.pad(picture, (0, rest[0], 0, rest[1]))
    extent = centers.new_tensor([picture.shape[-1], picture.shape[-2]]).float()
    centers, sides = centers.float(), sides.float()
    axes = [
        centers[..., axis, None] + sides[..., None] * ((_steps(length, centers) + 0.5) / length - 0.5)
        for axis, length in ((0, width), (1, height))
    ]
    x = (2 * axes[0] + 1) / extent[0] - 1  # (B, J, w), from -1 to 1 as grid_sample counts
    y = (2 * axes[1] + 1) / extent[1] - 1
    shape = (images.shape[0], squares, height, width)
    grid = torch.stack([x[:, :, None, :].expand(shape), y[:, :, :, None].expand(shape)], dim=-1).flatten(1, 2)
    level = (sides / min(output_size)).log2().clamp(0, halvings)[:, None, :, None, None]
    crops: Tensor | float = 0.0
    for halved in range(halvings + 1):
        if halved:
            picture = F.avg_pool2d(picture, 2)
        sampled = F.grid_sample(picture, grid, align_corners=False).unflatten(2, (squares, height))
        crops = crops + sampled * (1 - (level - halved).abs()).clamp(min=0)
    assert isinstance(crops, Tensor)
    return crops.transpose(1, 2).to(images.dtype)


def _steps(length: int, like: Tensor) -> Tensor:
    """Return 0, 1, ..., length - 1 as floats on the device of another tensor."""
    return torch.arange(length, device=like.device, dtype=torch.float32)
