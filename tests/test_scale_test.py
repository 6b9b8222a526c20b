"""Maps of several sizes of a crop meet in the crop's frame, whatever the codec's convention."""

from __future__ import annotations

import pytest
import torch

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.errors import SettingsError
from lightning_pose_zoo.losses import HeatmapCrossEntropy
from lightning_pose_zoo.methods import ConvolutionalPoseMachine
from lightning_pose_zoo.methods.scale_test import maps_in_frame, scale_averaged
from lightning_pose_zoo.networks import center_maps

FRAME = (128, 96)
PAPER = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
every_codec = pytest.mark.parametrize(
    "codec",
    [HeatmapCodec("center", 8, 0.875), HeatmapCodec("center"), HeatmapCodec("dark"), HeatmapCodec("udp")],
    ids=["cpm", "center", "dark", "udp"],
)


def machine(**options):
    torch.manual_seed(0)
    options = {"variant": "original_bn", "stages": 2, "channels": 8, "loss": HeatmapCrossEntropy(0.875), **options}
    module = ConvolutionalPoseMachine("lsp14", **options).eval()
    for layer in module.network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    return module


def crops():
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 3, 8, 6), dtype=torch.uint8, generator=generator)
    return {
        "image": images.repeat_interleave(16, dim=2).repeat_interleave(16, dim=3),
        "box": torch.tensor([[8.0, 8.0, 70.0, 120.0], [30.0, 0.0, 90.0, 100.0]]),
    }


def drawn(codec, points, size):
    """What a perfect network says of a crop that was resized to this size: pixels are squares whose centres count."""
    ratio = torch.tensor([size[1] / FRAME[1], size[0] / FRAME[0]])
    moved = (points + 0.5) * ratio - 0.5
    return codec.encode(moved, torch.ones(points.shape[:2]), size).heatmaps


@every_codec
@pytest.mark.parametrize("scale", PAPER)
def test_a_point_stays_where_it_is_at_every_scale(codec, scale):
    points = 24 + torch.rand(4, 5, 2, generator=torch.Generator().manual_seed(2)) * torch.tensor([48.0, 80.0])
    size = tuple(round(side * scale / codec.stride) * codec.stride for side in FRAME)
    maps = maps_in_frame(drawn(codec, points, size), size, FRAME, codec)
    assert maps.shape[-2:] == codec.map_size(FRAME)
    found, _ = codec.decode(maps)
    single, _ = codec.decode(drawn(codec, points, FRAME))
    # A wrong half of a pixel would move all points by 0.02 cells and more, for scales such as 0.7.
    assert (found - points).norm(dim=-1).max() < (0.07 if codec.sigma < 1 else 0.01) * codec.stride
    assert (found - single).mean(dim=(0, 1)).abs().max() < 0.01 * codec.stride


def test_maps_are_read_at_the_right_cells():
    """On maps that say where they are, by a plain loop over cells."""
    for codec in (HeatmapCodec("center", 8, 0.875), HeatmapCodec("msra"), HeatmapCodec("udp")):
        seen = (96, 64)
        height, width = codec.map_size(seen)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        here = maps_in_frame(torch.stack([columns, rows])[None].float(), seen, FRAME, codec)[0]
        for y in range(2, here.shape[1] - 2, 5):
            for x in range(2, here.shape[2] - 2, 3):
                pixel = codec.to_pixels(torch.tensor([float(x), float(y)]), codec.map_size(FRAME)).tolist()
                resized = [(pixel[0] + 0.5) * 64 / 96 - 0.5, (pixel[1] + 0.5) * 96 / 128 - 0.5]
                cell = codec.to_cells(torch.tensor(resized), (height, width)).tolist()
                assert here[:, y, x].tolist() == pytest.approx(cell, abs=1e-4)


def test_one_scale_changes_nothing_and_the_same_one_twice_neither():
    single, batch = machine(), crops()
    with torch.no_grad():
        expected = single.estimate(batch).keypoints
        for scales in ((1.0,), (1.0, 1.0), (1.01,)):  # what rounds to the crop's size is the crop
            torch.testing.assert_close(machine(test_scales=scales).estimate(batch).keypoints, expected)
        once, twice, other = (machine(test_scales=s).estimate(batch).keypoints for s in ((0.8,), (0.8, 0.8), (1.3,)))
    torch.testing.assert_close(once, twice)
    assert not torch.allclose(once, expected, atol=1.0)
    assert not torch.allclose(once, other, atol=1.0)


def test_the_network_sees_each_size_with_the_middle_of_the_person_as_wide_as_ever(monkeypatch):
    module, batch, seen = machine(test_scales=PAPER, flip_test=False), crops(), []
    forward = module.network.forward
    monkeypatch.setattr(module.network, "forward", lambda images: seen.append(images) or forward(images))
    with torch.no_grad():
        module.estimate(batch)
    sizes = [tuple(images.shape[-2:]) for images in seen]
    assert sizes == [(88, 64), (104, 80), (112, 88), (128, 96), (144, 104), (152, 112), (168, 128)]
    for images, (height, width) in zip(seen, sizes, strict=True):
        x, y = width / 96, height / 128
        middles = torch.tensor([[39 * x, 64 * y], [60 * x, 50 * y]])
        torch.testing.assert_close(images[:, 3:], center_maps(middles, (height, width)))


def test_scales_are_averaged():
    codec, images = HeatmapCodec("center", 8, 0.875), torch.zeros(1, 3, 64, 64)
    maps = scale_averaged(
        lambda seen: torch.full((1, 2, seen.shape[-2] // 8, seen.shape[-1] // 8), seen.shape[-1] / 64),
        images, (0.5, 1.0, 1.5), codec,
    )  # fmt: skip
    torch.testing.assert_close(maps, torch.ones(1, 2, 8, 8))


def test_the_protocol_names_the_scales():
    assert "scale" not in machine().protocol()
    assert machine(test_scales=(0.7, 1.0)).protocol().startswith("scales 0.7, 1, flip test, HeatmapCodec(")
    for wrong in ((), (0.0, 1.0), (-1.0,)):
        with pytest.raises(SettingsError, match="test_scales is"):
            machine(test_scales=wrong)
