"""Scoring a file of predictions against a file of annotations, both in COCO's format, without pycocotools."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.coco_reading import CocoFiles, read_coco_files, read_coco_skeleton
from lightning_pose_zoo.metrics.functional.average_precision import (
    average_precision_by_crowding,
    precision_and_recall,
    summarize,
)
from lightning_pose_zoo.skeletons import SkeletonLike

__all__ = ["Backend", "evaluate_coco", "score_coco"]

Backend = Literal["numpy", "hotcoco"]
"""``numpy``: ours; ``hotcoco``: the native library of that name, which has to be installed."""


def evaluate_coco(
    annotations: str | os.PathLike[str],
    results: str | os.PathLike[str],
    skeleton: SkeletonLike | None = None,
    backend: Backend = "numpy",
) -> dict[str, float]:
    """Score a results file by COCO's keypoint protocol.

    The numbers equal those of pycocotools' ``COCOeval`` with ``iouType="keypoints"``; several categories are averaged
    as there. Unlike there, a damaged file is refused instead of scored, an annotation id of 0 counts, and no results
    score 0. As in pycocotools, the area of a prediction (it matters for AP_M and AP_L only) is that of ``bbox`` where
    the first result has one, else that of the box around its keypoints.

    Args:
        annotations: JSON with ``images``, ``annotations`` and ``categories``.
        results: JSON list of ``image_id``, ``category_id``, ``keypoints`` (x, y and score, K times) and ``score``.
        skeleton: Whose sigmas count; None: by the names of the category's keypoints.
        backend: ``numpy``, or ``hotcoco``, which is quicker, gives the ten numbers only, and where a file is damaged
            says less about where.

    Returns:
        AP, AP50, AP75, AP_M, AP_L, AR, AR50, AR75, AR_M and AR_L in 0..1; -1, as in pycocotools, where no person of
        that size is annotated. Where the images have CrowdPose's ``crowdIndex``, also AP_easy, AP_medium and AP_hard.

    Raises:
        DatasetError: Where the annotations cannot be read or contradict themselves; names the first ids.
        MetricError: Where the results cannot be read, hold NaN, or do not belong to the annotations; names the first
            rows. Or where the backend is unknown or not installed.
        SkeletonError: Where the skeleton is unknown.
    """
    if backend == "hotcoco":
        from lightning_pose_zoo.metrics.hotcoco_backend import score_files

        return score_files(Path(annotations), Path(results), read_coco_skeleton(annotations, skeleton).sigmas)
    if backend != "numpy":
        raise MetricError(f"backend is '{backend}'; there are numpy and hotcoco.")
    return score_coco(read_coco_files(annotations, results, skeleton))


def score_coco(files: CocoFiles) -> dict[str, float]:
    """Score files that are read already; numbers as ``evaluate_coco``."""
    curves, by_crowding = [], dict[str, float]()
    for category, truth in files.truths.items():
        found = files.predictions.of_category(category)
        scored = (found.image_ids, found.keypoints, found.scores, files.skeleton.sigmas, found.areas)
        curves.append(precision_and_recall(truth, *scored))
        if not truth.ignored.all():  # CrowdPose has one category, so nothing is averaged here
            by_crowding |= average_precision_by_crowding(truth, *scored)
    if not curves:  # nobody is annotated, and no category is listed
        return summarize(np.full((1, 3, 10, 101), -1.0), np.full((1, 3, 10), -1.0))
    precision, recall = (np.stack(parts) for parts in zip(*curves, strict=True))
    return summarize(precision, recall) | by_crowding
