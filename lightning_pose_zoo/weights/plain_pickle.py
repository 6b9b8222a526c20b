"""Plain pickles of numpy arrays, as detectron2's model zoo has them; nothing in them can run code."""

from __future__ import annotations

import codecs
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_pose_zoo.errors import CheckpointError, UnsafeCheckpointError

__all__ = ["is_plain_pickle", "read_plain_pickle"]

_PICKLE = b"\x80"
# The number that torch's older files begin with, pickled.
_OLD_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"


def is_plain_pickle(path: Path) -> bool:
    """Tell by the first bytes whether a file is a pickle that torch did not write."""
    with path.open("rb") as file:
        start = file.read(20)
    return start.startswith(_PICKLE) and not start[2:].startswith(_OLD_TORCH)


class _Arrays(pickle.Unpickler):
    """Knows nothing but arrays, and what they are made of."""

    def find_class(self, module: str, name: str) -> Any:
        from numpy._core import multiarray

        known: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("collections", "OrderedDict"): OrderedDict,
            ("_codecs", "encode"): codecs.encode,
        }
        for place in ("numpy.core.multiarray", "numpy._core.multiarray"):
            known |= {(place, part): getattr(multiarray, part) for part in ("_reconstruct", "scalar")}
        if (module, name) not in known:
            raise UnsafeCheckpointError(f"it asks for '{module}.{name}'")
        return known[module, name]


def read_plain_pickle(path: Path) -> Any:
    """Read a pickle of dicts, lists and arrays; numeric arrays become tensors.

    Raises:
        UnsafeCheckpointError: Where the file asks for anything else; names it.
        CheckpointError: Where it is damaged.
    """
    try:
        with path.open("rb") as file:
            return _tensors(_Arrays(file, encoding="latin1").load())
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(
            f"'{path}' was not read: {error}, which could run code, and a file of weights needs none. Take it from its "
            "publisher; if you trust it, save its arrays alone to a new file, on a machine that may be lost."
        ) from error
    except Exception as error:  # damaged pickles end in errors of any kind
        raise CheckpointError(f"'{path}' is damaged or no pickle of arrays: {error}. Fetch it again.") from error


def _tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, dict):
        return {key: _tensors(item) for key, item in value.items()}
    return value
