"""The coarse and the fine network: sizes, geometry of pyramid and windows, what is shared and what sees what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lightning_pose_zoo.networks import efficient_object_localization as module
from lightning_pose_zoo.networks.efficient_object_localization import (
    CoarseNetwork,
    EfficientObjectLocalizationNetwork,
    FineNetwork,
    contrast_normalized,
    crop_windows,
    gaussian_pyramid,
)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def small(keypoints=3, backbone="tompson7", stride=8, window=5, **arguments):
    torch.manual_seed(0)
    return EfficientObjectLocalizationNetwork(
        keypoints, backbone, channels=4, stride=stride, window=window, **arguments
    )


def test_the_reconstruction_has_as_many_parameters_as_its_layers_say():
    with torch.device("meta"):
        for stride in (4, 8, 16):
            network = EfficientObjectLocalizationNetwork(14, stride=stride, window=5)
            assert parameters(network.coarse) == 24_695_182
            assert parameters(network.fine) == 1_640_718
        assert parameters(CoarseNetwork(14, share_banks=True)) == 8_321_678
        convolutions = [m for m in CoarseNetwork(14).banks[0].modules() if isinstance(m, torch.nn.Conv2d)]
        assert len(convolutions) + 2 == 11
        convolutions = [m for m in CoarseNetwork(14, "tompson7").banks[0].modules() if isinstance(m, torch.nn.Conv2d)]
        assert len(convolutions) + 2 == 7


@pytest.mark.parametrize(
    ("backbone", "stride", "window", "strides"),
    [("tompson7", 4, 9, [1, 2, 4, 4]), ("tompson11_bn", 8, 5, [1, 2, 4, 8]), ("tompson7_bn", 16, 3, [1, 2, 4, 8]),
     ("resnet10t", 8, 5, [2, 4, 8]), ("resnet10t", 16, 3, [2, 4, 8, 16])],
)  # fmt: skip
def test_every_level_s_window_covers_the_same_pixels(backbone, stride, window, strides):
    """The same context at every level, whose middle is the middle of the coarse cell, to the last bit."""
    network = small(backbone=backbone, stride=stride, window=window).eval()
    assert network.coarse.strides == network.fine.strides == strides
    images = torch.rand(2, 3, 128, 64)
    with torch.no_grad():
        maps, features = network.coarse(images)
        cells = torch.tensor([[[0, 0], [2, 1], [3, 3]]]).expand(2, 3, 2)
        assert maps.shape == (2, 3, 128 // stride, 64 // stride)
        assert [tuple(level.shape[-2:]) for level in features] == [(128 // s, 64 // s) for s in strides]
        assert network.fine(features, cells).shape == (2, 3, *[window * stride // strides[0]] * 2)
    cells = torch.tensor([[[5, 7], [8, 6], [10, 10]]])
    middle = (cells.double() + 0.5) * stride - 0.5
    for own in strides:
        grid = (torch.arange(16 * stride // own, dtype=torch.float64) + 0.5) * own - 0.5
        # Each cell of this level says where it lies.
        places = torch.stack(torch.meshgrid(grid, grid, indexing="xy"))[None]
        found = crop_windows(places, cells, stride // own, window)
        assert found.shape[-1] * own == window * stride
        found = found.unflatten(0, (1, 3)).flatten(3)
        torch.testing.assert_close(found.mean(dim=-1), middle, rtol=0, atol=1e-12)
        torch.testing.assert_close(found[..., 0], middle - window * stride / 2 + own / 2, rtol=0, atol=1e-12)


def test_windows_are_what_a_loop_cuts_out():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 8, 12)
    cells = torch.stack([torch.randint(0, 6, (2, 5)), torch.randint(0, 4, (2, 5))], dim=-1)
    found = crop_windows(features, cells, 2, 3).numpy()
    for n in range(2):
        for k in range(5):
            x0, y0 = (2 * (cells[n, k] - 1)).tolist()
            expected = np.zeros((3, 6, 6), dtype=np.float32)
            for dy in range(6):
                for dx in range(6):
                    if 0 <= y0 + dy < 8 and 0 <= x0 + dx < 12:
                        expected[:, dy, dx] = features[n, :, y0 + dy, x0 + dx]
            assert np.array_equal(found[n * 5 + k], expected)


def test_gradients_of_windows_go_back_to_where_they_were_cut_out():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    cells = torch.tensor([[[1, 1], [2, 1], [1, 1]], [[0, 3], [3, 3], [2, 2]]])
    windows = crop_windows(features, cells, 2, 3)
    seen = torch.randn_like(windows)
    (windows * seen).sum().backward()
    other = torch.randn_like(features)
    left = (crop_windows(other, cells, 2, 3) * seen).sum()
    torch.testing.assert_close(left, (other * features.grad).sum())
    # Two keypoints at one place count twice.
    features.grad = None
    crop_windows(features, torch.tensor([[[1, 1], [1, 1]]] * 2), 2, 1).sum().backward()
    assert features.grad[:, :, 2:4, 2:4].unique().tolist() == [2.0]
    assert features.grad.sum().item() == 2 * 3 * 4 * 2


def test_halved_pictures_lie_where_the_whole_ones_do():
    ramp = torch.arange(32.0)[None, None, None].expand(1, 1, 16, 32)
    for level, factor in zip(gaussian_pyramid(ramp), (1, 2, 4), strict=True):
        expected = (torch.arange(32.0 / factor) + 0.5) * factor - 0.5
        torch.testing.assert_close(level[0, 0, 3, 2:-2], expected[2:-2])
    dot = torch.zeros(1, 1, 8, 8)
    dot[0, 0, 3, 4] = 64
    taps = torch.tensor([0.0, 3, 1, 0])
    across = torch.tensor([0.0, 1, 3, 0])
    torch.testing.assert_close(gaussian_pyramid(dot)[1][0, 0], taps[:, None] * across[None])


def test_contrast_normalisation_is_what_a_loop_says():
    torch.manual_seed(0)
    images = torch.rand(1, 3, 12, 10) * torch.linspace(0.1, 2, 10)
    picture = images[0].double().numpy()
    weights = np.exp(-(np.arange(-4, 5) ** 2) / (2 * 2.25**2))
    weights /= weights.sum()

    def blurred(plane):
        padded = np.pad(plane, 4, mode="edge")
        return np.array(
            [[weights @ padded[y : y + 9, x : x + 9] @ weights for x in range(10)] for y in range(12)]
        )  # fmt: skip

    centered = picture - blurred(picture.mean(axis=0))
    deviation = np.sqrt(blurred((centered**2).mean(axis=0)))
    expected = centered / np.maximum(deviation, deviation.mean())
    np.testing.assert_allclose(contrast_normalized(images)[0].numpy(), expected, atol=2e-5)
    assert contrast_normalized(torch.full((1, 3, 8, 8), 0.3)).abs().max() < 0.01
    assert CoarseNetwork(2, channels=2).normalize_contrast
    assert not CoarseNetwork(2, "resnet10t", channels=2).normalize_contrast


def test_banks_see_twice_and_four_times_as_far(monkeypatch):
    """How far each bank sees, by the gradient of one cell, for a network all of whose layers pass it on."""
    monkeypatch.setattr(module.F, "max_pool2d", lambda maps, size: F.avg_pool2d(maps, size))
    network = CoarseNetwork(1, "tompson7", channels=1, stride=4)
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 1.0 if parameter.ndim == 4 else 0.0)
    # 5x5 and a pooling, twice, then two of 5x5 and one of 9x9, by hand, in pixels of the bank's own picture.
    reach = 5 + 1 + 4 * 2 + 2 + 4 * 4 + 4 * 4 + 8 * 4
    for level, (factor, smoothing) in enumerate(((1, 1), (2, 4), (4, 10))):
        images = torch.ones(1, 3, 16, 384, dtype=torch.float64, requires_grad=True)
        maps, _ = network.double().banks[level](gaussian_pyramid(images)[level])
        maps[0, 0, 0, maps.shape[-1] // 2].backward()
        assert (images.grad[0, 0].sum(dim=0) > 0).sum().item() == (reach - 1) * factor + smoothing


def test_dropout_takes_whole_maps():
    network = small().train()
    seen = {}
    network.coarse.dropout.register_forward_hook(lambda _, given, out: seen.update(given=given[0], out=out))
    network.coarse(torch.rand(4, 3, 32, 32))
    given, out = seen["given"], seen["out"]
    dropped = (out == 0).flatten(2).all(dim=-1)
    doubled = torch.isclose(out, 2 * given).flatten(2).all(dim=-1)
    assert (dropped | doubled).all()
    assert 0.2 < dropped.float().mean() < 0.8
    network.eval().coarse(torch.rand(4, 3, 32, 32))
    assert torch.equal(seen["out"], seen["given"])


def test_the_fine_network_reads_features_from_before_the_dropout_and_no_picture():
    network = small().train()
    images = torch.rand(2, 3, 32, 32)
    found, given = [], []
    network.coarse.banks[0].trunk.register_forward_hook(lambda _, __, out: found.append(out))
    network.fine.register_forward_pre_hook(lambda _, seen: given.append(seen))
    maps = network(images)
    (features, cells), *_ = given
    assert len(given) == 1
    assert all(one is other for one, other in zip(features, found[0], strict=False))
    assert all(level.shape[1] == 4 for level in features)
    flat = maps.coarse.flatten(2).argmax(dim=-1)
    assert torch.equal(cells, torch.stack([flat % 4, flat // 4], dim=-1))
    assert torch.equal(cells, maps.cells)


def test_keypoints_share_all_but_the_last_layer():
    def fine(keypoints):
        torch.manual_seed(0)
        return FineNetwork(keypoints, [1, 2], [4, 4], 6, 4, 3, False).eval()

    assert parameters(fine(2).paths) == parameters(fine(9).paths)
    assert parameters(fine(9).head) == 9 * (6 + 1)
    network = fine(3)
    torch.nn.init.normal_(network.head.weight)
    torch.nn.init.normal_(network.head.bias)
    features = [torch.randn(2, 4, 16, 16), torch.randn(2, 4, 8, 8)]
    cells = torch.randint(0, 4, (2, 3, 2))
    with torch.no_grad():
        maps = network(features, cells)
        # By hand: the 1x1 convolution of each keypoint on its own window.
        for keypoint in range(3):
            total = network.paths[0](crop_windows(features[0], cells[:, [keypoint]], 4, 3))
            small_one = network.paths[1](crop_windows(features[1], cells[:, [keypoint]], 2, 3))
            total = total + small_one.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            weight, bias = network.head.weight[keypoint, :, 0, 0], network.head.bias[keypoint]
            expected = torch.einsum("bchw,c->bhw", total, weight) + bias
            torch.testing.assert_close(maps[:, keypoint], expected, rtol=1e-4, atol=1e-4)
        order = torch.tensor([2, 0, 1])
        network.head.weight.copy_(network.head.weight[order])
        network.head.bias.copy_(network.head.bias[order])
        torch.testing.assert_close(network(features, cells[:, order]), maps[:, order])


def test_fine_gradients_reach_the_coarse_features_but_not_its_maps():
    network = small()
    torch.nn.init.normal_(network.fine.head.weight)
    network(torch.rand(2, 3, 32, 32)).fine.square().sum().backward()
    for stage in network.coarse.banks[0].trunk.stages:
        assert stage[0][0].weight.grad.abs().sum() > 0
    for layer in (network.coarse.head, network.coarse.hidden[0], network.coarse.banks[0].wide[0]):
        assert layer.weight.grad is None
    network.coarse.requires_grad_(False)
    network.zero_grad(set_to_none=True)
    network(torch.rand(2, 3, 32, 32)).fine.square().sum().backward()
    assert all(parameter.grad is None for parameter in network.coarse.parameters())
    assert network.fine.paths[0][0].weight.grad.abs().sum() > 0


def test_banks_are_shared_where_that_is_asked_for():
    assert len(small().coarse.banks) == 3
    assert len(small(share_banks=True).coarse.banks) == 1
    shared, own = (parameters(small(share_banks=share, backbone="resnet10t").coarse.banks) for share in (True, False))
    assert own == 3 * shared


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": 6}, "choose 4, 8 or 16"),
        ({"window": 4}, "odd number of coarse cells"),
        ({"backbone": "tompson9"}, "no backbone 'tompson9'.*tompson11"),
        ({"backbone": "resnet10t", "stride": 6}, r"stride \[2, 4, 8, 16, 32\], none of 6"),
    ],
)
def test_what_does_not_exist_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)
