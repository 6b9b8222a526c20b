"""Reading a file of weights, whoever wrote it: the tensors, and what the file says of itself.

Nothing in a file can run code: pickles are read with ``weights_only=True``, always. Beyond what torch takes then,
arrays and numbers of numpy are read, which mmpose and the older repositories put beside their weights, and mmengine's
log buffers are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_pose_zoo.errors import CheckpointError
from lightning_pose_zoo.skeletons import Skeleton
from lightning_pose_zoo.weights.plain_pickle import is_plain_pickle, read_plain_pickle

__all__ = ["TrainedWeights", "read_weights"]

# Averaged weights first: they are what a training ends with.
_NESTS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model", "best_state_dict", "module")
_WRAPPERS = ("module.", "model.")
# What wrappers that average weights count beside them.
_COUNTERS = ("n_averaged", "steps")
_NUMPY_TYPES = ("Bool", "Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float16", "Float32",
                "Float64")  # fmt: skip


class _PassedOver:
    """Stands for a class that is not installed and whose content nobody needs."""


@dataclass(frozen=True)
class TrainedWeights:
    """What a file holds.

    Attributes:
        name: The file, for messages.
        state: Entries by name, without the wrappers' prefixes.
        nest: Where in the file they are, such as ``state_dict``; empty where on top.
        skeleton: The keypoints that the file itself names; None where it does not.
        hyper_parameters: Arguments of the method, in checkpoints of this package.
        parts: Codec, loss and normalisation that the weights were trained with, in checkpoints of this package.
        normalization: The arguments of ``Normalization`` that they were trained with, likewise.
    """

    name: str
    state: dict[str, Tensor]
    nest: str = ""
    skeleton: Skeleton | None = None
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    normalization: Mapping[str, Any] = field(default_factory=dict)


def read_weights(weights: str | Path | Mapping[str, Any]) -> TrainedWeights:
    """Read the weights of a file, whatever they are nested in.

    Nests such as ``state_dict``, ``model`` and ``ema`` are opened and the prefixes ``module.``, ``model.`` and
    ``_orig_mod.`` taken off, as often as they occur. Where averaged weights stand beside the last ones, they are taken.

    Args:
        weights: A file of torch or safetensors, a plain pickle of arrays, or what was read from one.

    Raises:
        UnsafeCheckpointError: Where the file asks for code to be run; names what it asks for.
        CheckpointError: Where the file is missing, damaged or holds no weights.
    """
    if isinstance(weights, Mapping):
        return _unwrapped(weights, "the given weights")
    path = Path(weights)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give the path of a file of weights.")
    if not path.is_file():
        raise CheckpointError(f"{path} is no file; give the path of a file of weights.")
    if is_plain_pickle(path):
        return _unwrapped(read_plain_pickle(path), str(path))
    return _unwrapped(_read_safetensors(path) if _is_safetensors(path) else _read_pickle(path), str(path))


def _is_safetensors(path: Path) -> bool:
    """Tell by the first bytes: the length of the header, and the brace that it begins with."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (start[8:] == b"{" and start[4:8] == bytes(4))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise CheckpointError(f"{path} is a safetensors file; install its reader: pip install safetensors") from None
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except Exception as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}. Fetch it again.") from error
    return tensors


def _harmless() -> list[Any]:
    """Return what pickles may name beyond torch's own list: numpy's plain arrays and numbers, none of which runs code.

    Arrays of objects, of text and of records stay refused.
    """
    import numpy as np
    from numpy._core import multiarray

    names: list[Any] = [np.ndarray, np.dtype, *(getattr(np.dtypes, f"{name}DType") for name in _NUMPY_TYPES)]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names += [(getattr(multiarray, name), f"{module}.{name}") for name in ("_reconstruct", "scalar")]
    return [*names, (_PassedOver, "mmengine.logging.history_buffer.HistoryBuffer")]


def _read_pickle(path: Path) -> Any:
    from lightning_pose_zoo.checkpoints import read_checkpoint

    with torch.serialization.safe_globals(_harmless()):
        return read_checkpoint(path)


def _unwrapped(content: Any, name: str) -> TrainedWeights:
    """Take the entries out of their nests, and the wrappers' prefixes off their names."""
    nests: list[str] = []
    inner = content
    while isinstance(inner, Mapping):
        nest = next((nest for nest in _NESTS if _holds_tensors(inner.get(nest))), None)
        if nest is None:
            break
        nests.append(nest)
        inner = inner[nest]
    state = {str(k): v for k, v in inner.items() if isinstance(v, Tensor)} if isinstance(inner, Mapping) else {}
    for counter in _COUNTERS:
        state.pop(counter, None)
    if not state:
        raise CheckpointError(
            f"{name} holds no weights; a dict of tensors or a checkpoint with 'state_dict' is needed."
        )
    said = (content.get(key) for key in ("hyper_parameters", "parts", "normalization"))
    return TrainedWeights(
        name,
        _without_wrappers(state),
        ".".join(nests),
        _skeleton_inside(content),
        *(value if isinstance(value, Mapping) else {} for value in said),
    )


def _holds_tensors(value: Any) -> bool:
    """Tell nests from settings that go by the same name."""
    if not isinstance(value, Mapping):
        return False
    return any(isinstance(v, Tensor) or (k in _NESTS and _holds_tensors(v)) for k, v in value.items())


def _without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = {re.sub(r"(^|(?<=\.))_orig_mod\.", "", key): value for key, value in state.items()}
    while prefix := next((wrapper for wrapper in _WRAPPERS if all(key.startswith(wrapper) for key in plain)), None):
        plain = {key.removeprefix(prefix): value for key, value in plain.items()}
    return plain


def _skeleton_inside(content: Mapping[str, Any]) -> Skeleton | None:
    """Return the skeleton that a checkpoint of this package or of mmpose describes itself by."""

    def inside(*keys: str) -> Any:
        value: Any = content
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    own = inside("hyper_parameters", "skeleton")
    if isinstance(own, Mapping):
        return Skeleton.from_dict(own)
    names = inside("meta", "dataset_meta", "keypoint_id2name")
    if isinstance(names, Mapping) and names:
        ordered = [str(names[key]) for key in sorted(names, key=int)]
        return Skeleton.from_names(str(inside("meta", "dataset_meta", "dataset_name") or "custom"), ordered)
    return None
