"""Published networks as plain torch modules; usable without Lightning."""

from lightning_pose_zoo.networks.convolutional_pose_machine import (
    ConvolutionalPoseMachineNetwork,
    CPMVariant,
    center_maps,
)
from lightning_pose_zoo.networks.hrnet import HRNetNetwork, HRNetVariant
from lightning_pose_zoo.networks.simple_baseline import SimpleBaselineNetwork
from lightning_pose_zoo.networks.stacked_hourglass import HourglassStem, StackedHourglassNetwork

__all__ = [
    "CPMVariant",
    "ConvolutionalPoseMachineNetwork",
    "HRNetNetwork",
    "HRNetVariant",
    "HourglassStem",
    "SimpleBaselineNetwork",
    "StackedHourglassNetwork",
    "center_maps",
]
