"""The metrics on a made-up data set, for tests that treat them all alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lightning_pose_zoo.metrics import EPE, PCK, GroundTruth, OKSMeanAveragePrecision, PCKh, PoseMetric
from lightning_pose_zoo.structures import Poses


def people(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Make ``count`` annotated persons with predictions, about two in a picture; a column per quantity."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(count, 16, 2, generator=generator, dtype=torch.float64) * 200
    size = 10.0 ** (torch.rand(count, 1, 1, generator=generator, dtype=torch.float64) * 2)
    return {
        "target": target,
        "predicted": target + torch.randn(count, 16, 2, generator=generator, dtype=torch.float64) * size,
        "visibility": torch.randint(0, 3, (count, 16), generator=generator).byte(),
        "head_size": torch.rand(count, generator=generator, dtype=torch.float64) * 40 + 5,
        "area": torch.rand(count, generator=generator, dtype=torch.float64) * 20000 + 500,
        # Two decimals: equal scores occur, so that the order of images matters.
        "score": (torch.rand(count, generator=generator, dtype=torch.float64) * 10).round() / 10,
        "image_id": torch.arange(count) // 2 + 7,
        "person_id": torch.randperm(count, generator=generator) + 2**41,
    }


def ground_truth(columns: dict[str, torch.Tensor]) -> GroundTruth:
    """Return the annotated persons as the average precision takes them."""
    target = columns["target"].numpy()
    image_ids, rows = np.unique(columns["image_id"].numpy(), return_inverse=True)
    return GroundTruth(
        image_ids=image_ids,
        image_rows=rows,
        person_ids=columns["person_id"].numpy(),
        keypoints=target,
        visibility=columns["visibility"].numpy(),
        boxes=np.concatenate([target.min(axis=1), target.max(axis=1)], axis=1) if len(target) else np.zeros((0, 4)),
        areas=columns["area"].numpy(),
        is_crowd=np.zeros(len(target), dtype=bool),
    )


def metrics(columns: dict[str, torch.Tensor]) -> dict[str, PoseMetric]:
    """Return one of each metric."""
    return {
        "pck": PCK("mpii16", thresholds=(0.2, 0.5)),
        "box": PCK("mpii16", normalize_by="box", average="macro", strict=True),
        "pckh": PCKh(),
        "epe": EPE("mpii16"),
        "ap": OKSMeanAveragePrecision("mpii16"),
        "ap_of_all": OKSMeanAveragePrecision("mpii16", annotations=ground_truth(columns)),
    }


def update(metric: PoseMetric, columns: dict[str, torch.Tensor], persons: Sequence[int]) -> None:
    """Give some persons to a metric as one top-down batch."""
    rows = torch.tensor(list(persons), dtype=torch.int64)
    part = {name: column[rows] for name, column in columns.items()}
    count = len(rows)
    boxes = torch.cat([part["target"].amin(dim=1), part["target"].amax(dim=1)], dim=1)
    poses = Poses(
        part["predicted"], torch.ones(count, 16), part["score"], boxes, part["image_id"], part["person_id"]
    )  # fmt: skip
    batch = {
        "image": torch.zeros(count, 3, 1, 1), "keypoints": part["target"], "visibility": part["visibility"],
        "box": boxes, "area": part["area"], "head_size": part["head_size"], "image_id": part["image_id"],
        "person_id": part["person_id"],
    }  # fmt: skip
    metric.update_batch(poses, batch)


def scores(metric: PoseMetric) -> dict[str, float]:
    """Return what the metric says as plain numbers."""
    return {name: value.item() for name, value in metric.compute().items()}
