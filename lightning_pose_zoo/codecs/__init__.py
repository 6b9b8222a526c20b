"""Codecs: keypoints to what a network is trained on, and a network's output back to keypoints."""

from lightning_pose_zoo.codecs.heatmap import HeatmapCodec, HeatmapTargets, occlusion_targets
from lightning_pose_zoo.codecs.integral import IntegralCodec, IntegralTargets
from lightning_pose_zoo.codecs.paf import PartAffinityCodec, PartAffinityTargets
from lightning_pose_zoo.codecs.part_fields import PartCandidates, PartFieldCodec, PartFieldTargets
from lightning_pose_zoo.codecs.region_heatmap import RegionHeatmapCodec, RegionTargets
from lightning_pose_zoo.codecs.regression import RegressionCodec, RegressionTargets

__all__ = [
    "HeatmapCodec",
    "HeatmapTargets",
    "IntegralCodec",
    "IntegralTargets",
    "PartAffinityCodec",
    "PartAffinityTargets",
    "PartCandidates",
    "PartFieldCodec",
    "PartFieldTargets",
    "RegionHeatmapCodec",
    "RegionTargets",
    "RegressionCodec",
    "RegressionTargets",
    "occlusion_targets",
]
