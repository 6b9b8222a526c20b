"""Taking the weights of networks that find parts and limbs over to another skeleton.

Such a network (OpenPose's) has a map for each part, the computed neck among them, and one for the background, and two
channels of its fields for each limb. Parts are taken over by name, limbs by the names of their ends; the fields of a
limb that the file counts from its other end are turned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from lightning_pose_zoo.codecs.body_parts import BodyParts, body_parts
from lightning_pose_zoo.errors import CheckpointError
from lightning_pose_zoo.skeleton_synonyms import canonical_name, matched_keypoints
from lightning_pose_zoo.skeletons import SKELETON_NAMES, Skeleton, SkeletonLike, get_skeleton
from lightning_pose_zoo.weights.keypoints import Channels, KeypointTable, LimbTable, all_placed
from lightning_pose_zoo.weights.reading import TrainedWeights
from lightning_pose_zoo.weights.sources import Source, skeleton_of

__all__ = ["part_table", "parts_onto_skeleton"]


def parts_onto_skeleton(
    method: nn.Module, state: dict[str, Tensor], trained: TrainedWeights, source: Source, given: SkeletonLike | None
) -> tuple[dict[str, Tensor], KeypointTable | None, list[str]]:
    """Bring the channels of parts and limbs into the method's order.

    Args:
        method: A method with ``skeleton`` and a ``network`` that has ``part_channels``.
        state: Entries of the file, named as the network's.
        trained: The file.
        source: Where it comes from.
        given: The keypoints that it was trained for, where the user says so.

    Returns:
        The entries, a table where parts differ, and remarks. Entries that do not fit come back as they are.

    Raises:
        CheckpointError: Where it cannot be told which keypoints the file is for.
    """
    network: Any = method.network
    mine: Skeleton = method.skeleton  # type: ignore[assignment]
    layout: Mapping[str, Mapping[int, tuple[str, ...]]] = network.part_channels()
    count = _count(layout, state)
    if count is None:
        return state, None, []
    theirs, remarks = _skeleton_of(count, trained, source, given, mine)
    if theirs.names == mine.names:
        return state, None, remarks
    own = network.state_dict()
    table = part_table(theirs, mine)
    channels = {
        key: {axis: _channels(blocks, own[key].shape[axis], table) for axis, blocks in axes.items()}
        for key, axes in layout.items()
    }
    return state | all_placed(own, state, channels), table, remarks


def _count(layout: Mapping[str, Mapping[int, tuple[str, ...]]], state: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Count the parts and the limbs that a file has channels for; None where its heads disagree."""
    sizes: dict[str, set[int]] = {"fields": set(), "maps": set()}
    for key, axes in layout.items():
        if 0 in axes and key in state:
            sizes[axes[0][0]].add(state[key].shape[0])
    if any(len(found) != 1 for found in sizes.values()):
        return None
    maps, fields = sizes["maps"].pop(), sizes["fields"].pop()
    return maps - 1, fields // 2


def _skeleton_of(
    count: tuple[int, int], trained: TrainedWeights, source: Source, given: SkeletonLike | None, mine: Skeleton
) -> tuple[Skeleton, list[str]]:
    """Tell which keypoints a file of so many parts and limbs was trained for, and how that is known."""

    def fits(skeleton: Skeleton) -> bool:
        parts = body_parts(skeleton).skeleton
        return (parts.num_keypoints, len(parts.limbs)) == count

    said = get_skeleton(given) if given is not None else trained.skeleton
    possible = [said] if said else [*(get_skeleton(name) for name in source.skeletons.values()), mine]
    fitting = [skeleton for skeleton in possible if fits(skeleton)]
    if fitting:
        return skeleton_of(trained, source, given, fitting[0].num_keypoints, mine)
    known = [name for name in SKELETON_NAMES if fits(get_skeleton(name))]
    which = f"'{said.name}' has others" if said else f"{', '.join(known) or 'no skeleton of this package'} has as many"
    raise CheckpointError(
        f"{trained.name} (read as: {source.name}) finds {count[0]} parts and {count[1]} limbs; {which}. Give the "
        "skeleton that it was trained for: load_weights(method, path, skeleton=...)."
    )


def part_table(theirs_of: Skeleton, mine_of: Skeleton) -> KeypointTable:
    """Find each part and each limb of a skeleton in another one.

    Args:
        theirs_of: The file's keypoints.
        mine_of: The keypoints whose parts and limbs are looked for.
    """
    theirs, mine = body_parts(theirs_of), body_parts(mine_of)
    found = matched_keypoints(_comparable(theirs, mine), _comparable(mine, theirs))
    ends = [(found[a], found[b]) for a, b in mine.skeleton.limbs]
    place = {limb: index for index, limb in enumerate(theirs.skeleton.limbs)}
    limbs, ways = [], []
    for a, b in ends:
        there = None if a is None or b is None else place.get((a, b), place.get((b, a)))
        limbs.append(there)
        ways.append(-1.0 if there is not None and (a, b) not in place else 1.0)
    table = LimbTable(_limb_names(theirs.skeleton), _limb_names(mine.skeleton), limbs, ways)
    return KeypointTable(theirs.skeleton, mine.skeleton, found, table)


def _comparable(parts: BodyParts, others: BodyParts) -> Skeleton:
    """Return the parts by names to compare: a computed neck is a thorax where the others have one, else a neck."""
    skeleton = parts.skeleton
    if parts.neck < 0 or "thorax" not in map(canonical_name, others.skeleton.names):
        return skeleton
    names = ["thorax" if index == parts.neck else name for index, name in enumerate(skeleton.names)]
    return replace(skeleton, names=tuple(names))


def _limb_names(skeleton: Skeleton) -> tuple[str, ...]:
    return tuple(f"{skeleton.names[a]}-{skeleton.names[b]}" for a, b in skeleton.limbs)


def _channels(blocks: Sequence[str], size: int, table: KeypointTable) -> Channels:
    """Say which channels along an axis of so many are taken over.

    Args:
        blocks: What stands along the axis, see ``OpenPoseNetwork.part_channels``.
        size: Of the network's axis.
        table: Which parts and limbs are taken over.
    """
    assert table.limbs is not None
    parts = _block([*table.found, table.theirs.num_keypoints], table.theirs.num_keypoints + 1, 1, [])
    limbs = _block(table.limbs.found, len(table.limbs.theirs), 2, table.limbs.ways)
    known = {"maps": (table.mine.num_keypoints + 1, parts), "fields": (2 * len(table.limbs.mine), limbs)}
    features = size - sum(known[block][0] for block in blocks if block in known)
    known["features"] = (features, _block(list(range(features)), features, 1, []))
    here: list[int] = []
    there: list[int] = []
    ways: list[float] = []
    begin = begin_there = 0
    for block in blocks:
        width, channels = known[block]
        here += [begin + channel for channel in channels.here]
        there += [begin_there + channel for channel in channels.there]
        ways += channels.ways
        begin, begin_there = begin + width, begin_there + channels.size
    return Channels(here, there, begin_there, ways)


def _block(found: Sequence[int | None], count: int, each: int, ways: Sequence[float]) -> Channels:
    """Say which channels of parts or limbs are taken over, of which each has some side by side.

    Args:
        found: For each of the network's its index in the file, or None.
        count: How many the file has.
        each: Channels of one.
        ways: What each is multiplied with; empty for 1.
    """
    kept = [(index, other) for index, other in enumerate(found) if other is not None]
    return Channels(
        [each * index + part for index, _ in kept for part in range(each)],
        [each * other + part for _, other in kept for part in range(each)],
        each * count,
        [ways[index] if ways else 1.0 for index, _ in kept for _ in range(each)],
    )
