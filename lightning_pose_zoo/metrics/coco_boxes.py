"""Scoring the boxes of a person detector, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

from lightning_pose_zoo.errors import DatasetError, MetricError
from lightning_pose_zoo.metrics.coco_reading import read_json

__all__ = ["evaluate_coco_boxes"]

_NAMES = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L")


def evaluate_coco_boxes(annotations: str | os.PathLike[str], results: str | os.PathLike[str]) -> dict[str, float]:
    """Score a file of detected boxes, from which top-down poses start, by COCO's detection protocol.

    Source: cocodataset.org/#detection-eval; the numbers are pycocotools' own, with ``iouType="bbox"``.

    Args:
        annotations: JSON with ``images``, ``annotations`` and ``categories``.
        results: JSON list of ``image_id``, ``category_id``, ``bbox`` (x, y, width, height) and ``score``.

    Returns:
        AP, AP50, AP75, AP_S, AP_M, AP_L, AR1, AR10, AR100, AR_S, AR_M and AR_L in 0..1, means over all categories; -1
        where nothing of that size is annotated. 0 for all that is annotated where nothing was detected.

    Raises:
        DatasetError: Where the annotations cannot be read.
        MetricError: Where the results cannot be read, or are of other images.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth_path, results_path = Path(annotations), Path(results)
    content, rows = read_json(truth_path, DatasetError), read_json(results_path, MetricError)
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        raise DatasetError(f"'{truth_path}' is no COCO annotation file: it needs images, annotations and categories.")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "bbox" in row for row in rows):
        raise MetricError(f"'{results_path}' is no file of detections: it needs a list of objects with a 'bbox'.")
    unknown = {row.get("image_id") for row in rows} - {image["id"] for image in content["images"]}
    if unknown:
        raise MetricError(
            f"'{results_path}': {len(unknown)} images are not in the annotations, such as "
            f"{sorted(map(str, unknown))[:5]}."
        )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        found = truth.loadRes(rows) if rows else COCO()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(_NAMES, evaluation.stats.tolist(), strict=True))
