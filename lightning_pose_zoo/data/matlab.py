"""Reading MATLAB files of annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.errors import DatasetError

__all__ = ["read_matlab", "read_matlab_objects", "read_matlab_structs"]


def read_matlab(path: Path, variable: str) -> npt.NDArray[np.float64]:
    """Read one array of numbers from a MATLAB file.

    Args:
        path: The file, of any version before 7.3.
        variable: Name of the array.

    Returns:
        The array, of whatever shape it has.

    Raises:
        DatasetError: Where the file is missing or damaged, or has no such array of numbers.
    """
    value = _load(path, variable)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "buif":
        raise DatasetError(f"'{path}' has no array of numbers '{variable}'.")
    return value.astype(np.float64)


def read_matlab_structs(path: Path, variable: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """Read an array of structs from a MATLAB file.

    Args:
        path: The file, of any version before 7.3.
        variable: Name of the array.
        fields: The fields that are needed; others are left out.

    Returns:
        One dict for each struct, in the order of the array; strings are str, numbers and matrices are arrays.

    Raises:
        DatasetError: Where the file is missing or damaged, or has no such array with these fields.
    """
    value = _load(path, variable)
    present = (value.dtype.names if isinstance(value, np.ndarray) else None) or ()
    if missing := [field for field in fields if field not in present]:
        raise DatasetError(f"'{path}' has no array of structs '{variable}' with the fields {', '.join(missing)}.")
    return [{field: _content(struct[field]) for field in fields} for struct in value.reshape(-1)]


def read_matlab_objects(path: Path, variable: str) -> Any:
    """Read nested structs from a MATLAB file, as objects whose attributes are the fields; arrays of one are the one.

    Args:
        path: The file, of any version before 7.3.
        variable: Its name.

    Returns:
        The object; None where there is no such variable.

    Raises:
        DatasetError: Where the file is missing or damaged.
    """
    return _load(path, variable, squeeze_me=True, struct_as_record=False)


def _content(value: Any) -> Any:
    """Turn MATLAB's strings, (1,) arrays of str, into str."""
    is_text = isinstance(value, np.ndarray) and value.dtype.kind == "U" and value.size == 1
    return str(value.item()) if is_text else value


def _load(path: Path, variable: str, **form: bool) -> Any:
    import scipy.io

    try:
        content: dict[str, Any] = scipy.io.loadmat(str(path), variable_names=[variable], **form)
    except FileNotFoundError:
        raise DatasetError(f"'{path}' does not exist; check the root folder.") from None
    except NotImplementedError:
        raise DatasetError(f"'{path}' is a MATLAB 7.3 file; save it with '-v7' to have it read.") from None
    # A damaged file may raise anything, from zlib's errors to IndexError.
    except Exception as error:
        raise DatasetError(f"'{path}' is no MATLAB file, or a damaged one: {error}.") from error
    return content.get(variable)
