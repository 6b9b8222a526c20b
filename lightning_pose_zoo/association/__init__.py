"""Which keypoints belong to one person, and which poses are one person's."""

from lightning_pose_zoo.association.nms import oks_nms, rescored, soft_oks_nms, suppressed
from lightning_pose_zoo.association.oks import oks

__all__ = ["oks", "oks_nms", "rescored", "soft_oks_nms", "suppressed"]
