"""Poses hold together."""

from __future__ import annotations

import pytest
import torch

from lightning_pose_zoo.structures import Poses, person_images


def some(count: int, **more) -> Poses:
    return Poses(
        keypoints=torch.rand(count, 5, 2),
        keypoint_scores=torch.rand(count, 5),
        scores=torch.rand(count),
        boxes=torch.rand(count, 4),
        image_ids=torch.arange(count),
        **more,
    )


def test_selecting_and_joining():
    poses = some(4, person_ids=torch.arange(4))
    assert len(poses[1:3]) == 2
    assert poses[torch.tensor([3, 0])].person_ids.tolist() == [3, 0]
    joined = Poses.cat([poses[:1], Poses.empty(5), poses[1:]])
    torch.testing.assert_close(joined.keypoints, poses.keypoints)
    # Nobody has no person ids, so the whole has none.
    assert joined.person_ids is None
    assert Poses.cat([poses[:2], poses[2:]]).person_ids.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="at least one"):
        Poses.cat([])


def test_parts_must_agree():
    with pytest.raises(ValueError, match=r"person_ids has the shape \(3,\)"):
        some(4, person_ids=torch.arange(3))


def test_persons_and_pictures():
    images = torch.zeros(3, 3, 8, 8)
    assert person_images({"image": images}).tolist() == [0, 1, 2]
    assert person_images({"image": images, "image_index": torch.tensor([0, 0, 2, 2])}).tolist() == [0, 0, 2, 2]
