"""Where the persons are: torchvision's detectors, one of your own, or the whole picture as one box."""

from lightning_pose_zoo.detection.boxes import select_boxes
from lightning_pose_zoo.detection.detectors import DetectorLike, PersonDetector, WholePicture, get_detector
from lightning_pose_zoo.detection.running import detect_pictures
from lightning_pose_zoo.detection.torchvision_detector import TorchvisionDetector

__all__ = [
    "DetectorLike",
    "PersonDetector",
    "TorchvisionDetector",
    "WholePicture",
    "detect_pictures",
    "get_detector",
    "select_boxes",
]
