"""The methods of the zoo, each a LightningModule."""

from lightning_pose_zoo.methods.base import PoseModule
from lightning_pose_zoo.methods.hrnet import HRNet
from lightning_pose_zoo.methods.simple_baseline import SimpleBaseline

__all__ = ["HRNet", "PoseModule", "SimpleBaseline"]
