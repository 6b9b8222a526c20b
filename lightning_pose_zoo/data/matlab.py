"""Reading MATLAB files of annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pose_zoo.errors import DatasetError

__all__ = ["read_matlab"]


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
    import scipy.io

    try:
        content: dict[str, Any] = scipy.io.loadmat(str(path), variable_names=[variable])
    except FileNotFoundError:
        raise DatasetError(f"'{path}' does not exist; check the root folder.") from None
    except NotImplementedError:
        raise DatasetError(f"'{path}' is a MATLAB 7.3 file; save it with '-v7' to have it read.") from None
    # A damaged file may raise anything, from zlib's errors to IndexError.
    except Exception as error:
        raise DatasetError(f"'{path}' is no MATLAB file, or a damaged one: {error}.") from error
    value = content.get(variable)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "buif":
        raise DatasetError(f"'{path}' has no array of numbers '{variable}'.")
    return value.astype(np.float64)
