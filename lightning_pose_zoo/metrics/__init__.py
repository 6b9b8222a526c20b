"""Keypoint metrics for torchmetrics: exact on any number of processes, and usable without the rest of the package."""

from lightning_pose_zoo.metrics.average_precision import OKSMeanAveragePrecision
from lightning_pose_zoo.metrics.coco_files import evaluate_coco
from lightning_pose_zoo.metrics.functional.average_precision import GroundTruth
from lightning_pose_zoo.metrics.keypoint_error import EPE
from lightning_pose_zoo.metrics.pck import PCK, PCKh
from lightning_pose_zoo.metrics.rows import PoseMetric, RowMetric

__all__ = [
    "EPE",
    "PCK",
    "GroundTruth",
    "OKSMeanAveragePrecision",
    "PCKh",
    "PoseMetric",
    "RowMetric",
    "evaluate_coco",
]
