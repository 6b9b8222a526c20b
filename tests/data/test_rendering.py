"""The renderer of synthetic people: what its annotations say is what its pictures show."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lightning_pose_zoo.data.rendering import PeopleRenderer, Scene
from lightning_pose_zoo.data.rendering.body import (
    JOINT_LIMITS,
    POINTS,
    Body,
    Build,
    PoseAngles,
    sample_build,
    sample_pose,
)
from lightning_pose_zoo.data.rendering.drawing import BINS, Camera, Light, Solids, draw_solids
from lightning_pose_zoo.data.rendering.scene import locate, view_rotation
from lightning_pose_zoo.data.rendering.wardrobe import dress, sample_outfit
from lightning_pose_zoo.errors import SkeletonError
from lightning_pose_zoo.skeletons import SKELETON_NAMES, Skeleton, get_skeleton

COCO = get_skeleton("coco17")
LIGHT = Light(np.array([0.0, 0.0, -1.0]), 0.5, 0.5)
STANDING = PoseAngles(np.zeros(8), np.array([[0.0, 12, 0, 10]] * 2), np.array([[0.0, 3, 5, 2, 0]] * 2))


def draw_body(angles: PoseAngles = STANDING, turn: float = 0.0) -> tuple[dict[str, np.ndarray], dict[str, bool]]:
    """Draw one person and return where every point is and whether the person itself leaves it uncovered."""
    body = Body.pose(Build(), angles)
    camera = Camera(view_rotation(turn, 0, 0), 200.0, 4.0, np.array([128.0, 128.0]))
    image = np.zeros((256, 256, 3), dtype=np.uint8)
    layer = draw_solids(image, dress(body, sample_outfit(np.random.default_rng(0)), camera), LIGHT)
    pixels, inside, uncovered = locate(body, camera, np.arange(len(POINTS)), layer.depth)
    assert inside.all()
    return dict(zip(POINTS, pixels, strict=True)), dict(zip(POINTS, uncovered.tolist(), strict=True))


def angle_at(first: np.ndarray, middle: np.ndarray, last: np.ndarray) -> float:
    """Degrees by which the chain of three points is bent at the middle one; 0 is straight."""
    before, after = middle - first, last - middle
    return float(np.degrees(np.arccos(np.clip(before @ after / np.linalg.norm(before) / np.linalg.norm(after), -1, 1))))


def at_pixel(picture: np.ndarray, keypoint: np.ndarray) -> int:
    column, row = np.round(keypoint).astype(int)
    return int(picture[row, column])


def assert_same(one: Scene, other: Scene) -> None:
    for name in ("image", "keypoints", "visibility", "boxes", "areas", "head_sizes", "owners"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_pictures_follow_from_the_seed_alone():
    settings = {"people": (1, 3), "max_turn": 180.0}
    first, second = PeopleRenderer(COCO, **settings), PeopleRenderer(COCO, **settings)
    scenes = [first.render(np.random.default_rng(seed)) for seed in range(4)]
    for seed in reversed(range(4)):  # nor from what was drawn before
        assert_same(second.render(np.random.default_rng(seed)), scenes[seed])
    assert not np.array_equal(scenes[0].image, scenes[1].image)


@pytest.mark.parametrize("name", SKELETON_NAMES)
def test_every_built_in_skeleton_is_drawn(name):
    skeleton = get_skeleton(name)
    scene = PeopleRenderer(skeleton, people=(2, 2), picture_size=(96, 112)).render(np.random.default_rng(0))
    assert scene.image.shape == (96, 112, 3)
    assert scene.image.dtype == np.uint8
    assert scene.keypoints.shape == (2, skeleton.num_keypoints, 2)
    assert scene.keypoints.dtype == scene.boxes.dtype == scene.areas.dtype == scene.head_sizes.dtype == np.float32
    assert scene.visibility.shape == (2, skeleton.num_keypoints)
    assert scene.visibility.dtype == np.uint8
    assert set(np.unique(scene.visibility)) <= {0, 1, 2}


def test_skeletons_share_their_keypoints():
    """The same person, annotated for two data sets: keypoints of one name are in one place."""
    mpii = get_skeleton("mpii16")
    one = PeopleRenderer(COCO).render(np.random.default_rng(3))
    other = PeopleRenderer(mpii).render(np.random.default_rng(3))
    np.testing.assert_array_equal(one.image, other.image)
    common = sorted(set(COCO.names) & set(mpii.names))
    assert len(common) == 12
    for name in common:
        np.testing.assert_array_equal(one.keypoints[0, COCO.index(name)], other.keypoints[0, mpii.index(name)])


def test_unknown_keypoints_are_named():
    mouse = Skeleton.from_names("mouse", ["nose", "tail_base", "left_paw"])
    with pytest.raises(SkeletonError, match=r"tail_base, left_paw.*left_wrist"):
        PeopleRenderer(mouse)


@pytest.mark.parametrize(
    "settings",
    [{"people": (2, 1)}, {"people": (-1, 1)}, {"max_turn": 181.0}, {"occlusion": 1.5}, {"picture_size": (8, 64)}],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        PeopleRenderer(COCO, **settings)


def test_left_is_the_persons_left():
    pixels, _ = draw_body()
    for name in POINTS:
        if name.startswith("left_"):
            assert pixels[name][0] > pixels[name.replace("left_", "right_")][0], name
    away, _ = draw_body(turn=180)
    assert away["left_wrist"][0] < away["right_wrist"][0]
    order = [
        "head_top",
        "left_eye",
        "nose",
        "upper_neck",
        "neck",
        "neck_base",
        "thorax",
        "spine",
        "belly",
        "pelvis",
        "left_knee",
        "left_ankle",
    ]
    heights = [pixels[name][1] for name in order]
    assert heights == sorted(heights)


def test_frontal_people_have_their_left_on_the_right():
    renderer = PeopleRenderer(COCO, max_turn=20, occlusion=0)
    left, right = COCO.index("left_shoulder"), COCO.index("right_shoulder")
    for seed in range(30):
        keypoints = renderer.render(np.random.default_rng(seed)).keypoints[0]
        assert keypoints[left, 0] > keypoints[right, 0]


def test_joints_bend_within_their_limits():
    rng = np.random.default_rng(0)
    names = list(JOINT_LIMITS)
    bends = []
    for _ in range(300):
        angles = sample_pose(rng)
        drawn = (
            np.concatenate([angles.trunk, angles.arms[0], angles.legs[0]]),
            np.concatenate([angles.trunk, angles.arms[1], angles.legs[1]]),
        )
        for side in drawn:
            for name, angle in zip(names, side, strict=True):
                assert JOINT_LIMITS[name][0] <= angle <= JOINT_LIMITS[name][1], name
        points = dict(zip(POINTS, Body.pose(sample_build(rng), angles).points, strict=True))
        for number, side_name in enumerate(("left", "right")):
            elbow = angle_at(*(points[f"{side_name}_{part}"] for part in ("shoulder", "elbow", "wrist")))
            knee = angle_at(*(points[f"{side_name}_{part}"] for part in ("hip", "knee", "ankle")))
            assert elbow == pytest.approx(angles.arms[number, 3], abs=1e-3)
            assert knee == pytest.approx(angles.legs[number, 3], abs=1e-3)
            bends.append((elbow, knee))
    assert np.ptp(bends, axis=0).min() > 100  # and they do bend


def test_segments_keep_their_lengths():
    rng = np.random.default_rng(1)
    build = sample_build(rng)
    chains = [("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist"), ("heel", "toe")]
    lengths = []
    for _ in range(20):
        points = dict(zip(POINTS, Body.pose(build, sample_pose(rng)).points, strict=True))
        lengths.append(
            [
                np.linalg.norm(points[f"{side}_{a}"] - points[f"{side}_{b}"])
                for a, b in chains
                for side in ("left", "right")
            ]
        )
    np.testing.assert_allclose(lengths, np.tile(lengths[0], (20, 1)), rtol=1e-9)


@pytest.mark.parametrize(
    ("trunk", "limb", "axis", "sign"),
    [("lean", "head", 2, -1), ("spine_side", "head", 0, 1), ("neck_twist", "nose", 0, 1)],
)
def test_the_trunk_moves_as_its_angles_say(trunk, limb, axis, sign):
    angles = np.zeros(8)
    angles[list(JOINT_LIMITS).index(trunk)] = 25
    moved = Body.pose(Build(), PoseAngles(angles, STANDING.arms, STANDING.legs)).points[POINTS.index(limb)]
    rest = Body.pose(Build(), STANDING).points[POINTS.index(limb)]
    assert sign * (moved - rest)[axis] > 0.02


@pytest.mark.parametrize(
    ("arm", "direction"),
    [
        ((0, 0, 0, 0), (0, 1, 0)),
        ((0, 90, 0, 0), (1, 0, 0)),
        ((90, 90, 0, 0), (0, 0, -1)),
        ((-90, 45, 0, 0), (0, 0.7071, 0.7071)),
        ((0, 178, 0, 0), (0, -1, 0)),
    ],
)
def test_the_arms_move_as_their_angles_say(arm, direction):
    points = Body.pose(Build(), PoseAngles(np.zeros(8), np.array([arm, arm], dtype=float), STANDING.legs)).points
    for side, mirror in (("left", 1), ("right", -1)):
        along = points[POINTS.index(f"{side}_elbow")] - points[POINTS.index(f"{side}_shoulder")]
        np.testing.assert_allclose(along / np.linalg.norm(along) * (mirror, 1, 1), direction, atol=0.04)


@pytest.mark.parametrize("limit", [0.0, 30.0, 180.0])
def test_bodies_turn_as_far_as_allowed(limit, monkeypatch):
    turns = []

    def spy(turn: float, pitch: float, tilt: float) -> np.ndarray:
        turns.append(turn)
        return view_rotation(turn, pitch, tilt)

    monkeypatch.setattr("lightning_pose_zoo.data.rendering.scene.view_rotation", spy)
    renderer = PeopleRenderer(COCO, picture_size=(64, 48), max_turn=limit)
    rng = np.random.default_rng(0)
    for _ in range(60):
        renderer.render(rng)
    assert np.abs(turns).max() <= limit
    assert np.abs(turns).max() >= 0.8 * limit
    # 90 degrees bring the front, which is at -z, to one side.
    np.testing.assert_allclose(view_rotation(90, 0, 0) @ (0, 0, -1), (-1, 0, 0), atol=1e-12)


def test_faces_are_seen_from_the_front_only():
    _, front = draw_body()
    _, back = draw_body(turn=180)
    for name in ("nose", "left_eye", "right_eye"):
        assert front[name]
        assert not back[name]
    for name in ("left_ear", "right_ear", "left_wrist", "right_knee", "left_shoulder", "right_ankle", "left_hip"):
        assert front[name], name


@pytest.mark.parametrize(("turn", "near", "far"), [(90, "left", "right"), (-90, "right", "left")])
def test_the_far_side_of_a_turned_person_is_hidden(turn, near, far):
    _, uncovered = draw_body(turn=turn)
    for part in ("ear", "shoulder", "hip", "elbow"):
        assert uncovered[f"{near}_{part}"], part
        assert not uncovered[f"{far}_{part}"], part


def test_hands_behind_the_back_are_hidden():
    arms = np.array([[-80.0, 30, 70, 80], [0.0, 12, 0, 10]])
    angles = PoseAngles(np.zeros(8), arms, STANDING.legs)
    pixels, front = draw_body(angles)
    _, back = draw_body(angles, turn=180)
    assert abs(pixels["left_wrist"][0] - 128) < 16  # before the middle of the trunk, as seen
    assert not front["left_wrist"]
    assert back["left_wrist"]
    assert front["right_wrist"]


def brute_force(solids: Solids, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth and number of the nearest solid at each pixel, by 200 spheres along every axis."""
    rows, columns = np.mgrid[:height, :width]
    nearest, owner = np.full((height, width), np.inf), np.full((height, width), -1)
    for number in range(len(solids.start)):
        for t in np.linspace(0, 1, 200):
            x, y = solids.start[number] + t * (solids.end[number] - solids.start[number])
            z = solids.depth[number, 0] + t * (solids.depth[number, 1] - solids.depth[number, 0])
            radius = solids.radius[number, min(int(t * BINS), BINS - 1)]
            square = radius**2 - (columns - x) ** 2 - (rows - y) ** 2
            surface = np.where(square >= 0, z - np.sqrt(np.maximum(square, 0)), np.inf)
            owner = np.where(surface < nearest, number, owner)
            nearest = np.minimum(nearest, surface)
    return nearest, owner


def test_nearer_solids_hide_farther_ones():
    """Against a plain search of the nearest sphere, on capsules that cross each other, at every pixel."""
    rng = np.random.default_rng(5)
    height, width, count = 60, 70, 6
    depth = np.repeat(rng.permutation(count) * 14.0, 2).reshape(count, 2)
    solids = Solids(
        start=rng.uniform(5, 55, (count, 2)),
        end=rng.uniform(5, 55, (count, 2)),
        depth=depth + rng.uniform(-2, 2, (count, 2)),
        radius=np.repeat(rng.uniform(4, 9, (count, 1)), BINS, axis=1),
        bulge=np.ones(count),
        thickness=np.ones(count),
        colors=np.full((count, BINS, 3), 200, dtype=np.float32),
    )
    image = np.zeros((height, width, 3), dtype=np.uint8)
    layer = draw_solids(image, solids, LIGHT)
    nearest, owner = brute_force(solids, height, width)
    assert len(np.unique(owner)) == count + 1
    assert (layer.solid == owner).mean() > 0.985  # all but some pixels on the outlines
    both = np.isfinite(nearest) & (layer.solid == owner)
    assert np.abs(layer.depth[both] - nearest[both]).max() < 1.5
    assert not image[(owner < 0) & (layer.solid < 0)].any(axis=-1).mean() > 0.05  # nothing but smooth edges outside
    assert image[both].min(axis=-1).mean() > 60


def test_visible_keypoints_are_where_the_person_is_seen():
    renderer = PeopleRenderer(COCO, people=(1, 4), max_turn=180.0, occlusion=0.6)
    rng = np.random.default_rng(11)
    counts = np.zeros(3, dtype=int)
    for _ in range(40):
        scene = renderer.render(rng)
        height, width = scene.image.shape[:2]
        for number, (keypoints, visibility) in enumerate(zip(scene.keypoints, scene.visibility, strict=True)):
            for keypoint, flag in zip(keypoints, visibility, strict=True):
                inside = -0.5 <= keypoint[0] <= width - 0.5 and -0.5 <= keypoint[1] <= height - 0.5
                assert (flag > 0) == inside
                if flag == 2:
                    assert at_pixel(scene.owners, keypoint) == number + 1
                counts[flag] += 1
    assert counts[1] > 0.1 * counts.sum()
    assert counts[2] > 0.4 * counts.sum()
    assert counts[0] > 0


def test_occluders_hide_what_is_behind_them_and_nothing_else():
    """The same people with and without occluders: what is no longer visible is under an occluder."""
    hidden = 0
    for seed in range(40):
        bare = PeopleRenderer(COCO, people=(1, 2), occlusion=0.0).render(np.random.default_rng(seed))
        behind = PeopleRenderer(COCO, people=(1, 2), occlusion=1.0).render(np.random.default_rng(seed))
        np.testing.assert_array_equal(bare.keypoints, behind.keypoints)
        np.testing.assert_array_equal(bare.boxes, behind.boxes)
        np.testing.assert_array_equal(bare.areas, behind.areas)
        assert (behind.visibility <= bare.visibility).all()
        assert ((behind.visibility == 0) == (bare.visibility == 0)).all()
        for person, keypoint in np.argwhere(bare.visibility == 2):
            owner = at_pixel(behind.owners, bare.keypoints[person, keypoint])
            assert (behind.visibility[person, keypoint] == 2) == (owner == person + 1)
            hidden += owner == 0
    assert hidden > 40


def test_nearer_people_hide_farther_ones():
    """Who is drawn alone keeps its flags; in a crowd each lost keypoint lies under somebody nearer."""
    renderer = PeopleRenderer(COCO, people=(4, 4), occlusion=0.0)
    rng = np.random.default_rng(2)
    lost = 0
    for _ in range(20):
        scene = renderer.render(rng)
        for person, keypoint in np.argwhere(scene.visibility > 0):
            owner = at_pixel(scene.owners, scene.keypoints[person, keypoint])
            if owner > person + 1:
                assert scene.visibility[person, keypoint] == 1
                lost += 1
    assert lost > 20


def test_boxes_and_areas_are_those_of_the_silhouettes():
    renderer = PeopleRenderer(COCO, occlusion=0.0, max_turn=180.0)
    rng = np.random.default_rng(8)
    for _ in range(30):
        scene = renderer.render(rng)
        rows, columns = np.nonzero(scene.owners)
        np.testing.assert_array_equal(scene.boxes[0], (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        assert scene.areas[0] == len(rows)
        visible = scene.keypoints[0][scene.visibility[0] == 2] + 0.5  # box edges count from the picture's corner
        assert (visible >= scene.boxes[0, :2]).all()
        assert (visible <= scene.boxes[0, 2:]).all()


def test_people_have_the_promised_size():
    renderer = PeopleRenderer(COCO, occlusion=0.0)
    rng = np.random.default_rng(4)
    scenes = [renderer.render(rng) for _ in range(200)]
    heights = np.array([scene.boxes[0, 3] - scene.boxes[0, 1] for scene in scenes]) / 160
    assert np.quantile(heights, 0.1) > 0.5
    assert np.quantile(heights, 0.9) <= 1.0
    truncated = np.mean([(scene.visibility == 0).any() for scene in scenes])
    assert 0.02 < truncated < 0.25
    heads = np.array([scene.head_sizes[0] for scene in scenes]) / 160 / heights
    assert 0.05 < np.median(heads) < 0.2


def test_a_crowd_and_nobody():
    rng = np.random.default_rng(0)
    assert {len(PeopleRenderer(COCO, people=(2, 5)).render(rng).keypoints) for _ in range(30)} == {2, 3, 4, 5}
    nobody = PeopleRenderer(COCO, people=(0, 0)).render(rng)
    assert nobody.keypoints.shape == (0, 17, 2)
    assert not nobody.owners.any()


def test_pictures_are_drawn_quickly():
    """A bound for a slow, shared machine; about 2 ms are usual."""
    renderer = PeopleRenderer(COCO)
    rng = np.random.default_rng(0)
    renderer.render(rng)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        renderer.render(rng)
        times.append(time.perf_counter() - start)
    assert np.median(times) < 0.03
