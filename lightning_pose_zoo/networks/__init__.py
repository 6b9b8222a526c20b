"""Published networks as plain torch modules; usable without Lightning."""

from lightning_pose_zoo.networks.adversarial_posenet import AdversarialPoseNetNetwork, MapCritic
from lightning_pose_zoo.networks.alphapose import AlphaPoseNetwork, Estimator
from lightning_pose_zoo.networks.convolutional_pose_machine import (
    ConvolutionalPoseMachineNetwork,
    CPMVariant,
    center_maps,
)
from lightning_pose_zoo.networks.deepcut import DeepCutNetwork, PartFields
from lightning_pose_zoo.networks.deeppose import DeepPoseHead, DeepPoseNetwork
from lightning_pose_zoo.networks.efficient_object_localization import EfficientObjectLocalizationNetwork
from lightning_pose_zoo.networks.fastpose import FastPoseNetwork
from lightning_pose_zoo.networks.hrnet import HRNetNetwork, HRNetVariant
from lightning_pose_zoo.networks.iterative_error_feedback import CorrectionBound, IterativeErrorFeedbackNetwork
from lightning_pose_zoo.networks.mask_rcnn import MaskRCNNLayout, MaskRCNNNetwork
from lightning_pose_zoo.networks.openpose import OpenPoseMaps, OpenPoseNetwork, OpenPoseVariant
from lightning_pose_zoo.networks.region_heads import HeadSizes, RegionSettings
from lightning_pose_zoo.networks.simple_baseline import SimpleBaselineNetwork
from lightning_pose_zoo.networks.spatial_transformer import SpatialTransformer
from lightning_pose_zoo.networks.stacked_hourglass import HourglassStem, StackedHourglassNetwork

__all__ = [
    "AdversarialPoseNetNetwork",
    "AlphaPoseNetwork",
    "CPMVariant",
    "ConvolutionalPoseMachineNetwork",
    "CorrectionBound",
    "DeepCutNetwork",
    "DeepPoseHead",
    "DeepPoseNetwork",
    "EfficientObjectLocalizationNetwork",
    "Estimator",
    "FastPoseNetwork",
    "HRNetNetwork",
    "HRNetVariant",
    "HeadSizes",
    "HourglassStem",
    "IterativeErrorFeedbackNetwork",
    "MapCritic",
    "MaskRCNNLayout",
    "MaskRCNNNetwork",
    "OpenPoseMaps",
    "OpenPoseNetwork",
    "OpenPoseVariant",
    "PartFields",
    "RegionSettings",
    "SimpleBaselineNetwork",
    "SpatialTransformer",
    "StackedHourglassNetwork",
    "center_maps",
]
