"""The methods of the zoo, each a LightningModule."""

from lightning_pose_zoo.methods.adversarial_posenet import AdversarialPoseNet
from lightning_pose_zoo.methods.alphapose import AlphaPose
from lightning_pose_zoo.methods.base import PoseModule
from lightning_pose_zoo.methods.convolutional_pose_machine import ConvolutionalPoseMachine
from lightning_pose_zoo.methods.critics import Critics
from lightning_pose_zoo.methods.deepcut import DeepCut
from lightning_pose_zoo.methods.deeppose import DeepPose
from lightning_pose_zoo.methods.efficient_object_localization import EfficientObjectLocalization
from lightning_pose_zoo.methods.hrnet import HRNet
from lightning_pose_zoo.methods.iterative_error_feedback import IterativeErrorFeedback
from lightning_pose_zoo.methods.mask_rcnn import MaskRCNN
from lightning_pose_zoo.methods.openpose import OpenPose
from lightning_pose_zoo.methods.simple_baseline import SimpleBaseline
from lightning_pose_zoo.methods.stacked_hourglass import StackedHourglass

__all__ = [
    "AdversarialPoseNet",
    "AlphaPose",
    "ConvolutionalPoseMachine",
    "Critics",
    "DeepCut",
    "DeepPose",
    "EfficientObjectLocalization",
    "HRNet",
    "IterativeErrorFeedback",
    "MaskRCNN",
    "OpenPose",
    "PoseModule",
    "SimpleBaseline",
    "StackedHourglass",
]
