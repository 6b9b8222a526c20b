"""From keypoints in crops to persons in pictures; shared by all top-down methods."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_pose_zoo.association import rescored
from lightning_pose_zoo.geometry import apply_affine
from lightning_pose_zoo.structures import PoseBatch, Poses

__all__ = ["evaluation_protocol", "identity_affine", "poses_from_crops"]


def identity_affine(batch: PoseBatch) -> Tensor:
    """Return the batch's map to the original pictures, (B, 2, 3); the identity where it has none."""
    if "to_original" in batch:
        return batch["to_original"]
    images = batch["image"]
    return torch.eye(2, 3, device=images.device).expand(len(images), 2, 3)


def evaluation_protocol(*parts: Any) -> str:
    """Say in one line how a score was obtained: boxes, crops, flip test, codec, suppression, number of images.

    Args:
        parts: The data module, the method and the metrics; each tells of itself by ``protocol()``, those without it are
            passed over.
    """
    return "; ".join(part.protocol() for part in parts if hasattr(part, "protocol"))


def poses_from_crops(keypoints: Tensor, scores: Tensor, batch: PoseBatch, confident: float = 0.2) -> Poses:
    """Carry one person per crop back to the original pictures.

    A person's score is the mean of its keypoints' scores above ``confident``, times the detector's score where the crop
    came from a detection: the HRNet repository's rule.

    Args:
        keypoints: (N, K, 2), pixels of the crops.
        scores: (N, K).
        batch: The batch that the crops came in.
        confident: Keypoints of this or a lower score do not count in the person's score.

    Returns:
        N persons, in the order of the batch.
    """
    count = keypoints.shape[0]
    person_scores = rescored(scores, batch.get("box_score"), confident)
    to_original = identity_affine(batch)
    running = torch.arange(count, device=keypoints.device)
    if "original_box" in batch:
        boxes = batch["original_box"]
    else:
        height, width = batch["image"].shape[-2:]
        corners = keypoints.new_tensor([[0, 0], [width, 0], [width, height], [0, height]]).expand(count, 4, 2)
        corners = apply_affine(corners, to_original)
        boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=-1)
    return Poses(
        keypoints=apply_affine(keypoints, to_original),
        keypoint_scores=scores,
        scores=person_scores,
        boxes=boxes,
        image_ids=batch.get("image_id", running),
        person_ids=batch.get("person_id"),
    )
