"""What is told of a pair of COCO files beside average precision: counts, PCK and the state of each keypoint."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_pose_zoo.metrics.coco_reading import CocoFiles
from lightning_pose_zoo.metrics.functional.average_precision import MOST_PER_IMAGE
from lightning_pose_zoo.metrics.functional.error_diagnosis import Diagnosis, diagnose
from lightning_pose_zoo.metrics.functional.image_pairs import best_partners
from lightning_pose_zoo.metrics.functional.keypoint_error import keypoint_errors
from lightning_pose_zoo.metrics.functional.pck import fraction_within, pair_distance

__all__ = ["count_entries", "diagnose_categories", "score_keypoints"]

_PCK_THRESHOLDS = (0.1, 0.2, 0.5)


def count_entries(files: CocoFiles) -> dict[str, int]:
    """Count images, persons, detections, and what is left out."""
    truths, found = list(files.truths.values()), files.predictions
    where = np.stack([found.category_ids, found.image_ids])
    _, of_each_image = np.unique(where, axis=1, return_counts=True)
    dropped = int(np.maximum(of_each_image - MOST_PER_IMAGE, 0).sum())
    return {
        "images": len(truths[0].image_ids) if truths else 0,
        "persons": sum(int((~truth.ignored).sum()) for truth in truths),
        "ignored": sum(int((truth.ignored & ~truth.is_crowd).sum()) for truth in truths),
        "crowds": sum(int(truth.is_crowd.sum()) for truth in truths),
        "detections": len(found.scores),
        "images_with_detections": len(np.unique(found.image_ids)),
        "most_per_image": MOST_PER_IMAGE,
        "dropped": dropped,
    }


def diagnose_categories(files: CocoFiles) -> dict[int, Diagnosis]:
    """Diagnose each category in which somebody counts."""
    diagnoses = {}
    for category, truth in files.truths.items():
        if not truth.ignored.all():
            found = files.predictions.of_category(category)
            diagnoses[category] = diagnose(truth, found.image_ids, found.keypoints, found.scores, files.skeleton)
    return diagnoses


def score_keypoints(files: CocoFiles, diagnoses: list[Diagnosis]) -> dict[str, Any]:
    """Return PCK and the state of each keypoint, in 0..1.

    Detections and persons of an image are joined one to one, the pair of the highest OKS first; somebody without a
    detection has every keypoint wrong.
    """
    skeleton = files.skeleton
    normalizer = "torso" if skeleton.torso else "box"
    errors = torch.cat([_errors(files, category, normalizer) for category in files.truths])
    rows: dict[str, dict[str, float]] = {name: {} for name in (*skeleton.names, "all")}
    for name, labelled in zip(skeleton.names, (~errors.isnan()).sum(dim=0).tolist(), strict=True):
        rows[name]["labelled"] = labelled
    rows["all"]["labelled"] = int((~errors.isnan()).sum())
    for threshold in _PCK_THRESHOLDS:
        single = fraction_within(errors, threshold, average=None).tolist()
        for name, value in zip(rows, [*single, float(fraction_within(errors, threshold))], strict=True):
            rows[name][f"PCK@{threshold:g}"] = value
    for kind in diagnoses[0].keypoints:
        of_kind = np.sum([diagnosis.keypoints[kind] for diagnosis in diagnoses], axis=0)
        of_all = np.sum([counts for diagnosis in diagnoses for counts in diagnosis.keypoints.values()], axis=0)
        for n, name in enumerate(skeleton.names):
            rows[name][kind] = _ratio(of_kind[n], of_all[n])
        rows["all"][kind] = _ratio(of_kind.sum(), of_all.sum())
    return {"normalizer": normalizer, "keypoints": rows}


def _ratio(part: np.integer[Any], whole: np.integer[Any]) -> float:
    return float(part / whole) if whole else math.nan


def _errors(files: CocoFiles, category: int, normalizer: str) -> Tensor:
    """Return how far the keypoints of each person who counts are off, in units of the normaliser, (n, K)."""
    truth, found = files.truths[category], files.predictions.of_category(category)
    person = best_partners(truth, found.image_ids, found.keypoints, np.array(files.skeleton.sigmas))
    matched = np.full(truth.keypoints.shape, np.inf)
    matched[person[person >= 0]] = found.keypoints[person >= 0]
    counting = ~truth.ignored
    target, visibility = torch.from_numpy(truth.keypoints[counting]), torch.from_numpy(truth.visibility[counting])
    if normalizer == "torso":
        sizes = pair_distance(target, visibility, files.skeleton.torso)
    else:
        sizes = torch.from_numpy((truth.boxes[counting, 2:] - truth.boxes[counting, :2]).max(axis=1))
    return keypoint_errors(torch.from_numpy(matched[counting]), target, visibility, sizes)
