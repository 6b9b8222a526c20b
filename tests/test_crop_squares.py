"""Squares cut out of pictures on the device, against plain loops; and maps of points under mixed precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_pose_zoo.geometry import apply_affine, crop_squares, flip_keypoints


def by_hand(image, center, side, size):
    """Cut one square out of (3, H, W), pixel by pixel."""
    height, width = size
    result = np.zeros((3, height, width))
    for v in range(height):
        for u in range(width):
            x = center[0] + side * ((u + 0.5) / width - 0.5)
            y = center[1] + side * ((v + 0.5) / height - 0.5)
            left, top = math.floor(x), math.floor(y)
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                row, column = top + i, left + j
                if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                    weight = (1 - abs(y - row)) * (1 - abs(x - column))
                    result[:, v, u] += weight * image[:, row, column]
    return result


def test_squares_are_read_by_bilinear_interpolation_and_zero_outside():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 23, 31)
    centers = torch.tensor([[[10.0, 8.3], [0.0, 22.0], [-40.0, 5.0]], [[30.5, -3.0], [15.2, 11.7], [15.0, 11.0]]])
    sides = torch.tensor([[9.0, 12.5, 10.0], [14.0, 3.0, 16.0]])
    crops = crop_squares(images, centers, sides, (16, 18))
    assert crops.shape == (2, 3, 3, 16, 18)
    for b in range(2):
        for j in range(3):
            expected = by_hand(images[b].numpy(), centers[b, j].tolist(), sides[b, j].item(), (16, 18))
            np.testing.assert_allclose(crops[b, j].numpy(), expected, atol=2e-4)
    assert crops[0, 2].abs().max() == 0


def test_a_square_that_is_the_picture_is_the_picture():
    images = torch.randn(1, 3, 24, 24)
    crops = crop_squares(images, torch.tensor([[[11.5, 11.5]]]), torch.tensor([[24.0]]), (24, 24))
    torch.testing.assert_close(crops[:, 0], images, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(96, 96), (97, 99)])  # the second is filled up to be halved
def test_squares_that_shrink_do_not_alias(size):
    board = (torch.arange(size[0])[:, None] + torch.arange(size[1])) % 2 * 2.0 - 1
    images = board.expand(1, 3, *size).contiguous()
    center = torch.tensor([[[48.2, 47.9]]])
    crops = crop_squares(images, center, torch.tensor([[64.0]]), (16, 16))
    assert crops.abs().max() < 1e-3  # the mean of black and white; bilinear reading would give up to 1
    # A ramp is linear, and stays in its place at whatever level it is read.
    ramp = torch.arange(size[1]).float().expand(1, 3, *size).contiguous()
    for side in (12.0, 20.0, 33.0, 64.0):
        crop = crop_squares(ramp, center, torch.tensor([[side]]), (16, 16))[0, 0, 0]
        expected = 48.2 + side * ((torch.arange(16) + 0.5) / 16 - 0.5)
        torch.testing.assert_close(crop, expected.expand(16, 16), atol=0.02, rtol=0)


def test_crops_of_a_mirrored_picture_are_the_mirrored_crops():
    torch.manual_seed(0)
    images, keypoints, permutation = torch.randn(2, 3, 40, 48), torch.rand(2, 4, 2) * 40, [1, 0, 2, 3]
    sides = torch.full((2, 4), 17.0)
    crops = crop_squares(images, keypoints, sides, (20, 20))
    mirrored = crop_squares(images.flip(-1), flip_keypoints(keypoints, 48, permutation), sides, (20, 20))
    torch.testing.assert_close(mirrored, crops[:, permutation].flip(-1), atol=1e-4, rtol=0)


def test_places_are_exact_in_half_precision():
    torch.manual_seed(0)
    images, centers, sides = torch.randn(1, 3, 300, 300), torch.rand(1, 5, 2) * 300, torch.full((1, 5), 31.3)
    exact = crop_squares(images, centers, sides, (32, 32))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(crop_squares(images, centers, sides, (32, 32)), exact)
    half = crop_squares(images.bfloat16(), centers, sides, (32, 32))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.05, rtol=0)
    points, matrix = torch.rand(4, 5, 2) * 1000, torch.randn(4, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        mapped = apply_affine(points, matrix)
    by_hand = torch.einsum("nij,nkj->nki", matrix[..., :2], points) + matrix[:, None, :, 2]
    torch.testing.assert_close(mapped, by_hand, rtol=1e-5, atol=1e-2)
