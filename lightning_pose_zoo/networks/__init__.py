"""Published networks as plain torch modules; usable without Lightning."""

from lightning_pose_zoo.networks.adversarial_posenet import AdversarialPoseNetNetwork, MapCritic
from lightning_pose_zoo.networks.convolutional_pose_machine import (
    ConvolutionalPoseMachineNetwork,
    CPMVariant,
    center_maps,
)
from lightning_pose_zoo.networks.deepcut import DeepCutNetwork, PartFields
from lightning_pose_zoo.networks.deeppose import DeepPoseHead, DeepPoseNetwork
from lightning_pose_zoo.networks.efficient_object_localization import EfficientObjectLocalizationNetwork
from lightning_pose_zoo.networks.hrnet import HRNetNetwork, HRNetVariant
from lightning_pose_zoo.networks.iterative_error_feedback import CorrectionBound, IterativeErrorFeedbackNetwork
from lightning_pose_zoo.networks.openpose import OpenPoseMaps, OpenPoseNetwork, OpenPoseVariant
from lightning_pose_zoo.networks.simple_baseline import SimpleBaselineNetwork
from lightning_pose_zoo.networks.stacked_hourglass import HourglassStem, StackedHourglassNetwork

__all__ = [
    "AdversarialPoseNetNetwork",
    "CPMVariant",
    "ConvolutionalPoseMachineNetwork",
    "CorrectionBound",
    "DeepCutNetwork",
    "DeepPoseHead",
    "DeepPoseNetwork",
    "EfficientObjectLocalizationNetwork",
    "HRNetNetwork",
    "HRNetVariant",
    "HourglassStem",
    "IterativeErrorFeedbackNetwork",
    "MapCritic",
    "OpenPoseMaps",
    "OpenPoseNetwork",
    "OpenPoseVariant",
    "PartFields",
    "SimpleBaselineNetwork",
    "StackedHourglassNetwork",
    "center_maps",
]
