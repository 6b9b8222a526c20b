"""Which keypoints belong to one person, and which poses are one person's."""

from lightning_pose_zoo.association.nms import oks_nms, rescored, soft_oks_nms, suppressed
from lightning_pose_zoo.association.oks import oks
from lightning_pose_zoo.association.paf import GroupedParts, PartGrouping
from lightning_pose_zoo.association.parametric_nms import ParametricNMS, parametric_nms, parametric_suppressed
from lightning_pose_zoo.association.partition import (
    Partition,
    PartitionProblem,
    partition_exactly,
    partition_greedily,
)

__all__ = [
    "GroupedParts",
    "ParametricNMS",
    "PartGrouping",
    "Partition",
    "PartitionProblem",
    "oks",
    "oks_nms",
    "parametric_nms",
    "parametric_suppressed",
    "partition_exactly",
    "partition_greedily",
    "rescored",
    "soft_oks_nms",
    "suppressed",
]
