"""Skeletons: the published facts, every file format, and what is refused."""

from __future__ import annotations

import json

import pytest
import yaml

from lightning_pose_zoo.errors import SkeletonError
from lightning_pose_zoo.skeletons import DEFAULT_SIGMA, SKELETON_NAMES, Skeleton, get_skeleton, mirror_pairs

COCO_SIGMAS = [
    .026, .025, .025, .035, .035, .079, .079, .072, .072, .062, .062, .107, .107, .087, .087, .089, .089,
]  # fmt: skip
CROWDPOSE_SIGMAS = [.079, .079, .072, .072, .062, .062, .107, .107, .087, .087, .089, .089, .079, .079]  # fmt: skip
COUNTS = {"coco17": 17, "mpii16": 16, "lsp14": 14, "flic": 11, "crowdpose14": 14, "aic14": 14, "posetrack17": 17,
          "body25": 25, "jhmdb15": 15, "h36m17": 17, "mpi_inf_3dhp17": 17}  # fmt: skip


def test_built_in_skeletons_have_the_published_numbers():
    assert set(SKELETON_NAMES) == set(COUNTS)
    assert {name: get_skeleton(name).num_keypoints for name in COUNTS} == COUNTS
    assert list(get_skeleton("coco17").sigmas) == COCO_SIGMAS
    assert list(get_skeleton("crowdpose14").sigmas) == CROWDPOSE_SIGMAS
    flic = get_skeleton("flic")
    assert flic.names[:3] == ("left_shoulder", "left_elbow", "left_wrist")
    assert flic.flip_pairs == ((0, 3), (1, 4), (2, 5), (6, 7), (8, 9))
    assert flic.torso == ((3, 6), (0, 7))
    assert flic.upper_body == (0, 1, 2, 3, 4, 5, 8, 9, 10)
    assert list(flic.sigmas) == [.079, .072, .062, .079, .072, .062, .107, .107, .025, .025, .026]  # fmt: skip
    assert get_skeleton("mpii16").flip_pairs == ((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13))


@pytest.mark.parametrize("name", SKELETON_NAMES)
def test_left_and_right_are_pairs_and_limbs_connect_all(name):
    skeleton = get_skeleton(name)
    sided = [part for part in skeleton.names if part.startswith(("left", "right"))]
    assert len(skeleton.flip_pairs) * 2 == len(sided)
    for a, b in skeleton.flip_pairs:
        assert {skeleton.names[a].split("_")[0], skeleton.names[b].split("_")[0]} == {"left", "right"}
        assert skeleton.names[a].split("_")[1:] == skeleton.names[b].split("_")[1:]
    reached = {0}
    for _ in range(skeleton.num_keypoints):
        reached |= {index for limb in skeleton.limbs for index in limb if reached & set(limb)}
    loose = {skeleton.names[i] for i in set(range(skeleton.num_keypoints)) - reached}
    assert loose <= {"left_ear", "right_ear"}
    assert all(
        {skeleton.names[a].split("_")[0], skeleton.names[b].split("_")[0]} == {"left", "right"}
        for a, b in skeleton.torso
    )


@pytest.mark.parametrize("name", SKELETON_NAMES)
def test_round_trip_as_primitives(name):
    skeleton = get_skeleton(name)
    assert get_skeleton(json.loads(json.dumps(skeleton.to_dict()))) == skeleton


def test_names_files_definitions_and_skeletons_are_taken(tmp_path):
    skeleton = get_skeleton("lsp14")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(skeleton.to_dict()))
    assert get_skeleton(str(path)) == skeleton
    assert get_skeleton(skeleton) is skeleton


def test_mmpose_definition(tmp_path):
    path = tmp_path / "bird.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "dataset_name": "bird",
                "keypoint_info": {
                    0: {"name": "beak", "id": 0, "color": [1, 2, 3], "type": "upper", "swap": ""},
                    1: {"name": "wing_a", "id": 1, "color": [4, 5, 6], "type": "upper", "swap": "wing_b"},
                    2: {"name": "wing_b", "id": 2, "color": [7, 8, 9], "type": "lower", "swap": "wing_a"},
                },
                "skeleton_info": {0: {"link": ["beak", "wing_a"], "id": 0, "color": [0, 0, 0]}},
                "sigmas": [0.1, 0.2, 0.3],
                "joint_weights": [1, 1, 1],
            }
        )
    )
    skeleton = get_skeleton(str(path))
    assert skeleton.name == "bird"
    assert skeleton.flip_pairs == ((1, 2),)
    assert skeleton.limbs == ((0, 1),)
    assert skeleton.sigmas == (0.1, 0.2, 0.3)
    assert skeleton.upper_body == (0, 1)
    assert skeleton.colors[2] == (7, 8, 9)


def test_ultralytics_definition():
    skeleton = get_skeleton({"kpt_shape": [4, 3], "flip_idx": [0, 2, 1, 3], "names": {0: "cat"}})
    assert skeleton.flip_permutation == [0, 2, 1, 3]
    assert skeleton.num_keypoints == 4
    with pytest.raises(SkeletonError, match="flip_idx"):
        get_skeleton({"kpt_shape": [4, 3], "flip_idx": [1, 2, 3, 0]})


def test_own_definition_with_names_and_derived_parts():
    skeleton = get_skeleton({"names": ["snout", "leftear", "rightear", "tailbase"], "limbs": [["snout", "tailbase"]]})
    assert skeleton.flip_pairs == ((1, 2),)
    assert skeleton.limbs == ((0, 3),)
    assert skeleton.sigmas == (DEFAULT_SIGMA,) * 4


def test_coco_category():
    skeleton = Skeleton.from_dict(
        {"name": "cat", "keypoints": ["l_eye", "r_eye", "tail"], "skeleton": [[1, 2], [2, 3]]}
    )
    assert skeleton.limbs == ((0, 1), (1, 2))
    assert skeleton.flip_pairs == ((0, 1),)
    coco = get_skeleton("coco17")
    assert Skeleton.from_dict({"name": "person", "keypoints": list(coco.names), "skeleton": []}) is coco


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["snout", "leftear", "rightear", "tailbase"], [("leftear", "rightear")]),
        (
            ["paw1LH_top", "paw2LF_top", "paw3RF_top", "paw4RH_top", "obs_top"],
            [("paw1LH_top", "paw4RH_top"), ("paw2LF_top", "paw3RF_top")],
        ),
        (["earL", "earR", "tail"], [("earL", "earR")]),
        (["eye_left", "eye_right"], [("eye_left", "eye_right")]),
        (["L_ear", "R_ear"], [("L_ear", "R_ear")]),
        (["hip.l", "hip.r"], [("hip.l", "hip.r")]),
        (["liver", "river", "left"], []),
        (["left_eye", "nose"], []),
    ],
)
def test_pairs_from_names(names, pairs):
    assert [(names[a], names[b]) for a, b in mirror_pairs(names)] == pairs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["a", "a", "b"]}, "'a' occurs 2 times"),
        ({"flip_pairs": [[0, 1], [1, 2]]}, "keypoint 1 has more than one partner"),
        ({"flip_pairs": [[0, 0]]}, r"\(0, 0\) is no pair"),
        ({"limbs": [[0, 7]]}, r"limbs: \(0, 7\)"),
        ({"limbs": [["a", "x"]]}, "'x' is not among"),
        ({"sigmas": [0.1, 0.0, 0.1]}, "sigma of 'b' is 0.0"),
        ({"sigmas": [0.1]}, "1 sigmas for 3 keypoints"),
        ({"names": []}, "no keypoints"),
        ({"upper_body": [9]}, "upper_body: 9"),
        ({"nmaes": 1}, "nmaes"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(SkeletonError, match=message):
        get_skeleton({"name": "odd", "names": ["a", "b", "c"], **change})


def test_unknown_names_and_files(tmp_path):
    with pytest.raises(SkeletonError, match=r"unknown skeleton 'coco71'.*Did you mean 'coco17'"):
        get_skeleton("coco71")
    with pytest.raises(SkeletonError, match="does not exist"):
        get_skeleton(str(tmp_path / "none.yaml"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("names: [a, b")
    with pytest.raises(SkeletonError, match=r"broken.yaml"):
        get_skeleton(str(broken))
    with pytest.raises(SkeletonError, match="Did you mean 'left_wrist'"):
        get_skeleton("coco17").index("left_writs")
