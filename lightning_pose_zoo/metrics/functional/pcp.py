"""Percentage of correct parts: limbs whose two ends are both near their true places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_pose_zoo.errors import MetricError
from lightning_pose_zoo.metrics.functional.keypoint_error import precise
from lightning_pose_zoo.metrics.functional.pck import fraction_within
from lightning_pose_zoo.skeletons import Skeleton, SkeletonLike, get_skeleton

__all__ = ["Limb", "PCPVariant", "limb_errors", "pcp", "pcp_limbs", "worse_or_mean"]

PCPVariant = Literal["strict", "relaxed"]
"""``strict``: both ends have to be near; ``relaxed``: the mean of both distances counts."""

End = tuple[int, ...]
"""The keypoints whose mean is the end of a limb: one, or two for the middle of shoulders or hips."""

# A limb of two sides: its column in published tables, and the keypoints at its ends in order of preference.
_SIDED_LIMBS = (
    ("Upper Leg", ("hip",), ("knee",)),
    ("Lower Leg", ("knee",), ("ankle", "foot")),
    ("Upper Arm", ("shoulder",), ("elbow",)),
    ("Forearm", ("elbow",), ("wrist",)),
)


@dataclass(frozen=True)
class Limb:
    """One limb that PCP scores.

    Attributes:
        name: Its ends, as in ``left_elbow-left_wrist``.
        group: The column of published tables that it belongs to; empty where there is none.
        ends: The keypoints of both ends.
    """

    name: str
    group: str
    ends: tuple[End, End]


def _human_limbs(skeleton: Skeleton) -> list[Limb]:
    """Return the sticks of published tables, as far as the skeleton has them; none without arms."""
    known = {name: index for index, name in enumerate(skeleton.names)}

    def find(side: str, parts: tuple[str, ...]) -> str | None:
        return next((name for part in parts if (name := f"{side}_{part}") in known), None)

    limbs = []
    for group, first, second in _SIDED_LIMBS:
        for side in ("left", "right"):
            start, end = find(side, first), find(side, second)
            if start and end:
                limbs.append(Limb(f"{start}-{end}", group, ((known[start],), (known[end],))))
    if sum(limb.group in ("Upper Arm", "Forearm") for limb in limbs) < 4:
        return []
    girdles = [[known[f"{side}_{part}"] for side in ("left", "right") if f"{side}_{part}" in known]
               for part in ("shoulder", "hip")]  # fmt: skip
    if all(len(girdle) == 2 for girdle in girdles):
        limbs.insert(0, Limb("shoulders-hips", "Torso", (tuple(girdles[0]), tuple(girdles[1]))))
    if skeleton.head:
        first_end, second_end = skeleton.head[0]
        name = f"{skeleton.names[first_end]}-{skeleton.names[second_end]}"
        limbs.append(Limb(name, "Head", ((first_end,), (second_end,))))
    return limbs


def pcp_limbs(skeleton: SkeletonLike, limbs: Sequence[tuple[str, str]] | None = None) -> list[Limb]:
    """Return the limbs that PCP scores.

    For a human body these are the sticks of the tables on LSP, those that the skeleton has: the torso from the middle
    of the shoulders to the middle of the hips, upper and lower legs, upper arms, forearms, and the head. For others
    they are ``Skeleton.limbs``.

    Args:
        skeleton: What the keypoints are.
        limbs: Names of the keypoints at both ends, to score these limbs only.

    Raises:
        SkeletonError: Where the skeleton has no keypoint of a name.
        MetricError: Where there is nothing to score.
    """
    known = get_skeleton(skeleton)
    human = _human_limbs(known)
    if limbs is None and human:
        return human
    pairs = known.limbs if limbs is None else [(known.index(first), known.index(second)) for first, second in limbs]
    if not pairs:
        raise MetricError(f"skeleton '{known.name}' has no limbs that PCP could score; define 'limbs' or give them.")
    groups = {frozenset(limb.ends): limb.group for limb in human}
    return [
        Limb(f"{known.names[a]}-{known.names[b]}", groups.get(frozenset({(a,), (b,)}), ""), ((a,), (b,)))
        for a, b in pairs
    ]


def limb_errors(keypoints: Tensor, target: Tensor, visibility: Tensor, limbs: Sequence[Limb]) -> Tensor:
    """Measure how far both ends of each limb are off, in units of the limb's true length.

    Args:
        keypoints: (N, K, 2) predicted, pixels.
        target: (N, K, 2) true, pixels.
        visibility: (N, K); above 0 where labelled.
        limbs: The L limbs.

    Returns:
        (N, L, 2) float64; NaN where a keypoint of the limb is not labelled or the limb has no length.
    """
    predicted, true = precise(keypoints.to(target.device)), precise(target)
    columns = []
    for limb in limbs:
        members = [index for end in limb.ends for index in end]
        ends = [true[:, list(end)].mean(dim=1) for end in limb.ends]
        offsets = [predicted[:, list(end)].mean(dim=1) - place for end, place in zip(limb.ends, ends, strict=True)]
        length = _norm(ends[0] - ends[1])
        counted = (visibility[:, members] > 0).all(dim=1) & (length > 0)
        errors = torch.stack([_norm(offset) for offset in offsets], dim=1) / length[:, None]
        columns.append(torch.where(counted[:, None], errors, torch.nan))
    return torch.stack(columns, dim=1)


def _norm(vectors: Tensor) -> Tensor:
    return torch.sqrt(vectors[:, 0] ** 2 + vectors[:, 1] ** 2)


def worse_or_mean(errors: Tensor, variant: PCPVariant) -> Tensor:
    """Reduce the errors of both ends, (N, L, 2), to what is compared with the threshold, (N, L)."""
    return errors.amax(dim=-1) if variant == "strict" else (errors[..., 0] + errors[..., 1]) / 2


def pcp(
    keypoints: Tensor,
    target: Tensor,
    visibility: Tensor,
    skeleton: SkeletonLike = "lsp14",
    threshold: float = 0.5,
    variant: PCPVariant = "strict",
    limbs: Sequence[tuple[str, str]] | None = None,
    average: Literal["micro"] | None = "micro",
) -> Tensor:
    """Return the percentage of correct parts, as a fraction.

    Args:
        keypoints: (N, K, 2) predicted, pixels.
        target: (N, K, 2) true, pixels.
        visibility: (N, K); a limb counts where all its keypoints are above 0.
        skeleton: What the keypoints are.
        threshold: A limb is right within (``<=``) this fraction of its true length.
        variant: ``strict`` or ``relaxed``.
        limbs: Names of the keypoints at both ends of the limbs; None: see ``pcp_limbs``.
        average: ``micro`` for the fraction of all limbs, None for one fraction per limb, in the order of ``pcp_limbs``.

    Returns:
        A float64 scalar in 0..1, or (L,); NaN where nothing counts.
    """
    errors = limb_errors(keypoints, target, visibility, pcp_limbs(skeleton, limbs))
    return fraction_within(worse_or_mean(errors, variant), threshold, average=average)
