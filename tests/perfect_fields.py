"""Part fields as a network would give them that makes no mistake: the encoded labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_pose_zoo.codecs.part_fields import PartFieldCodec
from lightning_pose_zoo.structures import PoseBatch, person_images


def perfect_fields(codec: PartFieldCodec, batch: PoseBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores (B, K, h, w), offsets (B, K, 2, h, w) and displacements (B, K, K, 2, h, w) in pixels."""
    images = batch["image"]
    size = (images.shape[-2], images.shape[-1])
    targets = codec.encode(batch["keypoints"], batch["visibility"], person_images(batch), len(images), size)
    count, joints, height, width = targets.scores.shape
    offsets = torch.zeros(count, joints, 2, height, width)
    toward = torch.zeros(count, joints, joints, 2, height, width)
    x, y = targets.cells.unbind(-1)
    offsets[targets.rows, targets.parts, :, y, x] = targets.offsets
    toward[targets.rows, targets.parts, :, :, y, x] = targets.toward
    return targets.scores, offsets, toward


def coco_pictures(path: Path, side: int) -> list[PoseBatch]:
    """Return one batch without pixels for each picture of a COCO file with labelled people, its longer side scaled."""
    content = json.loads(path.read_text())
    people: dict[int, list[dict]] = {}
    for person in content["annotations"]:
        if person.get("num_keypoints", 0) and not person.get("iscrowd", 0):
            people.setdefault(person["image_id"], []).append(person)
    return [
        picture(image["id"], (image["height"], image["width"]), people[image["id"]], side)
        for image in content["images"]
        if image["id"] in people
    ]


def picture(image_id: int, size: tuple[int, int], people: list[dict], side: int) -> PoseBatch:
    """Return a batch without pixels of one picture, height and width given, its longer side scaled."""
    scale = side / max(size)
    keypoints = torch.tensor(np.array([person["keypoints"] for person in people], dtype=np.float32)).view(-1, 17, 3)
    return {
        "image": torch.zeros(1, 3, *(round(length * scale) for length in size), dtype=torch.uint8),
        "keypoints": (keypoints[..., :2] + 0.5) * scale - 0.5,
        "visibility": keypoints[..., 2].to(torch.uint8),
        "image_index": torch.zeros(len(people), dtype=torch.int64),
        "image_id": torch.tensor([image_id]),
        "person_id": torch.tensor([person["id"] for person in people]),
        "to_original": torch.tensor([[[1 / scale, 0, 0.5 / scale - 0.5], [0, 1 / scale, 0.5 / scale - 0.5]]]),
    }
