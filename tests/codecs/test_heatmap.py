"""The heatmap codec against the numbers of the HRNet repository and of mmpose, and against itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_pose_zoo.codecs import HeatmapCodec
from lightning_pose_zoo.codecs.peaks import map_peaks
from lightning_pose_zoo.geometry import apply_affine, crop_affine, invert_affine
from lightning_pose_zoo.skeletons import get_skeleton

CONVENTIONS = ("center", "msra", "dark", "udp")
SIZE = (256, 192)


def oracle(test_data: Path, name: str) -> dict[str, np.ndarray]:
    return dict(np.load(test_data / "oracles" / "processing" / f"{name}.npz"))


def test_msra_targets_equal_the_hrnet_repository(test_data):
    expected = oracle(test_data, "targets_official")
    targets = HeatmapCodec("msra").encode(torch.tensor(expected["keypoints"]), torch.tensor(expected["visible"]), SIZE)
    np.testing.assert_allclose(targets.heatmaps.numpy(), expected["heatmaps"], atol=1e-6)
    np.testing.assert_array_equal(targets.weights.numpy(), expected["weights"])


def test_msra_decoding_equals_the_hrnet_repository(test_data):
    expected = oracle(test_data, "decode_official")
    keypoints, scores = HeatmapCodec("msra").decode(torch.tensor(expected["heatmaps"]))
    to_original = np.stack(
        [
            invert_affine(crop_affine(center, scale * 200.0, SIZE, convention="msra"))
            for center, scale in zip(expected["center"], expected["scale"], strict=True)
        ]
    )
    np.testing.assert_allclose(apply_affine(keypoints.double().numpy(), to_original), expected["keypoints"], atol=1e-4)
    np.testing.assert_array_equal(scores.numpy(), expected["scores"][..., 0])


@pytest.mark.parametrize("convention", ["msra", "dark", "udp"])
def test_targets_equal_mmpose(test_data, convention):
    expected = oracle(test_data, "codecs_mmpose")
    targets = HeatmapCodec(convention).encode(
        torch.tensor(expected["keypoints"]), torch.tensor(expected["visible"]), SIZE
    )
    np.testing.assert_allclose(targets.heatmaps.numpy(), expected[f"{convention}_targets"], atol=1e-6)
    np.testing.assert_array_equal(targets.weights.numpy(), expected[f"{convention}_weights"])


@pytest.mark.parametrize("convention", ["msra", "dark", "udp"])
@pytest.mark.parametrize("noisy", [False, True])
def test_decoding_equals_mmpose(test_data, convention, noisy):
    if noisy:
        numbers = oracle(test_data, "codecs_noisy_mmpose")
        maps, prefix = numbers["heatmaps"][1:], f"{convention}_noisy"
    else:
        numbers = oracle(test_data, "codecs_mmpose")
        maps, prefix = numbers[f"{convention}_targets"], convention
    keypoints, scores = HeatmapCodec(convention).decode(torch.tensor(maps))
    # mmpose's UDP gives shares of the crop times W, ours are pixels: the last pixel is W - 1.
    unit = np.array([192 / 191, 256 / 255]) if convention == "udp" else 1.0
    errors = np.abs(keypoints.numpy() * unit - numbers[f"{prefix}_decoded"]).max(axis=-1)
    # Maps of zeros: mmpose says -1, the HRNet repository (and we) say 0.
    counted = scores.numpy() > 0
    if convention == "msra":
        # mmpose steps along one axis where the peak is at the border of the other; the HRNet repository does not.
        x, y = (keypoints.numpy() / 4).round().astype(int)[..., 0], (keypoints.numpy() / 4).round().astype(int)[..., 1]
        counted &= (x > 1) & (x < 47) & (y > 1) & (y < 63)
    assert counted.sum() > 50
    assert errors[counted].max() < 1e-4
    np.testing.assert_array_equal(scores.numpy(), numbers[f"{prefix}_scores"])


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("stride", "sigma"), [(4, 2.0), (4, 3.0), (8, 1.5)])
def test_decoding_undoes_encoding(convention, stride, sigma):
    torch.manual_seed(0)
    size = (256, 192)
    margin = stride * (2.5 * sigma + 4)
    keypoints = margin + torch.rand(20, 17, 2) * (torch.tensor([192.0, 256.0]) - 2 * margin)
    codec = HeatmapCodec(convention, stride, sigma)
    decoded, scores = codec.decode(codec.encode(keypoints, torch.ones(20, 17), size).heatmaps)
    # The published codec rounds to cells; the others are exact up to the Gaussian's cut.
    tolerance = 0.75 * stride + 1e-3 if convention == "msra" else 0.02 * stride
    assert (decoded - keypoints).abs().max() <= tolerance
    assert (scores > 0.8).all()


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_cells_and_pixels_are_inverse(convention):
    codec = HeatmapCodec(convention)
    points = torch.rand(5, 3, 2) * 200
    torch.testing.assert_close(codec.to_pixels(codec.to_cells(points, (64, 48)), (64, 48)), points)


def test_center_convention_is_exact_at_the_corners():
    codec = HeatmapCodec("center", stride=4)
    # The first cell covers pixels 0..3, whose middle is 1.5.
    torch.testing.assert_close(codec.to_pixels(torch.tensor([[0.0, 0.0]]), (64, 48)), torch.tensor([[1.5, 1.5]]))
    torch.testing.assert_close(
        HeatmapCodec("udp").to_pixels(torch.tensor([[47.0, 63.0]]), (64, 48)), torch.tensor([[191.0, 255.0]])
    )


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_maps_of_mirrored_crops_come_back(convention):
    """Encoding the mirrored person and unflipping gives the person's own maps, up to the published half pixel."""
    skeleton = get_skeleton("coco17")
    torch.manual_seed(1)
    keypoints = 40 + torch.rand(4, 17, 2) * torch.tensor([110.0, 170.0])
    mirrored = keypoints[:, skeleton.flip_permutation].clone()
    mirrored[..., 0] = 191 - mirrored[..., 0]
    codec = HeatmapCodec(convention)
    maps = codec.encode(mirrored, torch.ones(4, 17), SIZE).heatmaps
    decoded, _ = codec.decode(codec.unflip(maps, skeleton.flip_permutation))
    offset = (decoded - keypoints).abs().max()
    limit = {"center": 0.05, "udp": 0.05, "dark": 1.05, "msra": 4.0}[convention]
    assert offset < limit
    if convention == "dark":
        # A quarter cell to the right stays after the shift by one cell: 1 pixel at stride 4.
        assert (decoded - keypoints)[..., 0].mean() == pytest.approx(1.0, abs=0.05)


def test_unlabelled_and_outlying_keypoints_weigh_nothing():
    keypoints = torch.tensor([[[50.0, 50.0], [50.0, 50.0], [-100.0, 50.0], [50.0, 400.0]]])
    visibility = torch.tensor([[2, 0, 2, 1]], dtype=torch.uint8)
    for convention in CONVENTIONS:
        targets = HeatmapCodec(convention).encode(keypoints, visibility, SIZE)
        assert targets.weights.tolist() == [[1.0, 0.0, 0.0, 0.0]]
        assert targets.heatmaps[0, 1:].abs().max() == 0


def test_peaks_equal_a_plain_loop():
    torch.manual_seed(2)
    maps = torch.randn(3, 5, 7, 9)
    cells, values = map_peaks(maps)
    for n in range(3):
        for k in range(5):
            best = max((maps[n, k, y, x].item(), -y, -x) for y in range(7) for x in range(9))
            assert values[n, k].item() == best[0]
            assert cells[n, k].tolist() == [-best[2], -best[1]]


def test_empty_batch_and_empty_maps():
    codec = HeatmapCodec()
    keypoints, scores = codec.decode(torch.zeros(0, 17, 64, 48))
    assert keypoints.shape == (0, 17, 2)
    assert scores.shape == (0, 17)
    keypoints, scores = codec.decode(torch.zeros(2, 17, 64, 48))
    assert torch.isfinite(keypoints).all()
    assert (scores == 0).all()


@pytest.mark.parametrize("arguments", [{"convention": "msrb"}, {"stride": 0}, {"sigma": -1.0}])
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match=r"convention|positive"):
        HeatmapCodec(**arguments)
