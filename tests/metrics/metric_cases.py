"""The metrics on a made-up data set, for tests that treat them all alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lightning_pose_zoo.metrics import (
    AUC,
    AUC3D,
    EPE,
    MPJPE,
    NME,
    PCK,
    PCK3D,
    PCP,
    PDJ,
    RMSE,
    ErrorDiagnosis,
    GroundTruth,
    ImplausiblePoses,
    OKSMeanAveragePrecision,
    PCKh,
    PoseMetric,
    RowMetric,
)
from lightning_pose_zoo.metrics.functional import fit_pose_ranges
from lightning_pose_zoo.structures import Poses


def people(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Make ``count`` annotated persons with predictions, about two in a picture; a column per quantity."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(count, 16, 2, generator=generator, dtype=torch.float64) * 200
    size = 10.0 ** (torch.rand(count, 1, 1, generator=generator, dtype=torch.float64) * 2)
    columns = {
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
    columns["target_3d"] = torch.rand(count, 16, 3, generator=generator, dtype=torch.float64) * 1000
    noise = torch.randn(count, 16, 3, generator=generator, dtype=torch.float64) * size * 2
    columns["predicted_3d"] = 1.2 * columns["target_3d"].roll(1, dims=2) + noise - 100  # turned, larger and shifted
    columns["predicted_3d"][::2] = columns["target_3d"][::2] + noise[::2]
    return columns


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


_PLAIN = ("predicted", "target", "visibility")
_SIZED = (*_PLAIN, "head_size")
_3D = ("predicted_3d", "target_3d", "visibility")
ARGUMENTS = {
    "pck": _SIZED, "box": _SIZED, "pixel": _PLAIN, "pckh": _SIZED, "pdj": _PLAIN, "auc": _PLAIN, "auc_mpii": _SIZED,
    "pcp": _PLAIN, "pcp_relaxed": _PLAIN, "epe": _PLAIN, "rmse": _PLAIN, "implausible": _PLAIN, "nme": _SIZED,
    "mpjpe": _3D, "n_mpjpe": _3D, "pa_mpjpe": _3D, "pck3d": _3D, "auc3d": _3D,
}  # fmt: skip
"""The columns that ``update`` of each metric takes; those that are absent take whole images."""

# Of poses that predictions resemble more or less, so that some are implausible and some are not.
KNOWN_POSES = fit_pose_ranges(people(50)["target"], torch.ones(50, 16), "mpii16", coverage=0.9)


def metrics(columns: dict[str, torch.Tensor]) -> dict[str, RowMetric]:
    """Return one of each metric."""
    return {
        "pck": PCK("mpii16", thresholds=(0.2, 0.5)),
        "box": PCK("mpii16", normalize_by="box", average="macro", strict=True),
        "pixel": PCK("mpii16", thresholds=(5, 20), normalize_by="pixel"),
        "pckh": PCKh(),
        "pdj": PDJ("mpii16"),
        "auc": AUC("mpii16"),
        "auc_mpii": AUC("mpii16", 0.5, 51, normalize_by="head", convention="mpii"),
        "pcp": PCP("mpii16"),
        "pcp_relaxed": PCP("mpii16", thresholds=(0.5, 0.2), variant="relaxed"),
        "epe": EPE("mpii16"),
        "rmse": RMSE("mpii16"),
        "nme": NME("mpii16"),
        "implausible": ImplausiblePoses("mpii16", KNOWN_POSES),
        "mpjpe": MPJPE("mpii16"),
        "n_mpjpe": MPJPE("mpii16", alignment="scale", align_on="all"),
        "pa_mpjpe": MPJPE("mpii16", alignment="procrustes"),
        "pck3d": PCK3D("mpii16", thresholds=(150, 50), root="pelvis"),
        "auc3d": AUC3D("mpii16", alignment="procrustes"),
        "ap": OKSMeanAveragePrecision("mpii16"),
        "ap_of_all": OKSMeanAveragePrecision("mpii16", annotations=ground_truth(columns)),
        "diagnosis": ErrorDiagnosis("mpii16"),
        "diagnosis_of_all": ErrorDiagnosis("mpii16", annotations=ground_truth(columns)),
    }


def update(metric: RowMetric, columns: dict[str, torch.Tensor], persons: Sequence[int]) -> None:
    """Give some persons to a metric as one top-down batch; to one of three dimensions directly."""
    rows = torch.tensor(list(persons), dtype=torch.int64)
    part = {name: column[rows] for name, column in columns.items()}
    count = len(rows)
    if not isinstance(metric, PoseMetric):
        metric.update(*(part[name] for name in _3D), ids=part["person_id"])
        return
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


def scores(metric: RowMetric) -> dict[str, float]:
    """Return what the metric says as plain numbers."""
    return {name: value.item() for name, value in metric.compute().items()}
