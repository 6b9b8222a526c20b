"""The methods of the zoo, each a LightningModule."""

from lightning_pose_zoo.methods.base import PoseModule
from lightning_pose_zoo.methods.convolutional_pose_machine import ConvolutionalPoseMachine
from lightning_pose_zoo.methods.hrnet import HRNet
from lightning_pose_zoo.methods.simple_baseline import SimpleBaseline
from lightning_pose_zoo.methods.stacked_hourglass import StackedHourglass

__all__ = ["ConvolutionalPoseMachine", "HRNet", "PoseModule", "SimpleBaseline", "StackedHourglass"]
