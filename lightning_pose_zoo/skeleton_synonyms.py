"""Which keypoints of two skeletons are the same place of the body, whatever they are called.

Names are compared without regard to spelling (``LeftShoulder``, ``left-shoulder``, ``shoulder_L``, ``lsho``) and by
this table of synonyms. Only places that are anatomically the same, or that public trainings over several data sets
merge, stand together:

=============== =================================================================================================
place           what data sets call it
=============== =================================================================================================
crown           ``head_top`` of MPII, LSP, CrowdPose, AI Challenger and PoseTrack, ``top_head``
where head and  ``upper_neck`` of MPII, ``head_bottom`` of PoseTrack, ``neck`` of LSP, CrowdPose and AI Challenger.
neck meet       Annotators put LSP's neck up to a finger lower; trainings on MPII with LSP take them as one (Wei et
                al., "Convolutional Pose Machines", CVPR 2016)
middle between  ``thorax`` of MPII and Human3.6M, ``mid_shoulder``, ``shoulder_center``
the shoulders
middle between  ``pelvis`` of MPII and Human3.6M, ``mid_hip``, ``hip_center``, ``root``
the hips
tip of the nose ``nose``, ``snout`` and ``nose_tip`` of animals
root of the     ``tail_base``, ``tail_root``, ``root_of_tail``
tail
ankle           ``ankle``, and ``foot`` of Human3.6M, whose joint is the ankle
=============== =================================================================================================

Not the same, though they sound alike: ``head`` (its middle in JHMDB, its top in Human3.6M) and ``head_top``; ``neck``
and ``thorax``; ``neck_base`` and either; ``belly``, ``spine`` and ``pelvis``; a paw and a foot. OpenPose's ``neck``
lies between the shoulders: call it ``thorax`` in a skeleton of your own to have it matched with MPII's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lightning_pose_zoo.skeletons import Skeleton

__all__ = ["canonical_name", "matched_keypoints"]

_SYNONYMS = {
    "head_top": "top_head top_of_head headtop crown",
    "upper_neck": "head_bottom bottom_head neck",
    "thorax": "mid_shoulder mid_shoulders shoulder_center center_shoulder",
    "pelvis": "mid_hip mid_hips hip_center center_hip hips_center root",
    "nose": "snout nose_tip tip_of_nose",
    "tail_base": "tail_root root_of_tail base_of_tail tailbase",
}
_CANONICAL = {other: name for name, others in _SYNONYMS.items() for other in others.split()}
_SIDES = {"l": "left", "left": "left", "r": "right", "right": "right"}
# The short names of MPII's, LSP's and FLIC's own code.
_SHORT = {"sho": "shoulder", "elb": "elbow", "wri": "wrist", "kne": "knee", "ank": "ankle", "thrx": "thorax",
          "pelv": "pelvis"}  # fmt: skip
_HUMAN36M_FEET = ("spine", "left_foot", "right_foot")


def canonical_name(name: str) -> str:
    """Return the one spelling of a keypoint's name: lower case, the side first, a synonym's first name.

    Args:
        name: As a data set has it, such as ``LeftShoulder``, ``shoulder_L`` or ``top_head``.

    Returns:
        Such as ``left_shoulder`` or ``head_top``.
    """
    # LeftShoulder, earL and LEar come apart at the change of case.
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    words = [word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word]
    short = re.fullmatch(r"(l|r|left|right)(sho|elb|wri|hip|kne|ank|eye|ear|shoulder|elbow|wrist|knee|ankle)",
                         "".join(words))  # fmt: skip
    if short:
        words = [short[1], short[2]]
    sides = [_SIDES[word] for word in words if word in _SIDES]
    parts = [_SHORT.get(word, word) for word in words if word not in _SIDES]
    if len(sides) != 1 or not parts:
        sides, parts = [], [_SHORT.get(word, word) for word in words]
    part = "_".join(parts)
    return "_".join([*sides, _CANONICAL.get(part, part)])


def _places(skeleton: Skeleton) -> list[str]:
    places = [canonical_name(name) for name in skeleton.names]
    # Elsewhere a foot may be a paw or a toe.
    if set(_HUMAN36M_FEET) <= set(places):
        places = [place.replace("foot", "ankle") for place in places]
    return places


def matched_keypoints(theirs: Skeleton, mine: Skeleton) -> list[int | None]:
    """Find each keypoint of a skeleton in another one.

    The same name goes before the same place, and no keypoint is taken twice.

    Args:
        theirs: The skeleton that is searched.
        mine: The skeleton whose keypoints are looked for.

    Returns:
        For every keypoint of ``mine`` its index in ``theirs``; None where there is none.
    """
    found: list[int | None] = [None] * mine.num_keypoints
    spellings: list[tuple[Sequence[str], Sequence[str]]] = [
        (theirs.names, mine.names),
        (_places(theirs), _places(mine)),
    ]
    for their_names, my_names in spellings:
        for index, name in enumerate(my_names):
            free = [i for i, other in enumerate(their_names) if other == name and i not in found]
            if found[index] is None and free:
                found[index] = free[0]
    return found
