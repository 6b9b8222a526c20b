"""``load_weights``: one call for all sources, and a report of what was done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_pose_zoo.errors import CheckpointError, complain
from lightning_pose_zoo.skeletons import Skeleton, SkeletonLike
from lightning_pose_zoo.weights import timm_backbone
from lightning_pose_zoo.weights.description import describe
from lightning_pose_zoo.weights.expectations import reading_advice, set_normalization
from lightning_pose_zoo.weights.keypoints import (
    KeypointTable,
    count_keypoints,
    keypoint_axes,
    keypoint_modules,
    taken_over,
)
from lightning_pose_zoo.weights.part_channels import parts_onto_skeleton
from lightning_pose_zoo.weights.reading import TrainedWeights, read_weights
from lightning_pose_zoo.weights.sources import BACKBONE, PLAIN, SOURCES, Source, foreign, recognized, skeleton_of

__all__ = ["LoadReport", "load_weights", "misfits"]


@dataclass(frozen=True)
class LoadReport:
    """What happened to the entries of a file.

    Attributes:
        source: What the file was recognised as.
        kept: Entries of the network that were filled.
        new: Entries of the network that the file lacks; they keep their first values.
        dropped: Entries of the file that the network has no place for.
        keypoints: Which keypoints were taken over; None where they are the same, in the same order.
        advice: What else was changed or should be, one line each.
    """

    source: str
    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    keypoints: KeypointTable | None = None
    advice: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Write what happened, with a line for each keypoint where the skeletons differ."""
        counts = f"{len(self.kept)} entries kept, {len(self.new)} new, {len(self.dropped)} dropped"
        lines = [f"weights of {self.source}: {counts}"]
        if self.keypoints is not None:
            lines += [f"from skeleton {self.keypoints.theirs.name} to {self.keypoints.mine.name}:", str(self.keypoints)]
        return "\n".join([*lines, *self.advice])


def load_weights(
    method: nn.Module, weights: str | Path | Mapping[str, Any], skeleton: SkeletonLike | None = None
) -> LoadReport:
    """Fill a method's network with weights that another project, or this one, trained.

    Known are checkpoints of this package, of the HRNet, Simple Baselines, bearpaw and princeton repositories, of
    mmpose (HRNet, ResNet, CPM, DeepPose), of OpenPose and AlphaPose (FastPose), of torchvision's and detectron2's
    Keypoint R-CNN, and backbones of timm and torchvision alone. They are told by their entries. The method's
    normalisation is set to what the weights expect. Where they were trained for other keypoints, or in another order,
    channels are taken over by the keypoints' names, those of limbs by the names of their ends, and new ones keep
    their first values. The report goes where Lightning's messages go.

    Args:
        method: A method (its ``network`` is filled) or a network.
        weights: A file, or what was read from one.
        skeleton: The keypoints that the weights were trained for. By default what the file says of itself, else what
            its source means by so many keypoints: 17 are ``coco17``, 16 are ``mpii16``.

    Returns:
        Which entries and keypoints were kept, are new and were dropped.

    Raises:
        UnsafeCheckpointError: Where the file asks for code to be run.
        CheckpointError: Where the file is damaged or of no known source, an entry is missing, unexpected, of another
            shape or not finite, or it cannot be told which keypoints the weights were trained for.
    """
    from lightning.pytorch.utilities import rank_zero_info

    trained = read_weights(weights)
    network = method.network if isinstance(getattr(method, "network", None), nn.Module) else method
    assert isinstance(network, nn.Module)
    own = network.state_dict()
    source = _source_of(trained, own)
    places = _places(trained, source, own)
    state = {places[key]: source.value(places[key], value) for key, value in trained.state.items() if key in places}
    table: KeypointTable | None = None
    advice: list[str] = []
    if source is not BACKBONE and isinstance(getattr(method, "skeleton", None), Skeleton) and network is not method:
        state, table, advice = _onto_skeleton(method, own, state, trained, source, skeleton)
    _refuse_misfits(method, own, state, trained, source)
    network.load_state_dict(state, strict=False)
    report = LoadReport(
        source.name,
        tuple(key for key in own if key in state),
        tuple(key for key in own if key not in state),
        tuple(key for key in trained.state if key not in places),
        table,
        (*advice, *set_normalization(method, trained, source), *reading_advice(method, trained, source)),
    )
    rank_zero_info(f"{trained.name}: {report}")
    return report


def _source_of(trained: TrainedWeights, own: Mapping[str, Tensor]) -> Source:
    """Return the source of a file: by its entries' names, else by which of them the network has."""
    source = recognized(trained.state)
    if source is not None:
        return source
    fitting = {
        known: sum(place in own for place in _places(trained, known, own).values()) for known in (BACKBONE, PLAIN)
    }
    best = max(fitting, key=lambda known: fitting[known])
    if fitting[best]:
        return best
    who = foreign(trained.state)
    if who:
        raise CheckpointError(
            f"{trained.name} holds weights of {who}, and no method of this package has that network. Known are: "
            f"{', '.join(known.name for known in (*SOURCES, BACKBONE))}."
        )
    examples = ", ".join(list(trained.state)[:3])
    raise CheckpointError(
        f"{trained.name} is of no known source, and none of its {len(trained.state)} entries ({examples}, ...) is one "
        f"of this network. Known are: {', '.join(known.name for known in (*SOURCES, BACKBONE))}."
    )


def _places(trained: TrainedWeights, source: Source, own: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the network's name of each entry of a file; entries that no network needs are left out."""
    places = {key: place for key in trained.state if (place := source.rename(key)) is not None}
    if source is not BACKBONE:
        return places
    names = timm_backbone.feature_names(places.values(), own)
    return {key: names[place] for key, place in places.items() if place in names}


def _onto_skeleton(
    method: nn.Module,
    own: Mapping[str, Tensor],
    state: dict[str, Tensor],
    trained: TrainedWeights,
    source: Source,
    given: SkeletonLike | None,
) -> tuple[dict[str, Tensor], KeypointTable | None, list[str]]:
    """Bring the channels of keypoints into the method's order; with a table where something changes, and remarks."""
    mine: Skeleton = method.skeleton  # type: ignore[assignment]
    filled = {key for key in own if key.startswith(source.part)}
    others = [
        key
        for key in filled ^ state.keys()
        if not key.endswith("num_batches_tracked") and not key.startswith(keypoint_modules(method))
    ]
    if not others and hasattr(method.network, "part_channels"):
        return parts_onto_skeleton(method, state, trained, source, given)
    same_shapes = all(own[key].shape == value.shape for key, value in state.items() if key in own)
    axes = None if same_shapes or others else keypoint_axes(method)
    count = mine.num_keypoints if axes is None else count_keypoints(axes, state)
    if others or count is None:
        # It is not the keypoints that differ; what does is refused entry by entry.
        return state, None, []
    theirs, remarks = skeleton_of(trained, source, given, count, mine)
    if theirs.names == mine.names:
        return state, None, remarks
    state, table = taken_over(method, state, theirs, keypoint_axes(method) if axes is None else axes)
    return state, table, remarks


def misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor], part: str = "") -> list[str]:
    """List the entries that are missing, unexpected, of another shape or not finite, with what is wrong with each.

    Args:
        own: Entries of the network.
        state: Entries of the file, named as the network's.
        part: What the names of the entries begin with that the file should fill; all by default.
    """
    # Files of torch before 0.4.1 do not count batches; nothing depends on it.
    needed = [key for key in own if not key.endswith("num_batches_tracked") and key.startswith(part)]
    problems = [f"{key}: not in the file" for key in needed if key not in state]
    for key, value in state.items():
        if key not in own:
            problems.append(f"{key}: in the file, but not in the network")
        elif own[key].shape != value.shape:
            problems.append(f"{key}: the file has {tuple(value.shape)}, the network {tuple(own[key].shape)}")
        elif value.is_floating_point() and not torch.isfinite(value).all():
            problems.append(f"{key}: has values that are not finite")
    return problems


def _refuse_misfits(
    method: nn.Module,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    trained: TrainedWeights,
    source: Source,
) -> None:
    """Raise where an entry does not fit, saying what the file was made for."""
    problems = misfits(own, state, source.part)
    if not problems:
        return
    remedy = "Choose the method and variant that the file was made for."
    described = describe(source.renamed(trained.state), {**source.arguments, **trained.hyper_parameters}, source.stem)
    if described is not None:
        meant = trained.skeleton.name if trained.skeleton else source.skeletons.get(described.keypoints, "...")
        remedy = f"The file holds {described.call(meant)}; build that, or take a file of a {type(method).__name__}."
    fitting = sum(key in own and own[key].shape == value.shape for key, value in state.items())
    what = f"{trained.name} (closest to: {source.name}; {fitting} of {len(own)} entries fit)"
    raise CheckpointError(complain(what, problems, remedy))
