"""Part fields against plain loops, and back to candidates."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from perfect_fields import perfect_fields

from lightning_pose_zoo.codecs import PartFieldCodec
from lightning_pose_zoo.errors import PoseZooError

SIZE = (75, 101)  # no multiples of the stride


def crowd(people=5, joints=4, pictures=2, seed=0, spread=14.0):
    """A batch of people who overlap, some joints not labelled, some outside of the picture."""
    generator = torch.Generator().manual_seed(seed)
    middles = torch.rand(people, 1, 2, generator=generator) * torch.tensor([SIZE[1], SIZE[0]])
    return {
        "image": torch.zeros(pictures, 3, *SIZE, dtype=torch.uint8),
        "keypoints": middles + spread * torch.randn(people, joints, 2, generator=generator),
        "visibility": torch.randint(0, 3, (people, joints), generator=generator, dtype=torch.uint8),
        "image_index": torch.arange(people) % pictures,
    }


def encoded(codec, batch, **more):
    rows, pictures = batch["image_index"], len(batch["image"])
    return codec.encode(batch["keypoints"], batch["visibility"], rows, pictures, SIZE, **more)


def test_targets_are_those_of_plain_loops():
    codec, batch = PartFieldCodec(radius=13.0), crowd(people=7)
    targets = encoded(codec, batch)
    found = {
        (int(row), int(part), int(x), int(y)): index
        for index, (row, part, (x, y)) in enumerate(zip(targets.rows, targets.parts, targets.cells, strict=True))
    }
    assert targets.scores.shape == (2, 4, 10, 13)
    joints = batch["keypoints"].double().numpy()
    shared = 0
    for row, part, y, x in itertools.product(range(2), range(4), range(10), range(13)):
        middle = np.array([x, y]) * 8 + 3.5
        near = [
            (np.linalg.norm(joints[n, part] - middle), n)
            for n in range(7)
            if batch["image_index"][n] == row and batch["visibility"][n, part]
        ]
        near = [pair for pair in near if pair[0] <= 13]
        shared += len(near) > 1
        assert targets.scores[row, part, y, x] == bool(near)
        assert ((row, part, x, y) in found) == bool(near)
        if not near:
            continue
        index, person = found[row, part, x, y], min(near)[1]
        np.testing.assert_allclose(targets.offsets[index], joints[person, part] - middle, atol=1e-4)
        for other in range(4):
            known = other != part and batch["visibility"][person, other] > 0
            assert targets.known[index, other] == known
            expected = joints[person, other] - middle if known else [0, 0]
            np.testing.assert_allclose(targets.toward[index, other], expected, atol=1e-4)
    assert shared > 5  # else nothing was decided


def test_every_cell_of_a_disc_leads_back_to_the_joint_and_its_person():
    codec, batch = PartFieldCodec(), crowd(people=1, pictures=1)
    batch["visibility"] = torch.full((1, 4), 2)
    batch["keypoints"] = torch.tensor([[[20.3, 30.1], [61.7, 12.9], [88.0, 55.5], [3.2, 70.0]]])
    targets = encoded(codec, batch)
    assert len(targets.rows) > 40
    places = codec.centers(targets.cells.float())
    torch.testing.assert_close(places + targets.offsets, batch["keypoints"][0, targets.parts], rtol=0, atol=1e-4)
    there = places[:, None] + targets.toward
    for part in range(4):
        of_part = targets.parts == part
        others = [other for other in range(4) if other != part]
        expected = batch["keypoints"][0, others].expand(int(of_part.sum()), 3, 2)
        torch.testing.assert_close(there[of_part][:, others], expected, rtol=0, atol=1e-4)


def test_candidates_of_perfect_fields_are_the_labelled_joints():
    codec, batch = PartFieldCodec(spacing=1.0), crowd(people=4, spread=30.0)
    candidates = codec.candidates(*perfect_fields(codec, batch))
    inside = (batch["keypoints"] >= 0) & (batch["keypoints"] <= torch.tensor([SIZE[1] - 1, SIZE[0] - 1]))
    labelled = (batch["visibility"] > 0) & inside.all(dim=-1)
    assert labelled.sum() > 4
    for person, part in labelled.nonzero().tolist():
        same = (candidates.rows == batch["image_index"][person]) & (candidates.parts == part)
        distance = (candidates.positions[same] - batch["keypoints"][person, part]).norm(dim=-1)
        assert distance.min() < 1e-4
    order = list(zip(candidates.rows.tolist(), candidates.parts.tolist(), strict=True))
    assert order == sorted(order)


def test_candidates_keep_their_distance_and_their_number():
    codec = PartFieldCodec(spacing=20.0, most=3)
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(2, 3, 12, 12, generator=generator)
    offsets = torch.randn(2, 3, 2, 12, 12, generator=generator)
    toward = torch.randn(2, 3, 3, 2, 12, 12, generator=generator)
    found = codec.candidates(scores, offsets, toward)
    for row, part in itertools.product(range(2), range(3)):
        here = found.of((found.rows == row) & (found.parts == part))
        # The plain way: the highest, and so on with those that are far enough from it.
        cells = sorted(((scores[row, part, y, x], y, x) for y in range(12) for x in range(12)), reverse=True)
        expected = []
        for score, y, x in cells:
            place = torch.tensor([x, y]) * 8 + 3.5 + offsets[row, part, :, y, x]
            if score >= 0.2 and len(expected) < 3 and all((place - other).norm() >= 20 for _, other, _ in expected):
                expected.append((score, place, toward[row, part, :, :, y, x]))
        torch.testing.assert_close(here.scores, torch.stack([score for score, _, _ in expected]))
        torch.testing.assert_close(here.positions, torch.stack([place for _, place, _ in expected]))
        torch.testing.assert_close(here.toward, torch.stack([field for _, _, field in expected]))


def test_nobody_and_everything_at_one_point():
    codec, batch = PartFieldCodec(), crowd()
    batch["visibility"] = torch.zeros_like(batch["visibility"])
    targets = encoded(codec, batch)
    assert (targets.scores.sum(), len(targets.rows)) == (0, 0)
    assert len(codec.candidates(*perfect_fields(codec, batch)).rows) == 0
    nobody = {name: value[:0] if name != "image" else value for name, value in batch.items()}
    assert encoded(codec, nobody).scores.shape == (2, 4, 10, 13)
    batch["visibility"] = torch.full_like(batch["visibility"], 2)
    batch["keypoints"] = torch.full_like(batch["keypoints"], 40.0)
    candidates = codec.candidates(*perfect_fields(codec, batch))
    assert len(candidates.rows) == 8  # two pictures, four parts
    torch.testing.assert_close(candidates.positions, torch.full((8, 2), 40.0))


def test_joints_far_outside_leave_the_picture_alone():
    codec, batch = PartFieldCodec(), crowd(people=1, pictures=1)
    batch["keypoints"] = torch.tensor([[[-500.0, 20], [1e9, 30], [40, -1e9], [40, 2000]]])
    assert encoded(codec, batch).scores.sum() == 0


def test_ignored_regions_have_no_weight_outside_of_discs():
    codec, batch = PartFieldCodec(), crowd(people=1, pictures=2)
    batch["visibility"] = torch.full((1, 4), 2)
    batch["keypoints"] = torch.full((1, 4, 2), 30.0)
    ignore = torch.zeros(2, *SIZE, dtype=torch.bool)
    ignore[0, :, :60] = True
    targets = encoded(codec, batch, ignore=ignore)
    assert (targets.weights[1] == 1).all()
    disc = targets.scores[0].amax(dim=0) > 0
    assert disc.any()
    assert (targets.weights[0, 0][disc] == 1).all()
    assert (targets.weights[0, 0, :, :7][~disc[:, :7]] == 0).all()
    assert (targets.weights[0, 0, :, 8:] == 1).all()


@pytest.mark.parametrize("field", range(3))
def test_fields_with_nan_are_refused(field):
    codec, batch = PartFieldCodec(), crowd()
    fields = [part.clone() for part in perfect_fields(codec, batch)]
    codec.candidates(*fields)
    fields[field][fields[field] != 0] = torch.nan
    with pytest.raises(PoseZooError, match="NaN or infinite"):
        codec.candidates(*fields)


def test_settings_and_their_description():
    assert repr(PartFieldCodec(most=5)) == "PartFieldCodec(stride=8, radius=17.0, offset_scale=7.2801)"
    with pytest.raises(ValueError, match="radius 0"):
        PartFieldCodec(radius=0)
