"""Which names mean the same place of the body, and which do not."""

from __future__ import annotations

import pytest

from lightning_pose_zoo.skeleton_synonyms import canonical_name, matched_keypoints
from lightning_pose_zoo.skeletons import SKELETON_NAMES, Skeleton, get_skeleton


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("left_shoulder", "left_shoulder"),
        ("LeftShoulder", "left_shoulder"),
        ("shoulder_L", "left_shoulder"),
        ("Left Shoulder", "left_shoulder"),
        ("lsho", "left_shoulder"),
        ("rank", "right_ankle"),
        ("earR", "right_ear"),
        ("LEar", "left_ear"),
        ("leftear", "left_ear"),
        ("right-big toe", "right_big_toe"),
        ("top_head", "head_top"),
        ("head_bottom", "upper_neck"),
        ("Root of Tail", "tail_base"),
        ("snout", "nose"),
        ("head", "head"),
        ("thorax", "thorax"),
        ("link", "link"),
        ("L", "l"),
    ],
)
def test_one_spelling(name, canonical):
    assert canonical_name(name) == canonical


@pytest.mark.parametrize("name", SKELETON_NAMES)
def test_a_skeleton_matches_itself_and_sides_stay(name):
    skeleton = get_skeleton(name)
    assert matched_keypoints(skeleton, skeleton) == list(range(skeleton.num_keypoints))
    for other in map(get_skeleton, SKELETON_NAMES):
        found = matched_keypoints(other, skeleton)
        taken = [index for index in found if index is not None]
        assert len(taken) == len(set(taken))
        for mine, index in zip(skeleton.names, found, strict=True):
            if index is not None:
                for side in ("left", "right"):
                    assert (side in mine) == (side in other.names[index])


@pytest.mark.parametrize(
    ("theirs", "mine", "new"),
    [
        ("mpii16", "lsp14", set()),
        ("coco17", "crowdpose14", {"head_top", "neck"}),
        ("mpii16", "coco17", {"nose", "left_eye", "right_eye", "left_ear", "right_ear"}),
        ("posetrack17", "mpii16", {"pelvis", "thorax"}),
        ("h36m17", "mpii16", {"upper_neck", "head_top"}),
        ("jhmdb15", "mpii16", {"pelvis", "thorax", "head_top"}),
    ],
)
def test_published_skeletons(theirs, mine, new):
    skeleton = get_skeleton(mine)
    found = matched_keypoints(get_skeleton(theirs), skeleton)
    assert {name for name, index in zip(skeleton.names, found, strict=True) if index is None} == new


def test_the_same_name_goes_before_a_synonym():
    theirs = Skeleton.from_names("theirs", ["head_bottom", "neck", "upper_neck"])
    mine = Skeleton.from_names("mine", ["upper_neck", "neck"])
    assert matched_keypoints(theirs, mine) == [2, 1]
    assert matched_keypoints(mine, theirs) == [None, 1, 0]


def test_a_paw_is_no_ankle():
    animal = Skeleton.from_names("animal", ["nose", "left_foot", "right_foot"])
    assert matched_keypoints(animal, get_skeleton("coco17")) == [0] + [None] * 16
