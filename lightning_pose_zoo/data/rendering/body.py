"""The body of a synthetic person in 3D: its build, its joints with their limits, its poses and its landmarks.

Frame: x to the person's left, y down, z backwards, the middle of the hips at the origin; one unit is the person's
height when standing. A person who faces the camera has the camera's axes, so that its left is on the right of the
picture. Angles are in degrees and anatomical: 0 everywhere is a person who stands with hanging arms.

Lengths of the segments: Drillis and Contini, "Body segment parameters", 1966, as fractions of the height. The
shoulder's angles (plane of elevation, elevation, axial rotation) are those of Wu et al., "ISB recommendation on
definitions of joint coordinate systems, Part II", Journal of Biomechanics 2005.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

__all__ = ["JOINT_LIMITS", "LANDMARKS", "POINTS", "Body", "Build", "PoseAngles", "sample_build", "sample_pose"]

Floats = npt.NDArray[np.float64]

JOINT_LIMITS: dict[str, tuple[float, float]] = {
    # Trunk: forwards, to the person's left, turn to the left; "lean" is the pelvis against the vertical.
    "lean": (-15, 80), "roll": (-30, 30),
    "spine_flexion": (-25, 60), "spine_side": (-30, 30), "spine_twist": (-35, 35),
    "neck_flexion": (-40, 45), "neck_side": (-35, 35), "neck_twist": (-65, 65),
    # Plane: 0 to the side, 90 forwards, -90 backwards; elevation: 0 hanging, 180 up; twist: inwards.
    "shoulder_plane": (-90, 135), "shoulder_elevation": (0, 178), "shoulder_twist": (-90, 85), "elbow": (0, 148),
    # Flexion lifts the thigh to the front, abduction to the side, rotation turns the toes outwards.
    "hip_flexion": (-22, 125), "hip_abduction": (-15, 50), "hip_rotation": (-30, 40),
    "knee": (0, 142), "ankle": (-40, 20),
}  # fmt: skip
"""Lowest and highest angle of every joint in degrees, in the order of ``PoseAngles``."""

_LIMITS = np.array(list(JOINT_LIMITS.values()), dtype=np.float64)
_TRUNK_LIMITS, _ARM_LIMITS, _LEG_LIMITS = _LIMITS[:8], _LIMITS[8:12], _LIMITS[12:]

Ranges = tuple[tuple[float, float], ...]

# How likely, and the ranges of plane, elevation, twist and elbow of one arm.
_ARMS: dict[str, tuple[float, Ranges]] = {
    "hanging": (5.0, ((0, 70), (3, 22), (-10, 30), (3, 40))),
    "on the hip": (1.0, ((-35, 0), (30, 52), (50, 75), (85, 115))),
    "across the chest": (0.8, ((60, 85), (20, 42), (60, 80), (85, 115))),
    "up": (1.2, ((-10, 70), (130, 174), (-40, 30), (0, 55))),
    "waving": (1.0, ((0, 35), (60, 110), (-90, -60), (70, 125))),
    "reaching forwards": (1.2, ((65, 105), (50, 115), (-10, 40), (0, 55))),
    "reaching sideways": (1.0, ((-20, 35), (55, 110), (-60, 20), (0, 55))),
    "at the head": (0.9, ((55, 95), (30, 75), (-10, 30), (115, 145))),
    "carrying": (1.2, ((50, 95), (8, 38), (0, 35), (65, 110))),
    "swung forwards": (1.0, ((75, 95), (20, 60), (0, 30), (50, 105))),
    "swung backwards": (1.0, ((-90, -70), (15, 50), (0, 20), (20, 95))),
    "throwing": (0.7, ((-20, 15), (85, 135), (-90, -50), (50, 115))),
    "anyhow": (1.5, ((-30, 120), (0, 150), (-70, 60), (0, 135))),
}
# The ranges of hip flexion, abduction, rotation, knee and ankle of one leg.
_LEGS: dict[str, Ranges] = {
    "straight": ((-6, 8), (0, 8), (-5, 18), (0, 12), (-5, 5)),
    "wide": ((-6, 12), (10, 26), (0, 22), (0, 14), (-8, 5)),
    "stepping": ((12, 36), (0, 8), (-5, 12), (3, 30), (-5, 12)),
    "behind": ((-20, -6), (0, 8), (-5, 15), (3, 40), (-30, 5)),
    "striding": ((40, 85), (0, 10), (-5, 10), (45, 105), (-20, 10)),
    "trailing": ((-20, 5), (0, 10), (-5, 15), (25, 105), (-40, -5)),
    "sitting": ((72, 100), (0, 28), (-15, 25), (65, 108), (-10, 8)),
    "squatting": ((75, 118), (5, 32), (0, 30), (90, 138), (0, 20)),
    "kicking": ((50, 112), (0, 24), (-5, 20), (0, 45), (-40, 0)),
    "raised": ((65, 112), (0, 20), (-5, 25), (75, 132), (-30, 5)),
    "kneeling": ((-5, 18), (0, 10), (-5, 10), (80, 115), (-40, -20)),
    "sideways": ((15, 60), (24, 46), (5, 30), (15, 85), (-5, 10)),
    "bracing": ((-6, 20), (20, 42), (0, 25), (0, 20), (-10, 10)),
}
_UPRIGHT: Ranges = ((-4, 8), (-4, 4), (-8, 14), (-10, 10), (-14, 14))
_MOVING: Ranges = ((0, 22), (-8, 8), (-8, 22), (-14, 14), (-26, 26))
_BENT: Ranges = ((25, 65), (-8, 8), (5, 40), (-14, 14), (-20, 20))
_SEATED: Ranges = ((-12, 18), (-6, 6), (-5, 35), (-14, 14), (-22, 22))
# How likely, one leg, the other, and the ranges of lean, roll and the spine's flexion, side and twist.
_STANCES: tuple[tuple[float, str, str, Ranges], ...] = (
    (3.6, "straight", "straight", _UPRIGHT),
    (1.8, "wide", "wide", _UPRIGHT),
    (1.4, "straight", "wide", _UPRIGHT),
    (3.0, "stepping", "behind", _UPRIGHT),
    (1.4, "striding", "trailing", _MOVING),
    (1.2, "sitting", "sitting", _SEATED),
    (0.4, "squatting", "squatting", _MOVING),
    (0.8, "striding", "behind", _MOVING),
    (0.5, "kicking", "straight", _MOVING),
    (0.6, "raised", "straight", _UPRIGHT),
    (0.3, "sitting", "kneeling", _SEATED),
    (0.6, "sideways", "bracing", _MOVING),
    (0.4, "straight", "straight", _BENT),
    (0.2, "stepping", "wide", _BENT),
    (0.3, "trailing", "trailing", _MOVING),
)
_NECK: Ranges = ((-16, 22), (-14, 14), (-35, 35))

_ARM_NAMES = list(_ARMS)
_ARM_CHANCES = list(accumulate(chance for chance, _ in _ARMS.values()))
_ARM_RANGES = np.array([ranges for _, ranges in _ARMS.values()], dtype=np.float64)
_LEG_RANGES = {name: np.array(ranges, dtype=np.float64) for name, ranges in _LEGS.items()}
_STANCE_CHANCES = list(accumulate(stance[0] for stance in _STANCES))


@dataclass(frozen=True)
class PoseAngles:
    """The joint angles of one pose, in degrees, in the order of ``JOINT_LIMITS``.

    Attributes:
        trunk: (8,) lean, roll, the spine's flexion, side and twist, the neck's flexion, side and twist.
        arms: (2, 4) left and right: the shoulder's plane, elevation and twist, elbow.
        legs: (2, 5) left and right: the hip's flexion, abduction and rotation, knee, ankle.
    """

    trunk: Floats
    arms: Floats
    legs: Floats


@dataclass(frozen=True)
class Build:
    """The proportions of one person; factors are against an average adult.

    Attributes:
        head: Factor on the size of the head; children have large ones.
        shoulders: Factor on the width of the shoulders.
        hips: Factor on the width of the hips.
        arm: Factor on the length of the arms.
        leg: Factor on the length of the legs.
        trunk: Factor on the length of the trunk.
        girth: Factor on the thickness of limbs and trunk.
        belly: Further factor on the thickness of the belly.
    """

    head: float = 1.0
    shoulders: float = 1.0
    hips: float = 1.0
    arm: float = 1.0
    leg: float = 1.0
    trunk: float = 1.0
    girth: float = 1.0
    belly: float = 1.0


def sample_build(rng: np.random.Generator) -> Build:
    """Draw the proportions of one person; about one in nine is a child."""
    spread = rng.standard_normal(7).clip(-2, 2)
    child = float(rng.random() < 0.11)
    return Build(
        head=1.08 + 0.05 * spread[0] + child * 0.3,
        shoulders=1.0 + 0.08 * spread[1] - child * 0.08,
        hips=1.0 + 0.07 * spread[2] - child * 0.05,
        arm=1.0 + 0.04 * spread[3] - child * 0.06,
        leg=1.0 + 0.04 * spread[4] - child * 0.1,
        trunk=1.0 + 0.04 * spread[5],
        girth=1.0 + 0.12 * spread[6],
        belly=1.0 + 0.14 * max(0.0, float(spread[6] * spread[1])),
    )


def sample_pose(rng: np.random.Generator) -> PoseAngles:
    """Draw a pose within the joint limits: a stance, and for each arm what it does."""
    draws = rng.random(27)
    _, one_leg, other_leg, trunk_ranges = _STANCES[bisect_right(_STANCE_CHANCES, draws[0] * _STANCE_CHANCES[-1])]
    if draws[1] < 0.5:
        one_leg, other_leg = other_leg, one_leg
    first = bisect_right(_ARM_CHANCES, draws[2] * _ARM_CHANCES[-1])
    second = first if draws[3] < 0.35 else bisect_right(_ARM_CHANCES, draws[4] * _ARM_CHANCES[-1])

    def within(ranges: Floats, uniform: Floats) -> Floats:
        return np.asarray(ranges[..., 0] + (ranges[..., 1] - ranges[..., 0]) * uniform)

    trunk = within(np.array(trunk_ranges + _NECK, dtype=np.float64), draws[5:13])
    arms = within(_ARM_RANGES[[first, second]], draws[13:21].reshape(2, 4))
    legs = within(np.stack([_LEG_RANGES[one_leg], _LEG_RANGES[other_leg]]), rng.random((2, 5)))
    # The feet stay below a body that leans, and who bends down looks up a little and lets the arms hang.
    legs[:, 0] += trunk[0]
    trunk[5] -= 0.25 * max(0.0, trunk[0])
    arms[:, 1] += 0.5 * max(0.0, trunk[0] + 0.5 * trunk[2] - 20) * (arms[:, 0] > 40)
    return PoseAngles(
        trunk=np.clip(trunk, _TRUNK_LIMITS[:, 0], _TRUNK_LIMITS[:, 1]),
        arms=np.clip(arms, _ARM_LIMITS[:, 0], _ARM_LIMITS[:, 1]),
        legs=np.clip(legs, _LEG_LIMITS[:, 0], _LEG_LIMITS[:, 1]),
    )


def _sided(*names: str) -> list[str]:
    return [f"{side}_{name}" for name in names for side in ("left", "right")]


_MIDDLE_POINTS = [
    "pelvis",
    "belly",
    "spine",
    "thorax",
    "neck_base",
    "neck",
    "upper_neck",
    "chin",
    "head",
    "crown",
    "head_top",
    "nose",
]
_FACE_POINTS = _sided("eye", "ear")
_ARM_POINTS = _sided("shoulder", "elbow", "wrist", "hand")
_LEG_POINTS = _sided("hip", "knee", "ankle", "heel", "toe", "big_toe", "small_toe")
POINTS: tuple[str, ...] = (*_MIDDLE_POINTS, *_FACE_POINTS, *_ARM_POINTS, *_LEG_POINTS)
"""Names of the points of ``Body.points``."""

_NOT_ANNOTATED = {"chin", "crown", "left_toe", "right_toe", "left_hand", "right_hand"}
# Human3.6M's "foot" is the joint that others call ankle.
LANDMARKS: dict[str, int] = {name: index for index, name in enumerate(POINTS) if name not in _NOT_ANNOTATED} | {
    "left_foot": POINTS.index("left_ankle"),
    "right_foot": POINTS.index("right_ankle"),
}
"""The keypoints that the body has, and which of its points each one is."""

FRAMES = ("pelvis", "waist", "chest", "head", *_sided("upper_arm", "forearm", "thigh", "shin", "foot"))
"""Names of the frames of ``Body.frames``."""

# Elementary rotations in the order of the angles: axis and sign that make the anatomical angle positive.
_X, _Y, _Z = 0, 1, 2
_TRUNK_TURNS = ((_X, 1), (_Z, 1), (_X, 1), (_Z, 1), (_Y, -1), (_X, 1), (_Z, 1), (_Y, -1))
_ARM_TURNS = ((_Y, 1), (_Z, -1), (_Y, 1), (_X, -1))
_LEG_TURNS = ((_X, -1), (_Z, -1), (_Y, -1), (_X, 1), (_X, 1))


def _generators(turns: tuple[tuple[int, int], ...]) -> Floats:
    """Return the cross product matrices (n, 3, 3) of signed axes."""
    matrices = np.zeros((len(turns), 3, 3))
    for matrix, (axis, sign) in zip(matrices, turns, strict=True):
        after, last = (axis + 1) % 3, (axis + 2) % 3
        matrix[last, after], matrix[after, last] = sign, -sign
    return matrices


_GENERATORS = _generators(_TRUNK_TURNS + _ARM_TURNS * 2 + _LEG_TURNS * 2)
_GENERATORS_SQUARED = _GENERATORS @ _GENERATORS
# Mirrors a rotation of the left side into one of the right: M R M with M = diag(-1, 1, 1).
_MIRROR = np.stack([np.ones((3, 3)), np.outer([-1, 1, 1], [-1, 1, 1])])
_SIDES = np.array([[1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])


@dataclass(frozen=True)
class Body:
    """A posed body.

    Attributes:
        points: (len(POINTS), 3), units of the person's height.
        frames: (len(FRAMES), 3, 3); the columns are the axes of each segment: its left, down and back.
        build: The proportions.
    """

    points: Floats
    frames: Floats
    build: Build

    @classmethod
    def pose(cls, build: Build, angles: PoseAngles) -> Body:
        """Place all points of a body by its proportions and joint angles (forward kinematics)."""
        turns = _elementary_turns(angles)
        trunk, arms, legs = turns[:8], turns[8:16].reshape(2, 4, 3, 3), turns[16:].reshape(2, 5, 3, 3)
        pelvis = trunk[0] @ trunk[1]
        half_spine = trunk[2] @ trunk[3] @ trunk[4]
        waist = pelvis @ half_spine
        chest = waist @ half_spine
        head = chest @ trunk[5] @ trunk[6] @ trunk[7]
        upper_arm = chest @ ((arms[:, 0] @ arms[:, 1] @ arms[:, 2]) * _MIRROR)
        forearm = upper_arm @ (arms[:, 3] * _MIRROR)
        thigh = pelvis @ ((legs[:, 0] @ legs[:, 1] @ legs[:, 2]) * _MIRROR)
        shin = thigh @ (legs[:, 3] * _MIRROR)
        foot = shin @ (legs[:, 4] * _MIRROR)

        middle, shoulders = _trunk_points(build, waist, chest, angles.arms[:, 1])
        face = middle["upper_neck"] + (_FACE * build.head) @ head.T
        elbows = shoulders + 0.182 * build.arm * upper_arm[:, :, 1]
        wrists = elbows + 0.146 * build.arm * forearm[:, :, 1]
        hands = wrists + 0.062 * build.arm * forearm[:, :, 1]
        hips = _SIDES * (0.053 * build.hips, 0.006, 0.0) @ pelvis.T
        knees = hips + 0.243 * build.leg * thigh[:, :, 1]
        ankles = knees + 0.243 * build.leg * shin[:, :, 1]
        heels = ankles + foot @ (0.0, 0.024, 0.016)
        toes = ankles + foot @ (0.0, 0.03, -0.098)
        big_toes, small_toes = (
            ankles + (foot @ (_SIDES * place)[..., None])[..., 0]
            for place in ((-0.012, 0.032, -0.096), (0.022, 0.036, -0.074))
        )
        chin, center, crown, top, nose, *eyes_and_ears = face
        points = np.stack(
            [*list(middle.values()), chin, center, crown, top, nose, *eyes_and_ears]
            + [point for pair in (shoulders, elbows, wrists, hands) for point in pair]
            + [point for pair in (hips, knees, ankles, heels, toes, big_toes, small_toes) for point in pair]
        )
        frames = np.concatenate([np.stack([pelvis, waist, chest, head]), upper_arm, forearm, thigh, shin, foot])
        return cls(points=points, frames=frames, build=build)


# Against the upper neck, in the head's frame: chin, middle, crown (the middle of the skull), top, nose, eyes, ears.
_FACE = np.array(
    [[0, -0.036, -0.016], [0, -0.066, -0.008], [0, -0.082, 0.002], [0, -0.134, 0.004], [0, -0.048, -0.066],
     [0.0185, -0.068, -0.052], [-0.0185, -0.068, -0.052], [0.0465, -0.058, 0.006], [-0.0465, -0.058, 0.006]]
)  # fmt: skip


def _elementary_turns(angles: PoseAngles) -> Floats:
    """Return one rotation (26, 3, 3) for every angle: trunk, arms, legs."""
    trunk, arms = angles.trunk.copy(), angles.arms.copy()
    # The spine's rotation is shared by waist and chest; turning the plane of elevation must not turn the forearm.
    trunk[2:5] *= 0.5
    arms[:, 2] -= arms[:, 0]
    radians = np.deg2rad(np.concatenate([trunk, arms.ravel(), angles.legs.ravel()]))[:, None, None]
    turned: Floats = np.eye(3) + np.sin(radians) * _GENERATORS + (1 - np.cos(radians)) * _GENERATORS_SQUARED
    return turned


def _trunk_points(build: Build, waist: Floats, chest: Floats, elevation: Floats) -> tuple[dict[str, Floats], Floats]:
    """Place the points along the spine, and the shoulders (2, 3), which rise with the arms."""
    half = 0.146 * build.trunk
    spine = -half * waist[:, 1]
    thorax = spine - half * chest[:, 1]
    upper_neck = thorax + chest @ (0.0, -0.05, -0.008)
    rise = 0.036 * np.clip((elevation - 50) / 110, 0, 1)
    offsets = _SIDES * (0.106 * build.shoulders, 0.006, 0.0)
    offsets[:, 1] -= rise
    offsets[:, 0] *= 1 - 3.5 * rise
    middle = {
        "pelvis": np.zeros(3),
        "belly": 0.55 * spine,
        "spine": spine,
        "thorax": thorax,
        "neck_base": thorax + 0.35 * (upper_neck - thorax),
        "neck": thorax + 0.6 * (upper_neck - thorax),
        "upper_neck": upper_neck,
    }
    return middle, thorax + offsets @ chest.T
