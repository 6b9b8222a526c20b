"""What a method's checkpoint says about it, besides the weights: its arguments, and what its output means."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lightning_pose_zoo.checkpoints import loose_values
from lightning_pose_zoo.errors import CheckpointError, SettingsError, complain
from lightning_pose_zoo.methods.normalization import Normalization
from lightning_pose_zoo.skeletons import Skeleton

if TYPE_CHECKING:
    from lightning_pose_zoo.methods.base import PoseModule

__all__ = [
    "parts_of",
    "plain_arguments",
    "refuse_other_parts",
    "refuse_other_skeleton",
    "remember_arguments",
    "restore_normalization",
    "what_output_means",
]

# What decides nothing about the output: weights, scores, and what only training needs.
_NO_PART = ("network", "evaluation", "critics")


def remember_arguments(method: PoseModule) -> None:
    """Keep the arguments that a checkpoint can hold, and the skeleton itself in place of its name or file.

    Called in the constructor, whose frames Lightning reads the arguments from. The file of first weights is left out: a
    checkpoint has its own weights, and must load where that file is gone.

    Raises:
        SettingsError: Where an argument is no plain value.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is an instance of `nn.Module`.*")
        method.save_hyperparameters()
    given = dict(method.hparams) | {"skeleton": method.skeleton.to_dict()}
    if "weights" in given:
        given["weights"] = None
    method.hparams.clear()
    method.save_hyperparameters(plain_arguments(type(method).__name__, given))


def plain_arguments(method: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that a checkpoint can hold: without modules and callables, which are given again on loading.

    Raises:
        SettingsError: Where another is no plain value, so that the checkpoint could not be read; names it.
    """
    kept = {name: value for name, value in given.items() if not callable(value)}
    problems = list(loose_values(kept))
    if problems:
        raise SettingsError(complain(f"arguments of {method}", problems, "Give plain values."))
    return kept


def what_output_means(method: PoseModule) -> dict[str, Any]:
    """Return what a checkpoint says besides weights and arguments, so that its network's output is not misread."""
    settings = getattr(getattr(method._trainer, "datamodule", None), "settings", None)
    return {
        "image_size": None if settings is None else list(settings.size),
        "method": type(method).__name__,
        "parts": parts_of(method),
        "normalization": method.normalization.settings(),
        # Among the arguments too; but there Lightning puts those of load_from_checkpoint in their place.
        "skeleton": method.skeleton.to_dict(),
    }


def parts_of(method: nn.Module) -> dict[str, str]:
    """Describe the parts that decide what the network's output means: codec, loss, normalisation, ..."""
    children = dict(method.named_children())
    return {name: repr(part) for name, part in children.items() if name not in _NO_PART and not name.startswith("_")}


def refuse_other_parts(method: nn.Module, trained: dict[str, str]) -> None:
    """Refuse weights whose output would be misread.

    Args:
        method: What reads a checkpoint.
        trained: What the checkpoint says of its parts, as ``parts_of`` does.

    Raises:
        CheckpointError: Where a part differs from the one that the weights were trained with.
    """
    problems = [
        f"{name}: trained with {trained[name]}, but this is {own}"
        for name, own in parts_of(method).items()
        if name in trained and own != trained[name]
    ]
    if problems:
        remedy = "Give the method the same parts, as in load_from_checkpoint(path, codec=...), or the same recipe."
        raise CheckpointError(complain(f"the checkpoint of a {type(method).__name__}", problems, remedy))


def restore_normalization(method: PoseModule, stored: Mapping[str, Any]) -> None:
    """Let a method hand its network the pixels that a checkpoint's weights were trained on.

    They may have come with weights that the training began from, and then no argument tells them. A change is said.

    Args:
        method: What reads a checkpoint.
        stored: What ``Normalization.settings`` wrote; empty in checkpoints without it.
    """
    if not stored:
        return
    before, trained = method.normalization, Normalization(**stored)
    if trained.settings() != before.settings():
        method.normalization = trained.to(before.mean.device, before.mean.dtype)
        rank_zero_info(f"normalization: set to {trained}, as the checkpoint was trained; it was {before}")


def refuse_other_skeleton(method: PoseModule, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose maps belong to other keypoints, or to the same in another order.

    Args:
        method: What reads a checkpoint.
        checkpoint: Its content.

    Raises:
        CheckpointError: Where the keypoints differ; says how, and how to start from these weights nevertheless.
    """
    stored = checkpoint.get("skeleton", checkpoint.get("hyper_parameters", {}).get("skeleton"))
    if not isinstance(stored, Mapping):
        return
    theirs, mine = Skeleton.from_dict(stored), method.skeleton
    if theirs.names == mine.names:
        return
    raise CheckpointError(
        f"the checkpoint of a {type(method).__name__} finds {_listed(theirs, mine)}, but this one is to find "
        f"{_listed(mine, theirs)}. It cannot go on as it is. Its weights can be taken over by the keypoints' names: "
        f"give the file to --model.weights and not to --ckpt_path, or in Python {type(method).__name__}(..., "
        "weights=FILE)."
    )


def _listed(skeleton: Skeleton, other: Skeleton) -> str:
    """Write a skeleton's name and number of keypoints, and those that another one lacks."""
    alone = [name for name in skeleton.names if name not in other.names]
    few = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
    same = set(skeleton.names) == set(other.names)
    more = "in this order: " + ", ".join(skeleton.names) if same else f"{few} among them" if alone else ""
    return f"{skeleton.num_keypoints} keypoints of '{skeleton.name}'" + f" ({more})" * bool(more)
