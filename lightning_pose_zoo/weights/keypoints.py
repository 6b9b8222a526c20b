"""Taking weights over to another skeleton, keypoint by keypoint.

Which entries of a network have channels that belong to keypoints is found out by building the method a second time
with one keypoint more, without memory, and comparing shapes: an axis that grew by ``a`` has ``a`` channels for each
keypoint, and the rest, such as a background map, stands behind them.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_pose_zoo.errors import CheckpointError
from lightning_pose_zoo.skeleton_synonyms import matched_keypoints
from lightning_pose_zoo.skeletons import DEFAULT_SIGMA, Skeleton

__all__ = [
    "Channels",
    "KeypointAxis",
    "KeypointTable",
    "LimbTable",
    "all_placed",
    "count_keypoints",
    "keypoint_axes",
    "keypoint_modules",
    "taken_over",
]

# Arguments that would read or download weights for a network that is only measured.
_WITHOUT = {"pretrained": False, "weights": None}


class KeypointAxis(NamedTuple):
    """One axis of an entry along which keypoints have channels.

    Attributes:
        each: Channels of one keypoint, side by side.
        rest: Channels of no keypoint.
        start: The first keypoint's first channel; the rest stands before it and behind the last keypoint.
    """

    each: int
    rest: int
    start: int

    def positions(self, keypoints: int, order: Sequence[int]) -> list[int]:
        """Return the channels of the keypoints in ``order``, out of so many, and of the rest."""
        before, after = self.start, self.rest - self.start
        end = self.start + self.each * keypoints
        channels = [self.start + self.each * keypoint + part for keypoint in order for part in range(self.each)]
        return [*range(before), *channels, *range(end, end + after)]


class Channels(NamedTuple):
    """Which channels of an entry are taken over along one of its axes.

    Attributes:
        here: Channels of the network's entry.
        there: The file's channel for each of them.
        size: Channels that the file's entry must have.
        ways: What each is multiplied with; empty where nothing is.
    """

    here: Sequence[int]
    there: Sequence[int]
    size: int
    ways: Sequence[float] = ()


class LimbTable(NamedTuple):
    """Which limbs were taken over by a network that has channels for limbs too.

    Attributes:
        theirs: The file's limbs, each as ``start-end``.
        mine: The network's.
        found: For each limb of ``mine`` its index in ``theirs``; None for those that start fresh.
        ways: -1 for each limb that the file counts from its other end, else 1.
    """

    theirs: tuple[str, ...]
    mine: tuple[str, ...]
    found: list[int | None]
    ways: list[float]


class KeypointTable(NamedTuple):
    """Which keypoints were taken over.

    Attributes:
        theirs: The file's skeleton; of methods that find parts (``codecs.body_parts``), the parts.
        mine: The method's.
        found: For each keypoint of ``mine`` its index in ``theirs``; None for those that start fresh.
        limbs: Which limbs were taken over, where limbs have channels.
    """

    theirs: Skeleton
    mine: Skeleton
    found: list[int | None]
    limbs: LimbTable | None = None

    @property
    def kept(self) -> list[tuple[str, str]]:
        """Names here and in the file."""
        pairs = zip(self.mine.names, self.found, strict=True)
        return [(name, self.theirs.names[index]) for name, index in pairs if index is not None]

    @property
    def new(self) -> list[str]:
        """Keypoints that the file does not have."""
        return [name for name, index in zip(self.mine.names, self.found, strict=True) if index is None]

    @property
    def dropped(self) -> list[str]:
        """Keypoints of the file that have no place here."""
        return [name for index, name in enumerate(self.theirs.names) if index not in self.found]

    def __str__(self) -> str:
        """Write a table with one line for each keypoint, and one for each limb that has channels."""
        rows = [("keypoint", "in the file", ""), *_rows(self.mine.names, self.theirs.names, self.found)]
        if self.limbs is not None:
            limbs = self.limbs
            rows += [("limb", "in the file", ""), *_rows(limbs.mine, limbs.theirs, limbs.found, limbs.ways)]
        first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
        return "\n".join(f"  {a:<{first}}  {b:<{second}}  {c}".rstrip() for a, b, c in rows)


def _rows(
    mine: Sequence[str], theirs: Sequence[str], found: Sequence[int | None], ways: Sequence[float] = ()
) -> list[tuple[str, str, str]]:
    """Write for each name what it is in the file: first those that are kept, then the new and the dropped ones."""
    pairs = list(zip(mine, found, ways or [1.0] * len(mine), strict=True))
    kept = [
        (name, theirs[there], "kept" if way > 0 else "kept, turned") for name, there, way in pairs if there is not None
    ]
    new = [(name, "-", "new") for name, there, _ in pairs if there is None]
    return [*kept, *new, *(("-", name, "dropped") for index, name in enumerate(theirs) if index not in found)]


def _rebuilt(method: nn.Module, skeleton: Skeleton) -> nn.Module:
    """Build a method again for another skeleton, without memory for its weights."""
    given = dict(getattr(method, "hparams", {}))
    arguments: dict[str, Any] = {}
    for name in inspect.signature(type(method)).parameters:
        part = getattr(method, name, None)
        if name in _WITHOUT:
            arguments[name] = _WITHOUT[name]
        elif isinstance(part, nn.Module):
            # Before the arguments: those of the command line name a part by its class.
            arguments[name] = part
        elif name in given:
            arguments[name] = given[name]
    try:
        with torch.device("meta"):
            again: nn.Module = type(method)(**{**arguments, "skeleton": skeleton})
    except Exception as error:
        raise CheckpointError(
            f"which entries of a {type(method).__name__} belong to keypoints cannot be found out, because it cannot be "
            f"built for another skeleton ({error}); give the method the file's own skeleton."
        ) from error
    return again


def keypoint_axes(method: nn.Module) -> dict[str, dict[int, KeypointAxis]]:
    """Find the axes of a method's network that have channels for keypoints.

    A network whose layers read keypoint maps beside other features says by ``keypoint_inputs_at`` at which channel the
    maps begin; 0 by default.

    Args:
        method: A method with ``skeleton``, ``hparams`` and ``network``, as every ``PoseModule`` has.

    Returns:
        By entry and axis, how the channels belong to keypoints.

    Raises:
        CheckpointError: Where the method cannot be built for another skeleton.
    """
    mine: Skeleton = method.skeleton  # type: ignore[assignment]
    more = dataclasses.replace(
        mine, names=(*mine.names, "one keypoint more"), sigmas=(*mine.sigmas, DEFAULT_SIGMA), colors=()
    )
    own = method.network.state_dict()  # type: ignore[union-attr, operator]
    grown = _rebuilt(method, more).network.state_dict()  # type: ignore[union-attr, operator]
    begin = int(getattr(method.network, "keypoint_inputs_at", 0))
    axes: dict[str, dict[int, KeypointAxis]] = {}
    for key, value in own.items():
        for axis, (size, larger) in enumerate(zip(value.shape, grown[key].shape, strict=True)):
            each = larger - size
            rest = size - each * mine.num_keypoints
            if each:
                axes.setdefault(key, {})[axis] = KeypointAxis(each, rest, min(begin, rest) if axis == 1 else 0)
    return axes


def keypoint_modules(method: nn.Module) -> tuple[str, ...]:
    """Return what the names of entries begin with that are of a module for each keypoint, up to the keypoint's number.

    A network that has such modules says so by ``keypoint_modules``; none by default.
    """
    return tuple(getattr(method.network, "keypoint_modules", ()))


def count_keypoints(axes: Mapping[str, Mapping[int, KeypointAxis]], state: Mapping[str, Tensor]) -> int | None:
    """Count the keypoints that the entries of a file have channels for; None where they disagree or have none."""
    counts = {
        (state[key].shape[axis] - way.rest) / way.each
        for key, ways in axes.items()
        for axis, way in ways.items()
        if key in state and axis < state[key].ndim
    }
    count = counts.pop() if len(counts) == 1 else 0.0
    return int(count) if count >= 1 and count == int(count) else None


def _placed(own: Tensor, value: Tensor, axes: Mapping[int, Channels]) -> Tensor:
    """Put the channels of a file's entry where the network has them; the others keep the network's first values."""
    target, source = own.clone(), value.to(own.device, own.dtype)
    places: list[Tensor] = []
    for axis in range(own.ndim):
        shape = [-1 if other == axis else 1 for other in range(own.ndim)]
        here: Sequence[int] = range(own.shape[axis])
        if axis in axes:
            here = axes[axis].here
            source = source.index_select(axis, torch.tensor(axes[axis].there, dtype=torch.int64, device=own.device))
            if axes[axis].ways:
                source = source * torch.tensor(axes[axis].ways, dtype=own.dtype, device=own.device).view(shape)
        places.append(torch.tensor(here, dtype=torch.int64, device=own.device).view(shape))
    target[tuple(places)] = source
    return target


def all_placed(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], channels: Mapping[str, Mapping[int, Channels]]
) -> dict[str, Tensor]:
    """Put the channels of all entries in their places; entries of a shape that does not fit are left out.

    Args:
        own: The network's entries.
        state: The file's.
        channels: By entry and axis, which channels are taken over.
    """
    result = {}
    for key, axes in channels.items():
        expected = list(own[key].shape)
        for axis, way in axes.items():
            expected[axis] = way.size
        if key in state and list(state[key].shape) == expected:
            result[key] = _placed(own[key], state[key], axes)
    return result


def taken_over(
    method: nn.Module,
    state: Mapping[str, Tensor],
    theirs: Skeleton,
    axes: Mapping[str, Mapping[int, KeypointAxis]],
) -> tuple[dict[str, Tensor], KeypointTable]:
    """Take the channels of keypoints over by name.

    Args:
        method: A method with ``skeleton`` and ``network``.
        state: Entries of the file, named as the network's.
        theirs: The skeleton that they were trained for.
        axes: What ``keypoint_axes`` found.

    Returns:
        The entries with channels in the method's order, and which keypoints were taken over. Entries whose shape is not
        that of ``theirs`` come back as they are.
    """
    mine: Skeleton = method.skeleton  # type: ignore[assignment]
    table = KeypointTable(theirs, mine, matched_keypoints(theirs, mine))
    own = method.network.state_dict()  # type: ignore[union-attr, operator]
    kept = [index for index, found in enumerate(table.found) if found is not None]
    found = [found for found in table.found if found is not None]
    channels = {
        key: {
            axis: Channels(
                way.positions(mine.num_keypoints, kept),
                way.positions(theirs.num_keypoints, found),
                way.each * theirs.num_keypoints + way.rest,
            )
            for axis, way in ways.items()
        }
        for key, ways in axes.items()
    }
    result = dict(state) | all_placed(own, state, channels)
    for prefix in keypoint_modules(method):
        theirs_of = {key.removeprefix(prefix): result.pop(key) for key in state if key.startswith(prefix)}
        for key in own:
            if key.startswith(prefix):
                number, _, rest = key.removeprefix(prefix).partition(".")
                there = table.found[int(number)]
                result[key] = own[key] if there is None else theirs_of.get(f"{there}.{rest}", own[key])
    return result, table
