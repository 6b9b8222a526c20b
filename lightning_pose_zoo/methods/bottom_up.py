"""From persons in whole pictures to persons in the original pictures; shared by all bottom-up methods."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_pose_zoo.geometry import apply_affine
from lightning_pose_zoo.methods.top_down import identity_affine
from lightning_pose_zoo.structures import PoseBatch, Poses

__all__ = ["poses_from_pictures"]


def poses_from_pictures(
    keypoints: Tensor,
    keypoint_scores: Tensor,
    scores: Tensor,
    rows: Tensor,
    batch: PoseBatch,
    boxes: Tensor | None = None,
) -> Poses:
    """Carry persons that were found in whole pictures back to the original pictures.

    A keypoint that was not found has the score 0 and lies at 0, 0 of the original picture, as COCO's results have it.
    A person's box is drawn around what was found. Where the boxes were found themselves, all keypoints were.

    Args:
        keypoints: (P, K, 2), pixels of ``batch["image"]``.
        keypoint_scores: (P, K); keypoints of 0 were not found.
        scores: (P,).
        rows: (P,) int64, the row of ``batch["image"]`` that each person is in.
        batch: The batch that the pictures came in.
        boxes: (P, 4), pixels of ``batch["image"]``, where a method finds them.

    Returns:
        P persons, in the order given.
    """
    to_original = identity_affine(batch)[rows]
    points = apply_affine(keypoints, to_original)
    if boxes is None:
        found = (keypoint_scores > 0)[..., None]
        low = torch.where(found, points, torch.inf).amin(dim=1)
        high = torch.where(found, points, -torch.inf).amax(dim=1)
        somebody = found.any(dim=1)
        around = torch.cat([torch.where(somebody, low, 0.0), torch.where(somebody, high, 0.0)], dim=-1)
    else:
        found = torch.ones_like(keypoint_scores, dtype=torch.bool)[..., None]
        corners = apply_affine(boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]], to_original)
        around = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=-1)
    image_ids = batch["image_id"][rows] if "image_id" in batch else rows
    return Poses(
        keypoints=torch.where(found, points, 0.0),
        keypoint_scores=keypoint_scores,
        scores=scores,
        boxes=around,
        image_ids=image_ids,
    )
