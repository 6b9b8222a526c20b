"""Which keypoints belong to one person."""

from lightning_pose_zoo.association.oks import oks

__all__ = ["oks"]
