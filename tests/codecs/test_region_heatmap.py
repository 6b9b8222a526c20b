"""Keypoints as cells of maps over regions, against torchvision's own functions, which go map by map."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, keypoints_to_heatmap

from lightning_pose_zoo.association.oks import oks
from lightning_pose_zoo.codecs import RegionHeatmapCodec, region_heatmap
from lightning_pose_zoo.codecs.region_heatmap import enlarged_peaks
from lightning_pose_zoo.data import COCOKeypoints


def regions(count=12, smallest=20.0, largest=400.0, seed=0):
    random = torch.Generator().manual_seed(seed)
    low = 300 * torch.rand(count, 2, generator=random)
    sides = smallest + (largest - smallest) * torch.rand(count, 2, generator=random)
    return torch.cat([low, low + sides], dim=1)


def bumps(count=12, keypoints=5, size=56, sigma=2.0, seed=0):
    """Clear peaks over a rolling ground, as trained networks give them."""
    random = torch.Generator().manual_seed(seed)
    places = size * torch.rand(count, keypoints, 2, generator=random) - 0.5
    grid = torch.arange(float(size))
    columns, rows = ((grid - places[..., axis, None]) ** 2 for axis in (0, 1))
    peak = 9 * torch.exp(-(columns[..., None, :] + rows[..., :, None]) / (2 * sigma**2))
    ground = F.interpolate(torch.randn(count, keypoints, 9, 9, generator=random), size=size, mode="bilinear")
    return peak + 0.5 * ground


NOISE = torch.randn(12, 5, 56, 56, generator=torch.Generator().manual_seed(1))
CASES = {
    "noise": (NOISE, regions()),
    "rolling": (F.interpolate(NOISE[..., :9, :9], size=56, mode="bilinear"), regions()),
    "narrow peaks": (bumps(sigma=1.0), regions()),
    "peaks": (bumps(sigma=2.0), regions()),
    "broad peaks": (bumps(sigma=4.0), regions()),
    "regions smaller than the maps": (bumps(), regions(smallest=2.0, largest=50.0)),
    "regions of less than a pixel": (bumps(), regions(smallest=0.0, largest=1.0)),
    "flat": (torch.zeros(2, 3, 56, 56), regions(2)),
    "small maps": (bumps(size=28), regions()),
    "nobody": (torch.zeros(0, 17, 56, 56), regions(0)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_peaks_are_those_of_enlarging_each_map(case):
    maps, boxes = case
    expected, heights = heatmaps_to_keypoints(maps, boxes)
    found, found_heights = enlarged_peaks(maps, boxes)
    torch.testing.assert_close(found_heights, heights, rtol=1e-5, atol=1e-5)
    # Where two pixels are as high, rounding may decide.
    assert (found != expected[..., :2]).any(dim=-1).float().mean().nan_to_num() < 0.02
    exact = RegionHeatmapCodec("logit").decode(maps, boxes)
    assert torch.equal(exact[0], expected[..., :2])
    assert torch.equal(exact[1], heights)


def test_clear_peaks_are_found_without_enlarging_any_map(monkeypatch):
    maps, boxes = bumps(), regions(smallest=60.0)
    expected, _ = heatmaps_to_keypoints(maps, boxes)
    calls = []
    monkeypatch.setattr(region_heatmap.F, "interpolate", lambda *_, **__: calls.append(1))
    found, _ = enlarged_peaks(maps, boxes)
    assert not calls
    assert torch.equal(found, expected[..., :2])


def test_cells_are_torchvisions():
    random = torch.Generator().manual_seed(0)
    boxes = regions(40).round()
    keypoints = boxes[:, None, :2] + (torch.rand(40, 17, 2, generator=random) * 1.2 - 0.1) * (
        boxes[:, None, 2:] - boxes[:, None, :2]
    )
    # On the edges, and in the corners.
    keypoints[:, 0], keypoints[:, 1] = boxes[:, :2], boxes[:, 2:]
    keypoints[:, 2, 0], keypoints[:, 3, 1] = boxes[:, 2], boxes[:, 3]
    visibility = torch.randint(0, 3, (40, 17), generator=random)
    cells, counted = RegionHeatmapCodec().encode(keypoints, visibility, boxes, 56)
    expected, valid = keypoints_to_heatmap(torch.cat([keypoints, visibility[..., None]], -1), boxes, 56)
    assert torch.equal(cells, expected)
    assert torch.equal(counted, valid > 0)
    assert 0.3 < counted.float().mean() < 0.7


@pytest.mark.parametrize(("side", "inner", "outer"), [(56.0, 0.5, 0.5), ((180.0, 380.0), 0.7, 0.9), (60.0, 1.0, 1.0)])
def test_keypoints_come_back_to_within_a_cell(side, inner, outer):
    """Half a cell cannot be promised: the highest pixel of an enlarged single cell is not always its middle one."""
    random = torch.Generator().manual_seed(0)
    sides = torch.tensor(side).expand(2)
    boxes = regions(30).round()
    boxes[:, 2:] = boxes[:, :2] + sides
    shares = torch.rand(30, 20, 2, generator=random)
    keypoints = boxes[:, None, :2] + shares * sides
    cells, counted = RegionHeatmapCodec().encode(keypoints, torch.ones(30, 20), boxes, 56)
    assert counted.all()
    maps = 20 * F.one_hot(cells, 56 * 56).view(30, 20, 56, 56).float()
    found, scores = RegionHeatmapCodec().decode(maps, boxes)
    error = ((found - keypoints) / sides * 56).abs().amax(dim=-1)
    inside = ((shares > 2 / 56) & (shares < 54 / 56)).all(dim=-1)
    assert error[inside].max() <= inner + 1e-3
    assert error.max() <= outer + 1e-3
    assert scores.min() > 0.99


def test_real_people_come_back_from_perfect_maps(test_data):
    data = COCOKeypoints(str(test_data / "coco-mini"), samples="pictures", image_size=(480, 640), num_workers=0)
    data.setup("validate")
    dataset = data.datasets["val"]
    batch = dataset.__getitems__(range(len(dataset)))
    boxes, truth, seen = batch["box"], batch["keypoints"], batch["visibility"] > 0
    codec = RegionHeatmapCodec()
    cells, counted = codec.encode(truth, batch["visibility"], boxes, 56)
    # Some are annotated outside of the person's box.
    outside = ((truth < boxes[:, None, :2]) | (truth > boxes[:, None, 2:])).any(dim=-1)
    assert torch.equal(counted, seen & ~outside)
    assert counted.sum() > 200
    maps = 20.0 * F.one_hot(cells, 56 * 56).view(*cells.shape, 56, 56)
    found, _ = codec.decode(maps, boxes)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * 0.53
    similar = oks(found, truth, areas, data.skeleton.sigmas, counted)
    assert similar[counted.any(dim=1)].mean() > 0.97


def test_scores_are_probabilities():
    boxes = regions(3)
    sure, unsure, flat = 12 * bumps(3), bumps(3) / 4, torch.zeros(3, 5, 56, 56)
    codec = RegionHeatmapCodec()
    high, low, none = (codec.decode(maps, boxes)[1] for maps in (sure, unsure, flat))
    assert high.min() > 0.9
    assert ((low > none) & (low < 0.1)).all()
    # By chance: 25 of all cells, or fewer at the border.
    assert ((none > 8 / 56**2) & (none < 26 / 56**2)).all()
    for maps in (sure, unsure):
        assert codec.decode(maps, boxes)[1].max() <= 1
    half = codec.decode(unsure.bfloat16(), boxes)
    assert half[0].dtype == half[1].dtype == torch.float32
    with pytest.raises(ValueError, match="'probability' and 'logit'"):
        RegionHeatmapCodec("logits")
