"""The metrics as pure functions, which the classes in ``lightning_pose_zoo.metrics`` call."""

from lightning_pose_zoo.association.oks import oks
from lightning_pose_zoo.metrics.functional.average_precision import GroundTruth, average_precision
from lightning_pose_zoo.metrics.functional.keypoint_error import epe, keypoint_errors
from lightning_pose_zoo.metrics.functional.pck import pck, pckh

__all__ = ["GroundTruth", "average_precision", "epe", "keypoint_errors", "oks", "pck", "pckh"]
