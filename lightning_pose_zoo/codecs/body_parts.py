"""The parts of a body that are found in whole pictures, and the limbs that join them to persons.

A data set's keypoints are not enough to put persons together: COCO has no neck, and where a face is turned away nothing
joins what is left of a head. OpenPose adds the neck, the middle of both shoulders, and joins the parts by limbs of its
own. Outside of a method nobody sees these parts: ``from_keypoints`` makes them, ``to_keypoints`` takes them away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lightning_pose_zoo.skeletons import Skeleton

__all__ = ["BodyParts", "body_parts"]

_NECKS = ("neck", "upper_neck", "thorax", "neck_base", "head_bottom")
_SHOULDERS = ("left_shoulder", "right_shoulder")
_HUNG_ON_THE_NECK = (*_SHOULDERS, "left_hip", "right_hip", "nose", "head_top")

# Parts and limbs in the order of the channels of the released networks: limbs as parent-child, by index.
_COCO18 = (
    "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee "
    "right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear",
    "1-8 8-9 9-10 1-11 11-12 12-13 1-2 2-3 3-4 2-16 1-5 5-6 6-7 5-17 1-0 0-14 0-15 14-16 15-17",
)
_BODY25 = (
    "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist pelvis right_hip right_knee "
    "right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear left_big_toe left_small_toe "
    "left_heel right_big_toe right_small_toe right_heel",
    "1-8 9-10 10-11 8-9 8-12 12-13 13-14 1-2 2-3 3-4 2-17 1-5 5-6 6-7 5-18 1-0 0-15 0-16 15-17 16-18 14-19 19-20 "
    "14-21 11-22 22-23 11-24",
)


@dataclass(frozen=True)
class BodyParts:
    """J parts and C limbs, made out of K keypoints.

    Attributes:
        skeleton: The parts: names, limbs as pairs of parts, mirror images.
        order: For each of the K keypoints the part that it is.
        neck: The part that is the middle of two others; -1 where no part is computed.
        shoulders: The two keypoints whose middle it is.
    """

    skeleton: Skeleton
    order: tuple[int, ...]
    neck: int = -1
    shoulders: tuple[int, int] = (0, 0)

    def from_keypoints(self, keypoints: Tensor, visibility: Tensor) -> tuple[Tensor, Tensor]:
        """Make parts of keypoints.

        Args:
            keypoints: (N, K, 2), pixels.
            visibility: (N, K); 0 where not labelled.

        Returns:
            Parts (N, J, 2) and their visibility (N, J). The neck is there where both shoulders are labelled, and
            hidden where one of them is.
        """
        count = self.skeleton.num_keypoints
        parts = keypoints.new_zeros(len(keypoints), count, 2)
        seen = visibility.new_zeros(len(keypoints), count)
        parts[:, list(self.order)], seen[:, list(self.order)] = keypoints, visibility
        if self.neck >= 0:
            parts[:, self.neck] = keypoints[:, list(self.shoulders)].mean(dim=1)
            seen[:, self.neck] = visibility[:, list(self.shoulders)].amin(dim=1)
        return parts, seen

    def to_keypoints(self, parts: Tensor) -> Tensor:
        """Return of anything by part (P, J, ...) what belongs to the keypoints, (P, K, ...)."""
        return parts[:, list(self.order)]

    @property
    def mirrored_limbs(self) -> tuple[list[int], list[float]]:
        """For each limb its mirror image, and -1 where that one is counted from the other end, else 1."""
        mirror = self.skeleton.flip_permutation
        place = {limb: index for index, limb in enumerate(self.skeleton.limbs)}
        limbs, ways = [], []
        for a, b in self.skeleton.limbs:
            forward = (mirror[a], mirror[b])
            limbs.append(place.get(forward, place.get(forward[::-1], -1)))
            ways.append(1.0 if forward in place else -1.0)
        return limbs, ways


def body_parts(skeleton: Skeleton) -> BodyParts:
    """Choose parts and limbs for a skeleton.

    COCO's 17 keypoints become the 18 parts and 19 limbs of OpenPose, 25 keypoints of its second version the 25 and 26.
    Any other skeleton keeps its keypoints in their order and its limbs; a neck is added behind them where there are
    shoulders and none. Limbs are added until each has its mirror image and all parts hang together: what stands alone
    is joined to the neck, or where there is none, to the first keypoint.
    """
    for name, (names, limbs) in {"coco18": _COCO18, "body25": _BODY25}.items():
        parts = names.split()
        if set(skeleton.names) | {"neck"} == set(parts):
            pairs = [(int(a), int(b)) for a, _, b in (limb.partition("-") for limb in limbs.split())]
            return _parts_of(skeleton, name, parts, pairs)
    parts = list(skeleton.names)
    if set(_SHOULDERS) <= set(parts) and not set(_NECKS) & set(parts):
        parts.append("neck")
    limbs_of_data = list(skeleton.limbs)
    if len(parts) > skeleton.num_keypoints:
        limbs_of_data += [(len(parts) - 1, parts.index(name)) for name in _HUNG_ON_THE_NECK if name in parts]
    return _parts_of(skeleton, f"{skeleton.name}_parts", parts, limbs_of_data)


def _parts_of(skeleton: Skeleton, name: str, names: Sequence[str], limbs: Sequence[tuple[int, int]]) -> BodyParts:
    """Compose parts out of names and limbs, adding the limbs that are missing."""
    named = [skeleton.names.index(part) if part in skeleton.names else -1 for part in names]
    order = tuple(names.index(part) for part in skeleton.names)
    flips = tuple((order[a], order[b]) for a, b in skeleton.flip_pairs)
    colors = [skeleton.colors[index] if index >= 0 else (230, 60, 180) for index in named]
    parts = Skeleton(name, tuple(names), flips, colors=tuple(colors))
    center = next((index for index, part in enumerate(names) if part in _NECKS), 0)
    complete = _mirrored(_unique(limbs), parts.flip_permutation)
    complete += [(center, loose) for loose in _loose_ends(complete, len(names), center)]
    parts = replace(parts, limbs=tuple(_mirrored(complete, parts.flip_permutation)))
    if "neck" in skeleton.names or "neck" not in names:
        return BodyParts(parts, order)
    left, right = (skeleton.names.index(shoulder) for shoulder in _SHOULDERS)
    return BodyParts(parts, order, names.index("neck"), (left, right))


def _unique(limbs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Drop limbs that are there already, from either end."""
    kept: list[tuple[int, int]] = []
    for a, b in limbs:
        if (a, b) not in kept and (b, a) not in kept:
            kept.append((a, b))
    return kept


def _mirrored(limbs: Sequence[tuple[int, int]], mirror: Sequence[int]) -> list[tuple[int, int]]:
    """Add the mirror image of every limb that lacks it."""
    return _unique([*limbs, *((mirror[a], mirror[b]) for a, b in limbs)])


def _loose_ends(limbs: Sequence[tuple[int, int]], count: int, center: int) -> list[int]:
    """Return one part of each piece of a body that no limb joins to the center, the first one of each."""
    piece = list(range(count))
    for a, b in limbs:
        old, new = piece[b], piece[a]
        piece = [new if value == old else value for value in piece]
    first = {value: piece.index(value) for value in piece if value != piece[center]}
    return sorted(first.values())
