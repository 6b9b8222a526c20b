"""The metrics as pure functions, which the classes in ``lightning_pose_zoo.metrics`` call."""

from lightning_pose_zoo.association.oks import oks
from lightning_pose_zoo.metrics.functional.average_precision import average_precision
from lightning_pose_zoo.metrics.functional.clear_mot import clear_mot
from lightning_pose_zoo.metrics.functional.error_diagnosis import Diagnosis, diagnose
from lightning_pose_zoo.metrics.functional.ground_truth import GroundTruth
from lightning_pose_zoo.metrics.functional.keypoint_error import epe, keypoint_errors, nme, rmse
from lightning_pose_zoo.metrics.functional.pck import auc, pck, pckh, pdj
from lightning_pose_zoo.metrics.functional.pcp import pcp
from lightning_pose_zoo.metrics.functional.plausibility import PoseRanges, fit_pose_ranges, implausible_poses
from lightning_pose_zoo.metrics.functional.pose_3d import align_poses, auc_3d, mpjpe, pck_3d
from lightning_pose_zoo.metrics.functional.pose_track import TrackedFrames, pose_track_ap

__all__ = [
    "Diagnosis",
    "GroundTruth",
    "PoseRanges",
    "TrackedFrames",
    "align_poses",
    "auc",
    "auc_3d",
    "average_precision",
    "clear_mot",
    "diagnose",
    "epe",
    "fit_pose_ranges",
    "implausible_poses",
    "keypoint_errors",
    "mpjpe",
    "nme",
    "oks",
    "pck",
    "pck_3d",
    "pckh",
    "pcp",
    "pdj",
    "pose_track_ap",
    "rmse",
]
