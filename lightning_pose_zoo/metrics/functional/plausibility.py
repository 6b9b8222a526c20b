"""Which poses no body takes: proportions of limbs and angles between them outside the range of known poses."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.files import write_atomically
from lightning_pose_zoo.metrics.functional.keypoint_error import precise
from lightning_pose_zoo.skeletons import Skeleton, SkeletonLike, get_skeleton

__all__ = [
    "PoseRanges",
    "fit_pose_ranges",
    "implausible_poses",
    "measure_names",
    "outside_ranges",
    "pose_measures",
    "share_of_poses",
]

_TURN = 2 * math.pi


@dataclass(frozen=True)
class PoseRanges:
    """The ranges that the measures of known poses are in; see ``pose_measures``.

    Attributes:
        keypoints: Names of the keypoints that the measures are of.
        measures: Names of the M measures: of the limbs' lengths first, then of the angles.
        low: (M,) the least value; of an angle where its arc begins, radians.
        high: (M,) the greatest; of an angle where its arc ends, at most a turn later.
        limbs: How many of the measures are of lengths.
    """

    keypoints: tuple[str, ...]
    measures: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    limbs: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON or a checkpoint."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build ranges from what ``to_dict`` returned.

        Raises:
            MetricError: Where values are missing or do not fit together.
        """
        try:
            ranges = cls(
                tuple(str(name) for name in values["keypoints"]),
                tuple(str(name) for name in values["measures"]),
                tuple(float(value) for value in values["low"]),
                tuple(float(value) for value in values["high"]),
                int(values["limbs"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MetricError(f"these are no ranges of poses, as PoseRanges.save writes them: {error!r}.") from error
        if not len(ranges.measures) == len(ranges.low) == len(ranges.high) >= ranges.limbs >= 0:
            raise MetricError(
                f"ranges of poses with {len(ranges.measures)} measures, {len(ranges.low)} low and {len(ranges.high)} "
                f"high values, {ranges.limbs} of limbs, do not fit together."
            )
        return ranges

    def save(self, path: str | Path) -> None:
        """Write the ranges as JSON."""
        write_atomically(Path(path), json.dumps(self.to_dict(), indent=1).encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            MetricError: Where the file is missing, no JSON or has no ranges; names it.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MetricError(f"'{path}' has no ranges of poses that could be read: {error}.") from error
        if not isinstance(values, Mapping):
            raise MetricError(f"'{path}' has no ranges of poses; PoseRanges.save writes them.")
        try:
            return cls.from_dict(values)
        except MetricError as error:
            raise MetricError(f"'{path}': {error}") from error


def _angles(skeleton: Skeleton) -> list[tuple[int, int, int]]:
    """Return joint, one end and other end of each pair of limbs that meet."""
    meeting = []
    for first, second in itertools.combinations(skeleton.limbs, 2):
        for joint in set(first) & set(second):
            ends = [end for limb in (first, second) for end in limb if end != joint]
            if len(ends) == 2 and ends[0] != ends[1]:
                meeting.append((joint, ends[0], ends[1]))
    return meeting


def measure_names(skeleton: SkeletonLike) -> tuple[list[str], list[str]]:
    """Return the names of a pose's measures: of its limbs' lengths, and of the angles between limbs that meet.

    Raises:
        MetricError: Where the skeleton has no limbs.
    """
    known = get_skeleton(skeleton)
    if not known.limbs:
        raise MetricError(f"skeleton '{known.name}' has no limbs, so that a pose of it has no proportions.")
    limbs = [f"{known.names[a]}-{known.names[b]}" for a, b in known.limbs]
    return limbs, [f"{known.names[a]}-{known.names[joint]}-{known.names[b]}" for joint, a, b in _angles(known)]


def pose_measures(keypoints: Tensor, visibility: Tensor, skeleton: SkeletonLike) -> Tensor:
    """Measure poses independently of their place and size.

    Args:
        keypoints: (N, K, 2), pixels.
        visibility: (N, K); a measure counts where all of its keypoints are above 0.
        skeleton: What the keypoints are; its limbs are measured.

    Returns:
        (N, M) float64: the length of each limb over the median of the person's limbs, then the angle from one limb to
        the other at each keypoint where two meet, in -pi..pi, clockwise in the picture; NaN where a measure does not
        count or has no value.
    """
    known = get_skeleton(skeleton)
    measure_names(known)
    places, counted = precise(keypoints), visibility.to(keypoints.device) > 0
    first, second = (torch.tensor([limb[end] for limb in known.limbs], device=places.device) for end in (0, 1))
    lengths = _lengths(places[:, first] - places[:, second])
    lengths = torch.where(counted[:, first] & counted[:, second], lengths, torch.nan)
    ratios = lengths / lengths.nanmedian(dim=1, keepdim=True).values
    angles = _angles(known)
    joint, one, other = (torch.tensor([angle[part] for angle in angles], dtype=torch.int64, device=places.device)
                         for part in range(3))  # fmt: skip
    arms = places[:, one] - places[:, joint], places[:, other] - places[:, joint]
    cross = arms[0][..., 0] * arms[1][..., 1] - arms[0][..., 1] * arms[1][..., 0]
    turned = torch.atan2(cross, (arms[0] * arms[1]).sum(dim=-1))
    present = counted[:, joint] & counted[:, one] & counted[:, other]
    present &= (_lengths(arms[0]) > 0) & (_lengths(arms[1]) > 0)
    turned = torch.where(present, turned, torch.nan)
    ratios = torch.where(ratios.isfinite(), ratios, torch.nan)
    return torch.cat([ratios, turned], dim=1)


def _lengths(vectors: Tensor) -> Tensor:
    return torch.sqrt(vectors[..., 0] ** 2 + vectors[..., 1] ** 2)


def fit_pose_ranges(
    keypoints: Tensor, visibility: Tensor, skeleton: SkeletonLike, coverage: float = 0.998
) -> PoseRanges:
    """Find the ranges that known poses, such as those of a training set, are in.

    Args:
        keypoints: (N, K, 2), pixels.
        visibility: (N, K); above 0 where labelled.
        skeleton: What the keypoints are.
        coverage: Share of the known values that each range has: as many are left out below as above, and of angles
            the arc is the shortest that has so many.

    Raises:
        MetricError: Where the coverage is no share, or a measure is of nobody.
    """
    if not 0 < coverage <= 1:
        raise MetricError(f"coverage is {coverage}; give a share above 0 and up to 1.")
    known = get_skeleton(skeleton)
    limbs, angles = measure_names(known)
    measures = pose_measures(keypoints, visibility, known).cpu()
    low, high = [], []
    for column, name in enumerate([*limbs, *angles]):
        values = measures[:, column]
        values = values[~values.isnan()].sort().values
        if not len(values):
            raise MetricError(f"none of {len(measures)} known poses has a {name}; give more of them.")
        begin, end = _interval(values, coverage) if column < len(limbs) else _arc(values, coverage)
        low.append(begin)
        high.append(end)
    return PoseRanges(tuple(known.names), (*limbs, *angles), tuple(low), tuple(high), len(limbs))


def _interval(values: Tensor, coverage: float) -> tuple[float, float]:
    """Return the least and greatest of sorted values without the outermost ones."""
    left_out = int(len(values) * (1 - coverage) / 2 + 1e-9)
    return float(values[left_out]), float(values[len(values) - 1 - left_out])


def _arc(values: Tensor, coverage: float) -> tuple[float, float]:
    """Return where the shortest arc begins and ends that has a share of sorted angles."""
    count = len(values)
    wanted = max(1, math.ceil(count * coverage - 1e-9))
    around = torch.cat([values, values + _TURN])
    spans = around[wanted - 1 : wanted - 1 + count] - around[:count]
    begin = int(spans.argmin())
    return float(around[begin]), float(around[begin + wanted - 1])


def outside_ranges(measures: Tensor, ranges: PoseRanges) -> Tensor:
    """Compare measures with ranges.

    Args:
        measures: (N, M), as ``pose_measures`` returns them.
        ranges: Of known poses.

    Returns:
        (N, M) float64: 1 where a measure is outside, 0 where it is inside, NaN where it does not count.

    Raises:
        MetricError: Where there is another number of measures.
    """
    if measures.shape[1] != len(ranges.measures):
        raise MetricError(f"poses with {measures.shape[1]} measures, but ranges of {len(ranges.measures)}.")
    low, high = (torch.tensor(ends, dtype=measures.dtype, device=measures.device) for ends in (ranges.low, ranges.high))
    beyond = (measures < low) | (measures > high)
    slack = 1e-9  # a turn's remainder is not exact
    beyond[:, ranges.limbs :] = (torch.remainder(measures - low + slack, _TURN) > high - low + 2 * slack)[
        :, ranges.limbs :
    ]
    return torch.where(measures.isnan(), torch.nan, beyond.to(measures.dtype))


def implausible_poses(
    keypoints: Tensor, visibility: Tensor, ranges: PoseRanges, skeleton: SkeletonLike = "lsp14"
) -> Tensor:
    """Return the share of poses of which any measure is outside of the ranges of known poses.

    Args:
        keypoints: (N, K, 2), pixels.
        visibility: (N, K); measures of keypoints that are 0 do not count.
        ranges: Of known poses; see ``fit_pose_ranges``.
        skeleton: What the keypoints are.

    Returns:
        A float64 scalar in 0..1; NaN where no measure of anybody counts.

    Raises:
        MetricError: Where the ranges are of other keypoints.
    """
    outside = outside_ranges(pose_measures(keypoints, visibility, skeleton), ranges).cpu()
    return torch.tensor(share_of_poses(outside), dtype=torch.float64)


def share_of_poses(outside: Tensor) -> float:
    """Return the share of rows (N, M) with a 1 among those with any number; NaN where there are none."""
    counted = ~outside.isnan().all(dim=1)
    total = int(counted.sum())
    return int((outside == 1).any(dim=1).sum()) / total if total else math.nan
