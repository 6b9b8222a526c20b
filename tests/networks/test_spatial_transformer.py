"""Windows and their inverse: exact for coordinates, nearly so for maps, and always invertible."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.geometry import apply_affine, invert_affine
from lightning_pose_zoo.networks import SpatialTransformer
from lightning_pose_zoo.networks.alphapose import warp_back
from lightning_pose_zoo.networks.spatial_transformer import conjugated, warp, window_to_crop


def some_windows(count=64, size=0.4):
    torch.manual_seed(0)
    transformer = SpatialTransformer("test_resnet")
    return transformer.windows(torch.randn(count, 6) * size)


def blob(height, width, x, y, sigma):
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    return torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))[None, None]


def test_there_and_back_is_the_identity():
    windows = some_windows().double()
    inverse = invert_affine(windows)
    full = torch.tensor([0.0, 0, 1]).expand(64, 1, 3)
    product = torch.cat([windows, full], dim=1) @ torch.cat([inverse, full], dim=1)
    assert (product - torch.eye(3)).abs().max() < 1e-6
    points = torch.rand(64, 5, 2, dtype=torch.float64) * 2 - 1
    assert (apply_affine(apply_affine(points, windows), inverse) - points).abs().max() < 1e-6
    # As the paper writes it: the inverse of the first two columns, and the shift taken through it.
    torch.testing.assert_close(inverse[..., :2], torch.linalg.inv(windows[..., :2]))
    torch.testing.assert_close(inverse[..., 2:], -torch.linalg.inv(windows[..., :2]) @ windows[..., 2:])


def test_gradients_of_the_inverse_and_of_the_windows():
    transformer = SpatialTransformer("test_resnet")
    numbers = (torch.randn(3, 6, dtype=torch.float64) * 0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: invert_affine(transformer.windows(given)), (numbers,))


def test_windows_begin_as_the_whole_crop_and_change_nothing():
    transformer, crops = SpatialTransformer("test_resnet").eval(), torch.rand(2, 3, 64, 48)
    windows = transformer(crops)
    torch.testing.assert_close(windows, torch.eye(2, 3).expand(2, 2, 3))
    torch.testing.assert_close(warp(crops, windows), crops, rtol=0, atol=1e-5)
    assert windows.requires_grad


@pytest.mark.parametrize("size", [0.1, 10.0, 1000.0])
def test_every_window_can_be_inverted(size):
    torch.manual_seed(0)
    transformer = SpatialTransformer("test_resnet", zoom=4.0)
    windows = transformer.windows(torch.randn(1000, 6, dtype=torch.float64) * size)
    determinant = torch.linalg.det(windows[..., :2])
    assert determinant.min() >= 1 / 16 - 1e-9
    assert determinant.max() <= 16 + 1e-9


def test_every_window_that_does_not_mirror_can_be_written():
    torch.manual_seed(0)
    matrices = torch.randn(200, 2, 2, dtype=torch.float64)
    matrices = matrices[torch.linalg.det(matrices) > 0.1][:20]
    q, r = torch.linalg.qr(matrices)
    sign = torch.diagonal(r, dim1=-2, dim2=-1).sign()
    q, r = q * sign[:, None], r * sign[:, :, None]
    limit = math.log(100.0)
    extents = limit * torch.atanh(torch.diagonal(r, dim1=-2, dim2=-1).log() / limit)
    numbers = torch.stack(
        [torch.atan2(q[:, 1, 0], q[:, 0, 0]), extents[:, 0], extents[:, 1], r[:, 0, 1], *torch.zeros(2, len(q))], dim=1
    )
    windows = SpatialTransformer("test_resnet", zoom=100.0).windows(numbers)
    torch.testing.assert_close(windows[..., :2], matrices)


def test_maps_come_back_where_they_were_seen():
    picture = blob(128, 128, 60.0, 70.0, 6.0)
    windows = some_windows(30, 0.12)
    back = warp_back(warp(picture.expand(30, 1, 128, 128), windows), invert_affine(windows))
    assert (back - picture).abs()[..., 16:-16, 16:-16].max() < 0.02
    assert (warp(picture.expand(30, 1, 128, 128), windows) - picture).abs().max() > 0.5


def test_outside_of_the_window_maps_are_at_their_least():
    inside = torch.tensor([[[0.5, 0, 0], [0, 0.5, 0]]])
    logits = torch.full((1, 2, 3, 16, 16), -5.0)
    logits[..., 8, 8] = 4.0
    back = warp_back(logits, invert_affine(inside))
    assert back.shape == logits.shape
    assert (back[..., :4, :] == -5).all()
    assert back.amax() > -4


def test_points_are_carried_to_the_crop_exactly():
    """What lies at a pixel of the windowed picture lies at that place in the crop."""
    windows = torch.tensor([[[0.6, 0.1, 0.05], [-0.08, 0.7, -0.1]]])
    size = (96, 64)
    [[point]] = window_to_crop(torch.tensor([[[40.0, 30.0]]]), windows, size)
    seen = warp(blob(*size, point[0].item(), point[1].item(), 3.0), windows)
    row, column = divmod(int(seen.argmax()), size[1])
    assert (column, row) == (40, 30)
    identity = torch.eye(2, 3)[None]
    points = torch.rand(1, 17, 2) * 60
    torch.testing.assert_close(window_to_crop(points, identity, size), points, rtol=0, atol=1e-4)


@pytest.mark.parametrize("convention", ["center", "msra", "dark", "udp"])
def test_windows_of_maps_agree_with_those_of_crops_for_every_convention(convention):
    from lightning_pose_zoo.methods import AlphaPose

    codec, size = HeatmapCodec(convention, stride=4), (96, 64)
    small = {"backbone": "test_resnet", "channels": (8, 8), "transformer": None}
    units = AlphaPose(codec=codec, **small)._units(torch.zeros(1, 1, 24, 16), size)
    windows = some_windows(8).double()
    of_maps = conjugated(windows, *(unit.double() for unit in units))
    points = torch.rand(8, 5, 2, dtype=torch.float64) * 60
    expected = codec.to_cells(window_to_crop(points, windows, size), (24, 16))
    found = window_to_crop(codec.to_cells(points, (24, 16)), of_maps, (24, 16))
    assert (found - expected).abs().max() < 1e-4


def test_mixed_precision_rounds_no_windows():
    torch.manual_seed(0)
    transformer, crops = SpatialTransformer("test_resnet").eval(), torch.rand(2, 3, 64, 48)
    torch.nn.init.normal_(transformer.head.weight, std=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        windows = transformer(crops)
        seen = warp(crops, windows)
    assert windows.dtype == seen.dtype == torch.float32
    torch.testing.assert_close(seen, warp(crops, windows), rtol=0, atol=0)


def test_a_zoom_that_is_none_is_refused():
    with pytest.raises(ValueError, match="above 1"):
        SpatialTransformer("test_resnet", zoom=1.0)
