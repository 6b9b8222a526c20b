"""Part affinity fields against loops over cells, and what must hold of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_pose_zoo.codecs.body_parts import body_parts
from lightning_pose_zoo.codecs.paf import PartAffinityCodec
from lightning_pose_zoo.geometry import flip_keypoints
from lightning_pose_zoo.skeletons import Skeleton, get_skeleton

LIMB = ((0, 1),)
NOBODY = torch.zeros(0, dtype=torch.int64)


def people(count, parts, size, seed=0):
    random = torch.Generator().manual_seed(seed)
    places = torch.rand(count, parts, 2, generator=random) * torch.tensor([size[1], size[0]], dtype=torch.float32)
    seen = (torch.rand(count, parts, generator=random) > 0.2).to(torch.uint8) * 2
    rows = torch.randint(0, 3, (count,), generator=random)
    return places, seen, rows


def by_loops(places, seen, rows, limbs, pictures, size, stride, sigma, width, shift):
    height, wide = size[0] // stride, size[1] // stride
    maps = np.zeros((pictures, places.shape[1] + 1, height, wide))
    fields = np.zeros((pictures, len(limbs), 2, height, wide))
    count = np.zeros((pictures, len(limbs), height, wide))
    for person, row in enumerate(rows.tolist()):
        cells = (places[person].double().numpy() + 0.5) / stride - 0.5
        for part in range(places.shape[1]):
            for y in range(height):
                for x in range(wide):
                    if seen[person, part]:
                        square = (x - cells[part, 0]) ** 2 + (y - cells[part, 1]) ** 2
                        maps[row, part, y, x] = max(maps[row, part, y, x], math.exp(-square / 2 / sigma**2))
        for limb, (a, b) in enumerate(limbs):
            start, end = cells[a] + shift, cells[b] + shift
            length = math.dist(start, end)
            if not (seen[person, a] and seen[person, b]) or length == 0:
                continue
            along = (end - start) / length
            for y in range(height):
                for x in range(wide):
                    in_box = all(
                        min(start[i], end[i]) - width <= (x, y)[i] <= max(start[i], end[i]) + width for i in (0, 1)
                    )
                    if in_box and abs((y - start[1]) * along[0] - (x - start[0]) * along[1]) <= width:
                        fields[row, limb, :, y, x] += along
                        count[row, limb, y, x] += 1
    maps[:, -1] = 1 - maps[:, :-1].max(axis=1)
    return fields / np.maximum(count, 1)[:, :, None], maps


@pytest.mark.parametrize("convention", ["center", "openpose"])
def test_targets_equal_loops_over_cells(convention):
    limbs, size = ((0, 1), (1, 2), (3, 0)), (64, 88)
    places, seen, rows = people(6, 4, size)
    codec = PartAffinityCodec(convention, limb_width=1.3)
    fields, maps = codec.encode(places, seen, rows, limbs, 3, size)
    shift = 3.5 / 8 if convention == "openpose" else 0.0
    expected, expected_maps = by_loops(places, seen, rows, limbs, 3, size, 8, 0.875, 1.3, shift)
    np.testing.assert_allclose(fields.unflatten(1, (-1, 2)).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(maps.numpy(), expected_maps, atol=1e-5)


def test_few_at_once_or_all_together_are_the_same(monkeypatch):
    places, seen, rows = people(7, 4, (64, 64))
    whole = PartAffinityCodec().encode(places, seen, rows, LIMB, 3, (64, 64))
    monkeypatch.setattr("lightning_pose_zoo.codecs.paf._VALUES_AT_ONCE", 64 * 4 * 2)
    for one, other in zip(whole, PartAffinityCodec().encode(places, seen, rows, LIMB, 3, (64, 64)), strict=True):
        torch.testing.assert_close(one, other)


def test_vectors_have_length_one_and_crossing_ones_are_averaged():
    places = torch.tensor([[[20.0, 60.0], [100.0, 60.0]], [[60.0, 20.0], [60.0, 100.0]]])
    seen = torch.full((2, 2), 2)
    fields, _ = PartAffinityCodec().encode(places[:1], seen[:1], torch.zeros(1, dtype=torch.int64), LIMB, 1, (128, 128))
    lengths = fields.norm(dim=1)
    assert set(lengths.unique().tolist()) == {0.0, 1.0}
    fields, maps = PartAffinityCodec().encode(places, seen, torch.zeros(2, dtype=torch.int64), LIMB, 1, (128, 128))
    assert fields.norm(dim=1)[0, 7, 7].item() == pytest.approx(math.sqrt(0.5))
    assert maps[:, :-1].max() <= 1
    torch.testing.assert_close(maps[:, -1], 1 - maps[:, :-1].amax(dim=1))


def test_limbs_without_an_end_or_a_length_are_not_drawn():
    places = torch.tensor([[[20.0, 20.0], [60.0, 20.0]], [[30.0, 30.0], [30.0, 30.0]]])
    seen = torch.tensor([[2, 0], [2, 2]])
    fields, maps = PartAffinityCodec().encode(places, seen, torch.tensor([0, 0]), LIMB, 1, (64, 64))
    assert fields.abs().max() == 0
    assert torch.isfinite(maps).all()
    fields, maps = PartAffinityCodec().encode(places[:0], seen[:0], NOBODY, LIMB, 2, (40, 64))
    assert (fields.shape, maps.shape) == ((2, 2, 5, 8), (2, 3, 5, 8))
    assert maps[:, -1].min() == 1


@pytest.mark.parametrize("name", ["coco17", "lsp14", "flic", "h36m17"])
def test_mirrored_targets_are_targets_of_the_mirrored_picture(name):
    skeleton = get_skeleton(name)
    parts, size = body_parts(skeleton), (64, 96)
    places, seen, rows = people(5, skeleton.num_keypoints, size)
    codec = PartAffinityCodec()

    def fields_of(keypoints, visibility):
        return codec.encode(*parts.from_keypoints(keypoints, visibility), rows, parts.skeleton.limbs, 3, size)

    there = fields_of(places, seen)
    mirrored = fields_of(flip_keypoints(places, 96, skeleton.flip_permutation), seen[:, skeleton.flip_permutation])
    torch.testing.assert_close(codec.unflip(mirrored.fields, *parts.mirrored_limbs), there.fields, atol=1e-5, rtol=0)
    order = [*parts.skeleton.flip_permutation, parts.skeleton.num_keypoints]
    torch.testing.assert_close(mirrored.heatmaps.flip(-1)[:, order], there.heatmaps, atol=1e-5, rtol=0)


def test_parts_of_coco_are_the_released_ones():
    parts = body_parts(get_skeleton("coco17"))
    assert parts.skeleton.names[:3] == ("nose", "neck", "right_shoulder")
    # Channels of the released network for each pair in its grouping order.
    pairs = [(1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
             (1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (2, 16), (5, 17)]  # fmt: skip
    channels = [12, 20, 14, 16, 22, 24, 0, 2, 4, 6, 8, 10, 28, 30, 34, 32, 36, 18, 26]
    for pair, channel in zip(pairs, channels, strict=True):
        assert parts.skeleton.limbs[channel // 2] == pair


def test_the_neck_is_there_where_both_shoulders_are():
    skeleton = get_skeleton("coco17")
    parts = body_parts(skeleton)
    keypoints, seen = torch.rand(3, 17, 2), torch.full((3, 17), 2, dtype=torch.uint8)
    left, right = skeleton.index("left_shoulder"), skeleton.index("right_shoulder")
    seen[1, left], seen[2, right] = 1, 0
    made, visible = parts.from_keypoints(keypoints, seen)
    torch.testing.assert_close(made[:, 1], (keypoints[:, left] + keypoints[:, right]) / 2)
    assert visible[:, 1].tolist() == [2, 1, 0]
    assert torch.equal(parts.to_keypoints(made), keypoints)
    assert torch.equal(parts.to_keypoints(visible), seen)


def test_every_skeleton_hangs_together():
    loose = Skeleton.from_names("mouse", ["snout", "leftear", "rightear", "tailbase"])
    for skeleton in (loose, *(get_skeleton(name) for name in ("mpii16", "lsp14", "flic", "posetrack17", "jhmdb15"))):
        parts = body_parts(skeleton)
        reached = {0}
        for _ in parts.skeleton.names:
            reached |= {end for limb in parts.skeleton.limbs if reached & set(limb) for end in limb}
        assert reached == set(range(parts.skeleton.num_keypoints)), skeleton.name
        assert -1 not in parts.mirrored_limbs[0]
        assert [parts.skeleton.names[part] for part in parts.order] == list(skeleton.names)


@pytest.mark.parametrize("arguments", [{"convention": "msra"}, {"limb_width": 0}, {"stride": 0}, {"sigma": -1}])
def test_bad_settings_are_named(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        PartAffinityCodec(**arguments)
