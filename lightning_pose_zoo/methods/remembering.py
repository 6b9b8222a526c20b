"""What a method's checkpoint says about it, besides the weights: its arguments, and what its output means."""

from __future__ import annotations

from typing import Any

from torch import nn

from lightning_pose_zoo.checkpoints import loose_values
from lightning_pose_zoo.errors import CheckpointError, SettingsError, complain

__all__ = ["parts_of", "plain_arguments", "refuse_other_parts"]


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


def parts_of(method: nn.Module) -> dict[str, str]:
    """Describe the parts that decide what the network's output means: codec, loss, normalisation, ..."""
    children = dict(method.named_children())
    return {name: repr(part) for name, part in children.items() if name not in ("network", "evaluation")}


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
