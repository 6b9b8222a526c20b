"""Data modules and data sets: one format per file."""

from lightning_pose_zoo.data.augmentation import CropAugmentation
from lightning_pose_zoo.data.base import PoseDataModule
from lightning_pose_zoo.data.coco import COCOKeypoints
from lightning_pose_zoo.data.crops import CropDataset, CropSettings, Person
from lightning_pose_zoo.data.crowd_pose import CrowdPose
from lightning_pose_zoo.data.flic import FLIC
from lightning_pose_zoo.data.labeled_frames import LabeledFrames
from lightning_pose_zoo.data.lsp import LSP
from lightning_pose_zoo.data.mpii import MPII
from lightning_pose_zoo.data.synthetic import SyntheticPeople

__all__ = [
    "FLIC",
    "LSP",
    "MPII",
    "COCOKeypoints",
    "CropAugmentation",
    "CropDataset",
    "CropSettings",
    "CrowdPose",
    "LabeledFrames",
    "Person",
    "PoseDataModule",
    "SyntheticPeople",
]
