"""What is exported of methods that find people in whole pictures: the network, and candidates of fixed number.

How many people there are is no shape that a graph can have. So a graph ends with the best candidates of each part and a
table of how well each two go together; ``association.exported`` makes persons of them outside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lightning_pose_zoo.association.candidates import top_candidates
from lightning_pose_zoo.association.line_integrals import limb_scores
from lightning_pose_zoo.association.part_pairs import pair_costs

if TYPE_CHECKING:
    from lightning_pose_zoo.methods.deepcut import DeepCut
    from lightning_pose_zoo.methods.openpose import OpenPose

__all__ = ["DeepCutGraph", "OpenPoseGraph", "PictureGraph"]

_MOST = 32


class PictureGraph(nn.Module, ABC):
    """A method as it is exported.

    Attributes:
        outputs: Names of what it gives: maps first, then ``places`` (B, J, M, 2) in pixels of the picture, ``scores``
            (B, J, M), 0 where there is no candidate, and the table of pairs.
        maps: How many of them are maps.
    """

    outputs: tuple[str, ...]
    maps: int

    @abstractmethod
    def decoded(self, *maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return places, scores and the table of pairs that maps show."""

    @abstractmethod
    def association(self) -> dict[str, Any]:
        """Say what somebody needs to put persons together, in plain values."""


class OpenPoseGraph(PictureGraph):
    """OpenPose with the best 32 candidates of each part, and the scores of all limbs between them.

    Args:
        method: An OpenPose.
    """

    outputs = ("part_maps", "fields", "places", "scores", "links")
    maps = 2

    def __init__(self, method: OpenPose) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map (B, 3, H, W) uint8 pictures to maps (B, J + 1, h, w), fields (B, 2 C, h, w) and what they show."""
        maps = self.method(images)
        return (*maps, *self.decoded(*maps))

    def decoded(self, *maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return places (B, J, M, 2), scores (B, J, M) and limbs' scores (B, C, M, M)."""
        method, (heatmaps, fields) = self.method, maps
        grouping, codec = method.grouping, method.codec
        cells, scores = top_candidates(heatmaps[:, :-1], grouping.threshold, codec.sigma, grouping.hidden, _MOST)
        links = limb_scores(fields, cells, scores, method.limbs, codec.field_shift)
        return codec.to_pixels(cells) * (scores > 0)[..., None], scores, links

    def association(self) -> dict[str, Any]:
        """Return the parts, the limbs, which part each keypoint is, and how many parts a person has at least."""
        parts = self.method.parts
        return {
            "parts": list(parts.skeleton.names),
            "limbs": [list(limb) for limb in self.method.limbs],
            "keypoint_parts": list(parts.order),
            "min_parts": self.method.grouping.min_parts,
        }


class DeepCutGraph(PictureGraph):
    """DeepCut with the best candidates of each part, as many as its codec takes, and the costs of all pairs.

    Args:
        method: A DeepCut.
    """

    outputs = ("part_maps", "offsets", "toward", "places", "scores", "costs")
    maps = 3

    def __init__(self, method: DeepCut) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map (B, 3, H, W) uint8 pictures to the fields of ``DeepCut.forward`` and what they show."""
        maps = self.method(images)
        return (*maps, *self.decoded(*maps))

    def decoded(self, *maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return places (B, K, M, 2), scores (B, K, M) and costs (B, K M, K M)."""
        method = self.method
        found = method.codec.top_candidates(*maps)
        pairs = method.network.pairs
        costs = pair_costs(found, pairs.of_one_end, method.codec.stride, method.same_part_distance)
        return found.positions * (found.scores > 0)[..., None], found.scores, costs

    def association(self) -> dict[str, Any]:
        """Return whether there is one person in each picture, and the seconds for a picture's programme."""
        return {"one_person": self.method.single_person, "time_limit": self.method.time_limit}
