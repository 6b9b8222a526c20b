"""Data modules and data sets: one format per file."""

from lightning_pose_zoo.data.augmentation import Augmentation, CropAugmentation, PictureAugmentation
from lightning_pose_zoo.data.base import PoseDataModule
from lightning_pose_zoo.data.coco import COCOKeypoints
from lightning_pose_zoo.data.crops import CropDataset, CropSettings, Person, PoseDataset
from lightning_pose_zoo.data.crowd_pose import CrowdPose
from lightning_pose_zoo.data.flic import FLIC
from lightning_pose_zoo.data.labeled_frames import LabeledFrames
from lightning_pose_zoo.data.lsp import LSP
from lightning_pose_zoo.data.mpii import MPII
from lightning_pose_zoo.data.proposals import BoxOffsets, PoseGuidedProposals
from lightning_pose_zoo.data.synthetic import SyntheticPeople
from lightning_pose_zoo.data.whole_pictures import PictureDataset, WholePicture

__all__ = [
    "FLIC",
    "LSP",
    "MPII",
    "Augmentation",
    "BoxOffsets",
    "COCOKeypoints",
    "CropAugmentation",
    "CropDataset",
    "CropSettings",
    "CrowdPose",
    "LabeledFrames",
    "Person",
    "PictureAugmentation",
    "PictureDataset",
    "PoseDataModule",
    "PoseDataset",
    "PoseGuidedProposals",
    "SyntheticPeople",
    "WholePicture",
]
