"""Published networks as plain torch modules; usable without Lightning."""

from lightning_pose_zoo.networks.hrnet import HRNetNetwork, HRNetVariant
from lightning_pose_zoo.networks.simple_baseline import SimpleBaselineNetwork

__all__ = ["HRNetNetwork", "HRNetVariant", "SimpleBaselineNetwork"]
