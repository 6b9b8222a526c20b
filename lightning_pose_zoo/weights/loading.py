"""``load_weights``: one call for all sources, and a report of what was done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_pose_zoo.errors import CheckpointError, complain
from lightning_pose_zoo.weights import official

__all__ = ["LoadReport", "load_weights", "read_state_dict"]


@dataclass(frozen=True)
class LoadReport:
    """What happened to the entries of a file.

    Attributes:
        source: What the file was recognised as.
        kept: Entries of the network that were filled.
        new: Entries of the network that the file lacks; they keep their first values.
        dropped: Entries of the file that the network has no place for.
    """

    source: str
    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file, whatever they are nested in.

    The file is always read with ``weights_only=True``, so that it cannot run code.

    Raises:
        CheckpointError: Where the file is missing, damaged, wants to run code or holds no weights.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; give the path of a file of weights.") from None
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as weights and nothing else: {error}") from error
    return unwrapped(content, str(path))


def unwrapped(content: Any, name: str) -> dict[str, Tensor]:
    """Take the tensors out of a checkpoint: out of ``state_dict``, and without ``module.`` before their names."""
    for nest in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            content = content[nest]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(
            f"{name} holds no weights; a dict of tensors or a checkpoint with 'state_dict' is needed."
        )
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    for prefix in ("module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def load_weights(method: nn.Module, weights: str | Path | Mapping[str, Any]) -> LoadReport:
    """Fill a method's network with weights that another project, or this one, trained.

    Known so far are checkpoints of this package, of the HRNet repository and of the Simple Baselines repository.

    Args:
        method: A method (its ``network`` is filled) or a network.
        weights: A file, or what was read from one.

    Returns:
        Which entries were kept, are new and were dropped.

    Raises:
        CheckpointError: Where the file is of no known source, or an entry is missing or of another shape.
    """
    name = str(weights) if isinstance(weights, (str, Path)) else "the given weights"
    state = read_state_dict(weights) if isinstance(weights, (str, Path)) else unwrapped(weights, name)
    network = method.network if isinstance(getattr(method, "network", None), nn.Module) else method
    assert isinstance(network, nn.Module)
    own = network.state_dict()
    if any(key.startswith("network.") for key in state):
        source, renamed = (
            "lightning_pose_zoo",
            {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")},
        )
    elif official.recognizes(state):
        source, renamed = "HRNet or Simple Baselines repository", official.rename(state)
    else:
        source, renamed = "plain state dict", dict(state)
    problems = [
        f"{key}: the file has {tuple(value.shape)}, the network {tuple(own[key].shape)}"
        for key, value in renamed.items()
        if key in own and own[key].shape != value.shape
    ]
    # Files of torch before 0.4.1 do not count batches; nothing depends on it.
    missing = [key for key in own if key not in renamed and not key.endswith("num_batches_tracked")]
    problems += [f"{key}: not in the file" for key in missing]
    if problems:
        raise CheckpointError(
            complain(
                f"{name} (read as: {source})", problems, "Choose the method and variant that the file was made for."
            )
        )
    network.load_state_dict(renamed, strict=False)
    if source.startswith("HRNet") and hasattr(method, "normalization"):
        official.set_channel_order(method, renamed)
    kept = tuple(key for key in own if key in renamed)
    return LoadReport(
        source, kept, tuple(k for k in own if k not in renamed), tuple(k for k in renamed if k not in own)
    )
