"""Skeletons: the names of the keypoints and all that follows from them.

One ``Skeleton`` drives flips, OKS, half-body crops, PCK's and PCKh's normalisers and drawing. The published ones are
built in by name; others are read from a COCO category, a YAML file or the header of a labelled project.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from lightning_pose_zoo.errors import SkeletonError, complain

__all__ = ["DEFAULT_SIGMA", "SKELETON_NAMES", "Skeleton", "SkeletonLike", "get_skeleton", "mirror_pairs", "sigma_of"]

Pair = tuple[int, int]
Color = tuple[int, int, int]

DEFAULT_SIGMA = 0.05
"""OKS sigma of a keypoint whose name tells nothing: between COCO's wrists (0.062) and ears (0.035)."""

# COCO's sigmas (cocodataset.org/#keypoints-eval), and for what COCO lacks CrowdPose's, and COCO-WholeBody's of feet, by
# the part that is named.
_SIGMA_OF_PART = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062, "hip": 0.107,
    "knee": 0.087, "ankle": 0.089, "foot": 0.089, "head": 0.079, "neck": 0.079, "thorax": 0.079, "pelvis": 0.107,
    "spine": 0.107, "belly": 0.107, "toe": 0.068, "heel": 0.066,
}  # fmt: skip
_UPPER_PARTS = ("nose", "eye", "ear", "head", "neck", "thorax", "shoulder", "elbow", "wrist")
_LEFT_COLOR, _RIGHT_COLOR, _MIDDLE_COLOR = (255, 128, 0), (51, 153, 255), (230, 60, 180)


def sigma_of(name: str) -> float:
    """Return the OKS sigma for a keypoint by the body part in its name, ``DEFAULT_SIGMA`` where there is none."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((sigma for part, sigma in _SIGMA_OF_PART.items() if part in words), DEFAULT_SIGMA)


def _mirrored_name(name: str) -> str | None:
    """Exchange left and right in a name: ``left``, ``Left``, ``_l``, ``L_`` and ``pawLF`` are understood."""
    swap = {"left": "right", "right": "left", "l": "r", "r": "l"}

    def exchange(match: re.Match[str]) -> str:
        word = match.group(0)
        other = swap[word.lower()]
        return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

    patterns = (
        r"left|right|Left|Right|LEFT|RIGHT",
        r"(?<![A-Za-z])[lrLR](?![A-Za-z])",  # l_ear, ear.R
        r"(?<=[a-z0-9])[LR](?=[A-Z]?(?![A-Za-z]))",  # earL, pawLF
        r"^[lr](?=[A-Z])|^[LR](?=[A-Z]?[a-z])",  # lEar, LEar
    )
    for pattern in patterns:
        mirrored, count = re.subn(pattern, exchange, name)
        if count:
            return mirrored
    return None


def mirror_pairs(names: Sequence[str]) -> tuple[Pair, ...]:
    """Find the left/right pairs among keypoint names.

    A pair must be mutual. Where no name fits exactly, numbers are left out of account (``paw1LH`` and ``paw4RH``).

    Args:
        names: Names of the keypoints.

    Returns:
        Pairs of indices, the smaller first.
    """
    pairs: list[Pair] = []
    for strip in (lambda name: name, lambda name: re.sub(r"\d+", "", name)):
        free = [index for index in range(len(names)) if not any(index in pair for pair in pairs)]
        by_name: dict[str, list[int]] = {}
        for index in free:
            by_name.setdefault(strip(names[index]), []).append(index)
        for index in free:
            mirrored = _mirrored_name(names[index])
            partners = by_name.get(strip(mirrored), []) if mirrored else []
            mutual = len(partners) == 1 and len(by_name[strip(names[index])]) == 1
            if mutual and index < partners[0]:
                pairs.append((index, partners[0]))
    return tuple(sorted(pairs))


@dataclass(frozen=True)
class Skeleton:
    """The keypoints of one kind of body. Indices count from 0.

    Attributes:
        name: What it is called.
        names: Name of each of the K keypoints.
        flip_pairs: Left/right pairs that change places in a mirrored picture.
        limbs: Pairs of keypoints that are drawn as lines; PCP scores them where a skeleton is not a human one.
        sigmas: OKS fall-off of each keypoint; from the names where absent.
        upper_body: Keypoints of the upper body, for half-body crops.
        torso: Pairs whose distance is the torso's diameter, the first one that is labelled counts (PCK, PDJ).
        head: Pairs whose distance stands in for the size of the head (PCKh) where no head box is annotated.
        colors: (r, g, b) of each keypoint, 0 to 255; by side where absent.

    Raises:
        SkeletonError: Where names repeat, an index is out of range, a flip pair is not mutual or a sigma not positive.
    """

    name: str
    names: tuple[str, ...]
    flip_pairs: tuple[Pair, ...] = ()
    limbs: tuple[Pair, ...] = ()
    sigmas: tuple[float, ...] = ()
    upper_body: tuple[int, ...] = ()
    torso: tuple[Pair, ...] = ()
    head: tuple[Pair, ...] = ()
    colors: tuple[Color, ...] = ()

    def __post_init__(self) -> None:
        """Fill in what follows from the names and check the rest."""
        if not self.sigmas:
            object.__setattr__(self, "sigmas", tuple(sigma_of(name) for name in self.names))
        if not self.colors:
            object.__setattr__(self, "colors", self._colors_by_side())
        problems = self._problems()
        if problems:
            raise SkeletonError(complain(f"skeleton '{self.name}'", problems, "Mend the definition."))

    def _colors_by_side(self) -> tuple[Color, ...]:
        colors = [_MIDDLE_COLOR] * len(self.names)
        for pair in self.flip_pairs:
            for index in pair:
                if 0 <= index < len(colors):
                    side = self.names[index].lower()
                    left = "left" in side or ("right" not in side and index == pair[0])
                    colors[index] = _LEFT_COLOR if left else _RIGHT_COLOR
        return tuple(colors)

    def _problems(self) -> list[str]:
        count = len(self.names)
        problems = [] if count else ["it has no keypoints"]
        problems += [
            f"the name '{name}' occurs {self.names.count(name)} times"
            for name in sorted(set(self.names))
            if self.names.count(name) > 1
        ]
        for what in ("flip_pairs", "limbs", "torso", "head"):
            for pair in getattr(self, what):
                if len(pair) != 2 or not all(0 <= index < count for index in pair) or pair[0] == pair[1]:
                    problems.append(f"{what}: {tuple(pair)} is no pair of different keypoints 0 to {count - 1}")
        paired = [index for pair in self.flip_pairs for index in pair]
        problems += [
            f"flip_pairs: keypoint {index} has more than one partner"
            for index in sorted(set(paired))
            if paired.count(index) > 1
        ]
        problems += [
            f"upper_body: {index} is not in 0 to {count - 1}" for index in self.upper_body if not 0 <= index < count
        ]
        if len(self.sigmas) != count:
            problems.append(f"{len(self.sigmas)} sigmas for {count} keypoints")
        problems += [
            f"sigma of '{name}' is {sigma}, not positive"
            for name, sigma in zip(self.names, self.sigmas, strict=False)
            if not sigma > 0
        ]
        if len(self.colors) != count:
            problems.append(f"{len(self.colors)} colors for {count} keypoints")
        return problems

    @property
    def num_keypoints(self) -> int:
        """K."""
        return len(self.names)

    @property
    def flip_permutation(self) -> list[int]:
        """For every keypoint the index of its mirror image; its own where it has none."""
        permutation = list(range(len(self.names)))
        for first, second in self.flip_pairs:
            permutation[first], permutation[second] = second, first
        return permutation

    @property
    def limb_colors(self) -> tuple[Color, ...]:
        """(r, g, b) of each limb: of its side, or mixed where it joins two sides."""
        mixed = [tuple((self.colors[a][c] + self.colors[b][c]) // 2 for c in range(3)) for a, b in self.limbs]
        return tuple((r, g, b) for r, g, b in mixed)

    def index(self, name: str) -> int:
        """Return the index of a keypoint by its name.

        Raises:
            SkeletonError: Where there is none of that name.
        """
        if name not in self.names:
            close = difflib.get_close_matches(name, self.names, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise SkeletonError(
                f"skeleton '{self.name}' has no keypoint '{name}'; it has: {', '.join(self.names)}.{hint}"
            )
        return self.names.index(name)

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as lists, strings and numbers, as checkpoints and links carry it."""

        def plain(value: Any) -> Any:
            return [plain(item) for item in value] if isinstance(value, tuple) else value

        return {key: plain(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, definition: Mapping[str, Any]) -> Skeleton:
        """Build a skeleton from ``to_dict``'s form, mmpose's, the HRNet repository's or ultralytics'.

        Raises:
            SkeletonError: Where the definition is of none of these forms.
        """
        from lightning_pose_zoo.skeleton_files import read_definition

        return read_definition(definition)

    @classmethod
    def from_names(
        cls,
        name: str,
        names: Sequence[str],
        limbs: Sequence[Sequence[int]] = (),
        sigmas: Sequence[float] = (),
    ) -> Skeleton:
        """Build a skeleton of which little more than the names is known.

        Flip pairs come from left and right in the names, sigmas from the body parts in them, and upper body and torso
        where the names are those of a human body.
        """
        known = {part: position for position, part in enumerate(names)}
        torso = [("right_shoulder", "left_hip"), ("left_shoulder", "right_hip")]
        head = [("upper_neck", "head_top"), ("neck", "head_top")]
        human = {"left_shoulder", "right_shoulder", "left_hip", "right_hip"} <= known.keys()
        upper = [i for i, part in enumerate(names) if any(word in part.split("_") for word in _UPPER_PARTS)]
        return cls(
            name=name,
            names=tuple(names),
            flip_pairs=mirror_pairs(names),
            limbs=tuple((int(a), int(b)) for a, b in limbs),
            sigmas=tuple(float(sigma) for sigma in sigmas),
            upper_body=tuple(upper) if human else (),
            torso=tuple((known[a], known[b]) for a, b in torso if a in known and b in known),
            head=tuple((known[a], known[b]) for a, b in head if a in known and b in known),
        )


SkeletonLike = str | dict[str, Any] | Skeleton
"""A built-in name, a YAML file, a definition or the thing itself; ``get_skeleton`` takes any."""


def _sided(*parts: str) -> list[str]:
    return [f"{side}_{part}" for part in parts for side in ("left", "right")]


_COCO_BODY = _sided("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_MPII_LEGS = ["right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"]
_MPII_ARMS = ["right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"]
# Chains that every skeleton with these keypoints has; Human3.6M's legs end in feet.
_LIMB_CHAINS = [
    "left_shoulder left_elbow left_wrist",
    "right_shoulder right_elbow right_wrist",
    "left_hip left_knee left_ankle",
    "right_hip right_knee right_ankle",
    "left_hip left_knee left_foot",
    "right_hip right_knee right_foot",
]
_GIRDLE = ["left_shoulder right_shoulder", "left_hip right_hip", "left_shoulder left_hip", "right_shoulder right_hip"]
_COCO_FACE = ["left_ear left_eye nose right_eye right_ear", "left_ear left_shoulder", "right_ear right_shoulder"]
_SPINE_TO_LIMBS = ["left_shoulder thorax right_shoulder", "left_hip pelvis right_hip"]
_NECK_TO_LIMBS = ["left_shoulder neck right_shoulder", "left_shoulder left_hip right_hip right_shoulder"]

# name: (keypoints in their published order, chains of limbs)
_PUBLISHED: dict[str, tuple[list[str], list[str]]] = {
    "coco17": (["nose", *_sided("eye", "ear"), *_COCO_BODY], [*_COCO_FACE, *_GIRDLE]),
    "mpii16": (
        [*_MPII_LEGS, "pelvis", "thorax", "upper_neck", "head_top", *_MPII_ARMS],
        ["head_top upper_neck thorax pelvis", *_SPINE_TO_LIMBS],
    ),
    "lsp14": ([*_MPII_LEGS, *_MPII_ARMS, "neck", "head_top"], ["head_top neck", *_NECK_TO_LIMBS]),
    # The face hangs on the shoulders, as in the model of the data set's authors (MODEC).
    "flic": (
        [*(f"{side}_{part}" for side in ("left", "right") for part in ("shoulder", "elbow", "wrist")), *_sided("hip"),
         *_sided("eye"), "nose"],
        ["left_eye nose right_eye", "left_shoulder nose right_shoulder", *_GIRDLE],
    ),
    "crowdpose14": ([*_COCO_BODY, "head_top", "neck"], ["head_top neck", *_NECK_TO_LIMBS]),
    "aic14": (
        [f"{side}_{part}" for parts in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"))
         for side in ("right", "left") for part in parts] + ["head_top", "neck"],
        ["head_top neck", *_NECK_TO_LIMBS],
    ),
    "posetrack17": (["nose", "neck", "head_top", *_sided("ear"), *_COCO_BODY], ["head_top nose neck", *_NECK_TO_LIMBS]),
    "jhmdb15": (
        ["neck", "belly", "head", *(f"{side}_{part}" for part in ("shoulder", "hip", "elbow", "knee", "wrist", "ankle")
                                    for side in ("right", "left"))],
        ["head neck belly", "left_shoulder neck right_shoulder", "left_hip belly right_hip"],
    ),
    # OpenPose's second version: COCO with neck, middle of the hips and feet.
    "body25": (
        ["nose", "neck", *(f"{side}_{part}" for side in ("right", "left") for part in ("shoulder", "elbow", "wrist")),
         "pelvis", *(f"{side}_{part}" for side in ("right", "left") for part in ("hip", "knee", "ankle")),
         "right_eye", "left_eye", "right_ear", "left_ear",
         *(f"{side}_{part}" for side in ("left", "right") for part in ("big_toe", "small_toe", "heel"))],
        ["right_ear right_eye nose left_eye left_ear", "nose neck pelvis", "left_shoulder neck right_shoulder",
         "left_hip pelvis right_hip", "left_heel left_ankle left_big_toe left_small_toe",
         "right_heel right_ankle right_big_toe right_small_toe"],
    ),
    "h36m17": (
        ["pelvis", *(f"{side}_{part}" for side in ("right", "left") for part in ("hip", "knee", "foot")), "spine",
         "thorax", "neck_base", "head", *(f"{side}_{part}" for side in ("left", "right")
                                          for part in ("shoulder", "elbow", "wrist"))],
        ["head neck_base thorax spine pelvis", *_SPINE_TO_LIMBS],
    ),
    "mpi_inf_3dhp17": (
        ["head_top", "neck", *(f"{side}_{part}" for parts in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"))
                               for side in ("right", "left") for part in parts), "pelvis", "spine", "head"],
        ["head_top head neck spine pelvis", "left_shoulder neck right_shoulder", "left_hip pelvis right_hip"],
    ),
}  # fmt: skip
# mmpose's sigmas for MPII, which follow no rule by part.
_MPII_SIGMAS = (
    .089, .083, .107, .107, .083, .089, .026, .026, .026, .026, .062, .072, .179, .179, .072, .062,
)  # fmt: skip

SKELETON_NAMES = tuple(_PUBLISHED)
"""Names of the skeletons that are built in."""


@cache
def _published(name: str) -> Skeleton:
    names, chains = _PUBLISHED[name]
    limbs: list[Pair] = []
    for chain in [*chains, *_LIMB_CHAINS]:
        parts = chain.split()
        if all(part in names for part in parts):
            limbs += [(names.index(a), names.index(b)) for a, b in pairwise(parts)]
    return Skeleton.from_names(name, names, limbs, _MPII_SIGMAS if name == "mpii16" else ())


def get_skeleton(skeleton: SkeletonLike) -> Skeleton:
    """Return a skeleton by whatever names it.

    Args:
        skeleton: A built-in name (``coco17``, ``mpii16``, ``lsp14``, ``flic``, ``crowdpose14``, ``posetrack17``,
            ``h36m17``, ``aic14``, ``jhmdb15``, ``mpi_inf_3dhp17``, ``body25``), the path of a YAML file, a
            definition, or a ``Skeleton``.

    Returns:
        The skeleton.

    Raises:
        SkeletonError: Where nothing of that name or path exists, or the definition is wrong.
    """
    if isinstance(skeleton, Skeleton):
        return skeleton
    if isinstance(skeleton, Mapping):
        return Skeleton.from_dict(skeleton)
    if skeleton in _PUBLISHED:
        return _published(skeleton)
    if Path(skeleton).suffix in (".yaml", ".yml", ".json"):
        from lightning_pose_zoo.skeleton_files import read_skeleton_file

        return read_skeleton_file(Path(skeleton))
    close = difflib.get_close_matches(skeleton, _PUBLISHED, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise SkeletonError(
        f"unknown skeleton '{skeleton}'.{hint} Built in are {', '.join(_PUBLISHED)}; any other comes from a YAML file "
        "(a path that ends in .yaml), a COCO category or a labelled project."
    )
