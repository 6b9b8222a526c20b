"""Keypoint metrics for torchmetrics: exact on any number of processes, and usable without the rest of the package."""

from lightning_pose_zoo.metrics.auc import AUC
from lightning_pose_zoo.metrics.average_precision import OKSMeanAveragePrecision
from lightning_pose_zoo.metrics.coco_boxes import evaluate_coco_boxes
from lightning_pose_zoo.metrics.coco_files import evaluate_coco
from lightning_pose_zoo.metrics.error_diagnosis import ErrorDiagnosis
from lightning_pose_zoo.metrics.functional.ground_truth import GroundTruth
from lightning_pose_zoo.metrics.functional.plausibility import PoseRanges
from lightning_pose_zoo.metrics.given_persons import GivenPersons
from lightning_pose_zoo.metrics.keypoint_error import EPE, NME, RMSE
from lightning_pose_zoo.metrics.multi_person import PCKhMeanAveragePrecision
from lightning_pose_zoo.metrics.pck import PCK, PDJ, PCKh
from lightning_pose_zoo.metrics.pcp import PCP
from lightning_pose_zoo.metrics.plausibility import ImplausiblePoses
from lightning_pose_zoo.metrics.pose_3d import AUC3D, MPJPE, PCK3D
from lightning_pose_zoo.metrics.pose_nms import ParametricNMSAveragePrecision, fit_parametric_nms
from lightning_pose_zoo.metrics.pose_track import MOTA, PoseTrackAP
from lightning_pose_zoo.metrics.pose_track_files import evaluate_posetrack
from lightning_pose_zoo.metrics.rows import PoseMetric, RowMetric

__all__ = [
    "AUC",
    "AUC3D",
    "EPE",
    "MOTA",
    "MPJPE",
    "NME",
    "PCK",
    "PCK3D",
    "PCP",
    "PDJ",
    "RMSE",
    "ErrorDiagnosis",
    "GivenPersons",
    "GroundTruth",
    "ImplausiblePoses",
    "OKSMeanAveragePrecision",
    "PCKh",
    "PCKhMeanAveragePrecision",
    "ParametricNMSAveragePrecision",
    "PoseMetric",
    "PoseRanges",
    "PoseTrackAP",
    "RowMetric",
    "evaluate_coco",
    "evaluate_coco_boxes",
    "evaluate_posetrack",
    "fit_parametric_nms",
]
