"""What a checkpoint says of its method's settings, and how the command line's compare with it.

From weakest to strongest: the method's defaults, the checkpoint, the recipes, the flags. So a checkpoint alone is
enough to build its method, and whatever somebody states is what happens; every difference is printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_pose_zoo.checkpoints import read_checkpoint
from lightning_pose_zoo.errors import CheckpointError

__all__ = ["checkpoint_differences", "checkpoint_settings", "trusted_class", "with_checkpoint_settings"]

_INTERNAL = ("_class_path", "_instantiator", "skeleton")  # the skeleton is the data's
_GOES_ON = ("optimizer", "lr_scheduler")
_TRUSTED: dict[str, type | tuple[type, ...]] = {
    "lightning_pose_zoo": (nn.Module, torch.optim.lr_scheduler.LRScheduler),
    "torch.optim": (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler),
}


def trusted_class(path: str) -> type | None:
    """Return the class that a file names, if it is a part of this package or one of torch's optimizers or schedules.

    What a file names never decides what is imported: the class must be there already.
    """
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    if not isinstance(found, type):
        return None
    for package, kinds in _TRUSTED.items():
        if all(f"{place}.".startswith(f"{package}.") for place in (module, found.__module__)):
            return found if issubclass(found, kinds) else None
    return None


def _is_trusted(value: Any) -> bool:
    """Tell whether all classes that a setting names, at any depth, are trusted."""
    if isinstance(value, Mapping):
        path = value.get("class_path")
        return (path is None or trusted_class(str(path)) is not None) and all(map(_is_trusted, value.values()))
    return all(map(_is_trusted, value)) if isinstance(value, (list, tuple)) else True


def checkpoint_settings(path: Path) -> dict[str, Any] | None:
    """Return the method in a checkpoint as ``class_path`` and ``init_args``; None where it is none of this package's.

    Settings that name a class of anybody else are left out: a recipe or a flag has to state them.

    Raises:
        CheckpointError: Where the file is damaged, is no checkpoint, or would have to run code.
    """
    from lightning_pose_zoo import methods

    checkpoint = read_checkpoint(path)
    if not isinstance(checkpoint, dict):
        return None
    # Only a name among our own methods: a path out of a file could name any code.
    name = checkpoint.get("method")
    if name not in methods.__all__:
        return None
    given: Mapping[str, Any] = checkpoint["hyper_parameters"]
    arguments = {key: value for key, value in given.items() if key not in _INTERNAL and _is_trusted(value)}
    return {"class_path": name, "init_args": arguments}


def with_checkpoint_settings(words: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """Put a checkpoint's settings before all other words of a command line, so that every one of them counts more."""
    command, *others = words
    return [command, "--model", json.dumps(settings), *others]


def checkpoint_differences(
    settings: Mapping[str, Any], class_path: str, arguments: Mapping[str, Any], resuming: bool
) -> list[str]:
    """Say where the settings that will be used differ from those of a checkpoint.

    Args:
        settings: From ``checkpoint_settings``.
        class_path: The method that will be used.
        arguments: Its arguments.
        resuming: Whether training goes on, and with it the state of the optimizer.

    Returns:
        One line for each argument that differs.

    Raises:
        CheckpointError: Where the method is another one.
    """
    name = class_path.rpartition(".")[2]
    if name != settings["class_path"]:
        raise CheckpointError(
            f"the checkpoint is one of {settings['class_path']}, but the recipe or --model says {name}."
        )
    trained, used = dict(_leaves(settings["init_args"])), dict(_leaves(arguments))
    lines = []
    for key in sorted(trained.keys() & used.keys()):
        if trained[key] != used[key]:
            line = f"{key}: {_shown(trained[key])} in the checkpoint, {_shown(used[key])} is used"
            if resuming and key.startswith(_GOES_ON):
                line = (
                    f"{key}: {_shown(trained[key])} in the checkpoint goes on, since its state is resumed; "
                    f"{_shown(used[key])} has no effect (start anew from the weights to change it)"
                )
            lines.append(line)
    return lines


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in settings.items():
        name = prefix + key
        if isinstance(value, Mapping):
            if "class_path" in value:
                leaves.append((name, str(value["class_path"]).rpartition(".")[2]))
                leaves += _leaves(value.get("init_args") or {}, f"{name}.")
            else:
                leaves += _leaves(value, f"{name}.")
        else:
            leaves.append((name, list(value) if isinstance(value, tuple) else value))
    return leaves


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
