"""Codecs: keypoints to what a network is trained on, and a network's output back to keypoints."""

from lightning_pose_zoo.codecs.heatmap import HeatmapCodec, HeatmapTargets

__all__ = ["HeatmapCodec", "HeatmapTargets"]
